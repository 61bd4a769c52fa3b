"""`export_onnx`: a quantized model as a graph with low-bit weights, checked in onnxruntime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from driftwell.core.atomic import write_atomically
from driftwell.core.errors import InvalidInput, require
from driftwell.quantization.export.onnx.placing import Weights, place
from driftwell.quantization.export.onnx.report import OnnxReport, agreement
from driftwell.quantization.export.onnx.runtime import milliseconds, run_session, session_of
from driftwell.quantization.export.onnx.tracing import traced
from driftwell.quantization.export.onnx.twin import Twin, float_twin

OPSETS = (21, 22, 23)
BLOCKS = (16, 32, 64, 128, 256)


def export_onnx(
    model: nn.Module,
    inputs: Sequence[Tensor],
    folder: str | Path,
    *,
    name: str = "model",
    weights: Weights = "nbits",
    block: int = 128,
    in_loops: bool = False,
    opset: int = 21,
    test_inputs: Sequence[Tensor] | None = None,
    reference: Callable[..., Any] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> OnnxReport:
    """Write a quantized model as an ONNX graph with its weights in few bits, and check it.

    The graph is that of the float model with the decoded weights; its loops, such as a solve with
    `WhileLoop()`, stay loops. Weights then become packed constants. ``weights="nbits"``: products
    run in onnxruntime's low-bit kernels (MatMulNBits, GatherBlockQuantized), which round their
    inputs to 8 bits block by block; widths of 1 to 8 bits go into the next of 2, 4 and 8.
    ``"qdq"``: plain ONNX of opset 21, every weight decoded by DequantizeLinear, codes in 4 or 8
    bits, products in float. The batch axis is free. The graph is then run in onnxruntime on the
    test inputs and compared with the model in torch; nothing is written unless it runs.

    Args:
        model: quantized (a float one is written in float).
        inputs: an example of its inputs, batch first, two rows or more.
        folder: where `name`.onnx and report.json go; made if it is absent.
        name: of the file.
        weights: ``"nbits"`` or ``"qdq"``.
        block: columns that share a scale in MatMulNBits, at most; 128 is fastest.
        in_loops: whether products inside loops round their inputs to 8 bits too. A solve then
            seldom reaches a relative tolerance below 1e-2, and takes its whole budget.
        opset: version of the operators, 21 or later.
        test_inputs: what outputs are compared on; `inputs` if not given.
        reference: gives the outputs to compare with; the model itself if not given.
        input_names: names in the graph.
        output_names: names in the graph.

    Raises:
        InvalidInput: settings that cannot be, inputs that do not fit, or a model that ONNX cannot
            carry; nothing is written.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.

    Example:
        >>> import tempfile
        >>> from driftwell.quantization.post_training import Inputs, quantize
        >>> x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
        >>> small = quantize(nn.Sequential(nn.Linear(32, 8)), Inputs([x])).model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_onnx(small, [x], folder)
        >>> report.nodes["MatMulNBits"], report.max_difference < 0.1
        (1, True)
    """
    _check(inputs, name, weights, block, opset)
    ir = require("onnx_ir", "onnx", "to write ONNX graphs")
    twin = float_twin(model)
    given = list(input_names or (f"input_{i}" for i in range(len(inputs))))
    tests = list(inputs if test_inputs is None else test_inputs)
    with torch.no_grad():
        wanted = _outputs((reference or model.eval())(*tests))
    names = list(output_names or (f"output_{i}" for i in range(len(wanted))))
    graph = traced(twin, inputs, opset=opset, input_names=given, output_names=names)
    operators = place(graph, twin.weights, weights, block, in_loops)
    _strip(graph)
    data = ir.to_proto(graph).SerializeToString()
    session = session_of(data)
    found = run_session(session, tests)
    path = Path(folder) / f"{name}.onnx"
    report = _report(path, found, wanted, names, data, twin, operators, graph, session, tests)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    report.write(path.parent / "report.json")
    return report


def _report(
    path: Path, found: list[Tensor], wanted: list[Tensor], names: list[str], data: bytes,
    twin: Twin, operators: dict[str, str], graph: Any, session: Any, tests: list[Tensor],
) -> OnnxReport:  # fmt: skip
    one, other = found[0], wanted[0].to(found[0])
    if one.shape != other.shape:
        raise InvalidInput(
            f"the graph gives outputs of shape {tuple(one.shape)}, the model "
            f"{tuple(other.shape)}: the model depends on more than its inputs"
        )
    facts = {}
    for key, a, b in zip(names[1:], found[1:], wanted[1:], strict=False):
        facts[f"mean of {key} in the graph"] = float(a.double().mean())
        facts[f"mean of {key} in torch"] = float(b.double().mean())
    return OnnxReport(
        path=path,
        max_difference=float((one - other).abs().max()),
        scale=float(other.double().square().mean().sqrt()),
        argmax_agreement=agreement(one, other),
        bytes=len(data),
        float_bytes=sum(4 * p.numel() for p in twin.model.parameters()),
        milliseconds=milliseconds(session, tests),
        rows=len(tests[0]),
        operators=operators,
        nodes=dict(sorted(Counter(node.op_type for node in graph.graph.all_nodes()).items())),
        facts=facts,
    )


def _outputs(value: Any) -> list[Tensor]:
    """Tensors of a model's answer, in the order in which the graph gives them."""
    flat = torch.utils._pytree.tree_leaves(value)
    if not flat or not all(isinstance(part, Tensor) for part in flat):
        kinds = ", ".join(sorted({type(part).__name__ for part in flat}))
        raise InvalidInput(
            f"a model to export answers with tensors, not {kinds}: wrap it in a module that "
            "returns the tensors you want"
        )
    return list(flat)


def _check(inputs: Sequence[Tensor], name: str, weights: str, block: int, opset: int) -> None:
    if not inputs or not all(isinstance(x, Tensor) and x.ndim for x in inputs):
        raise InvalidInput("inputs are tensors with a batch axis, in a list")
    if len({len(x) for x in inputs}) != 1 or len(inputs[0]) < 2:
        raise InvalidInput(
            "example inputs have one batch size of 2 or more (of 1, the exporter would keep it), "
            f"got {[len(x) for x in inputs]}"
        )
    if weights not in ("nbits", "qdq"):
        raise InvalidInput(f'weights must be "nbits" or "qdq", got {weights!r}')
    if block not in BLOCKS:
        raise InvalidInput(f"block must be one of {', '.join(map(str, BLOCKS))}, got {block}")
    if opset not in OPSETS:
        raise InvalidInput(
            f"opset must be one of {', '.join(map(str, OPSETS))}, which have 4-bit integers, "
            f"got {opset}"
        )
    if not name.isidentifier():
        raise InvalidInput(f"{name!r} cannot name a file everywhere: take letters, digits and _")


def _strip(model: Any) -> None:
    """Leave out where in the Python code a node came from."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
