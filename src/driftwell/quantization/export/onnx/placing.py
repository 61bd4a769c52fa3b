"""Packed weights put in the places of a graph's open inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import torch

from driftwell.core.errors import require
from driftwell.quantization.export.onnx.integers import Integers, integers_of
from driftwell.quantization.export.onnx.nodes import (
    MICROSOFT,
    block_of,
    constant,
    decoded,
    looked_up,
    lookup,
    lookup_constants,
    node,
    product,
    product_constants,
    shift_constants,
    shifted,
)
from driftwell.quantization.export.onnx.tracing import WEIGHT
from driftwell.quantization.export.onnx.twin import Weight

Weights = Literal["nbits", "qdq"]


@final
@dataclass(frozen=True, eq=False)
class _Use:
    """One place where a weight is read: the node, which input, and whether transposed before."""

    node: Any
    place: int
    transposed: bool


def place(
    model: Any, weights: tuple[Weight, ...], form: Weights, block: int, in_loops: bool = False
) -> dict[str, str]:
    """Write every packed weight into an `onnx_ir.Model`; by name, the operators that read it.

    A product x W^T becomes MatMulNBits; v W, the reverse one, too, with the scales of W's rows
    multiplied into v, so that both read whole numbers; an embedding GatherBlockQuantized. What is
    used otherwise, and everything if `form` is ``"qdq"``, is decoded by DequantizeLinear; so is
    what a loop reads, once before it, unless `in_loops`. A grid with uneven levels is looked up in
    its table.

    Args:
        model: with open inputs.
        weights: what goes there.
        form: see above.
        block: columns that share a scale in MatMulNBits, at most.
        in_loops: whether products inside loops may be MatMulNBits.
    """
    graph = model.graph
    said = {}
    for index, weight in enumerate(weights):
        (opened,) = (v for v in graph.inputs if v.name == f"{WEIGHT}{index}")
        said[weight.name] = _put(graph, opened, weight, form, block, in_loops)
        graph.inputs.remove(opened)
    domains = {n.domain for n in graph.all_nodes()}
    if MICROSOFT in domains:
        model.opset_imports[MICROSOFT] = 1
    # what was put into a loop's body may be called as something outside
    require("onnx_ir.passes.common", "onnx", "to write ONNX graphs").NameFixPass()(model)
    return said


def _put(graph: Any, opened: Any, weight: Weight, form: Weights, block: int, in_loops: bool) -> str:
    name, whole = weight.name, integers_of(weight.packed)
    operators = []
    kept: dict[str, Any] = {}
    if whole is not None and form == "nbits":
        for use in _uses(opened):
            if use.node.graph is not graph and not in_loops:
                continue
            operator = _specialised(graph, use, weight, whole, block, kept)
            if operator:
                operators.append(operator)
    if opened.uses():
        operators.append(_decode(graph, opened, weight, whole))
    return ", ".join(sorted(set(operators))) or f"{name} is not read"


def _specialised(
    graph: Any, use: _Use, weight: Weight, whole: Integers, block: int, kept: dict[str, Any]
) -> str:
    """Replace one use by an operator that reads packed weights; its name, or "" where none can."""
    kind = use.node.op_type
    if kind in ("MatMul", "Gemm") and use.place == 1 and len(weight.packed.shape) == 2:
        if kind == "Gemm" and not _is_plain(use.node):
            return ""
        turned = use.transposed != bool(_attribute(use.node, "transB", 0))
        if turned != weight.transposed:
            return _forward(graph, use, weight.name, whole, block, kept)
        return _reverse(graph, use, weight.name, whole, block, kept)
    plain = use.place == 0 and not use.transposed and not weight.transposed
    if kind == "Gather" and plain and _attribute(use.node, "axis", 0) == 0:
        return _rows(graph, use, weight.name, whole, kept)
    return ""


def _forward(
    graph: Any, use: _Use, name: str, whole: Integers, block: int, kept: dict[str, Any]
) -> str:
    size = block_of(whole, block)
    if size is None:
        return ""
    if "forward" not in kept:
        kept["forward"] = product_constants(graph, name, whole, size)
        kept["shift"] = shift_constants(graph, name, whole)
    x = use.node.inputs[0]
    multiplied = product(x, kept["forward"], whole, size)
    rest = shifted(x, multiplied.outputs[0], kept["shift"], whole)
    _instead(use.node, [multiplied, *rest])
    return f"MatMulNBits {whole.bits} bits block {size}"


def _reverse(
    graph: Any, use: _Use, name: str, whole: Integers, block: int, kept: dict[str, Any]
) -> str:
    """v W = (v r) (C - z), W = diag(r) (C - z 1^T): MatMulNBits on C^T with one scale, one zero."""
    if whole.groups > 1:
        return ""
    usual = 1 << (whole.bits - 1)
    rows, columns = whole.codes.shape
    one = Integers(
        whole.codes.T.contiguous(), torch.ones(columns, 1),
        torch.full((columns, 1), usual, dtype=torch.uint8), rows, whole.bits,
    )  # fmt: skip
    size = block_of(one, block)
    if size is None:
        return ""
    if "reverse" not in kept:
        kept["reverse"] = product_constants(graph, f"{name}.T", one, size)
        kept["rows"] = constant(graph, f"{name}.rows", whole.scale[:, 0])
        rest = usual - whole.zero.float()
        if whole.shift is not None:
            rest = rest + whole.shift / whole.scale
        kept["rest"] = constant(graph, f"{name}.rest", rest) if bool((rest != 0).any()) else None
    scaled = node("Mul", [use.node.inputs[0], kept["rows"]])
    parts = [scaled, product(scaled.outputs[0], kept["reverse"], one, size)]
    if kept["rest"] is not None:
        shift = node("MatMul", [scaled.outputs[0], kept["rest"]])
        parts += [shift, node("Add", [parts[-1].outputs[0], shift.outputs[0]])]
    _instead(use.node, parts)
    return f"MatMulNBits {whole.bits} bits block {size} of the transposed"


def _rows(graph: Any, use: _Use, name: str, whole: Integers, kept: dict[str, Any]) -> str:
    width = whole.codes.shape[1]
    if whole.shift is not None and whole.groups > 1:
        return ""
    size = next((b for b in (256, 128, 64, 32, 16) if (
        width % b == 0 and whole.group_size % b == 0)), None)  # fmt: skip
    if size is None:
        return ""
    if "rows_of" not in kept:
        kept["rows_of"] = lookup_constants(graph, f"{name}.table", whole, size)
        if whole.shift is not None:
            kept["shifts"] = constant(graph, f"{name}.shifts", whole.shift)
    index = use.node.inputs[1]
    parts = [lookup(kept["rows_of"], index, whole, size)]
    if whole.shift is not None:
        picked = node("Gather", [kept["shifts"], index], {"axis": 0})
        parts += [picked, node("Add", [parts[0].outputs[0], picked.outputs[0]])]
    _instead(use.node, parts)
    return f"GatherBlockQuantized {max(whole.bits, 4)} bits block {size}"


def _decode(graph: Any, opened: Any, weight: Weight, whole: Integers | None) -> str:
    """Compute the float weight at the head of the graph for all uses that are left."""
    name = f"{weight.name}.decoded" if weight.name in graph.initializers else weight.name
    shape = tuple(weight.packed.shape)
    if whole is None:
        parts, said = looked_up(graph, name, weight.packed), "Gather from the table of levels"
    else:
        parts = decoded(graph, name, whole, shape)
        said = f"DequantizeLinear {max(whole.bits, 4)} bits"
    if weight.transposed:
        parts.append(node("Transpose", [parts[-1].outputs[0]], {"perm": [1, 0]}))
    out = parts[-1].outputs[0]
    out.shape, out.type = opened.shape, opened.type
    _ir_convenience().replace_all_uses_with(opened, out)
    first = next(iter(graph), None)
    if first is None:
        graph.extend(parts)
    else:
        graph.insert_before(first, parts)
    return said


def _uses(opened: Any) -> list[_Use]:
    """Where a value is read, through nodes that transpose it."""
    found = []
    for use in list(opened.uses()):
        if use.node.op_type == "Transpose" and _attribute(use.node, "perm", None) in (
            (1, 0),
            [1, 0],
        ):
            turned = use.node.outputs[0]
            found += [_Use(u.node, u.idx, True) for u in list(turned.uses())]
        else:
            found.append(_Use(use.node, use.idx, False))
    return found


def _instead(old: Any, parts: list[Any]) -> None:
    """Put `parts` in the place of the node `old`, with the addend of a Gemm."""
    addend = old.inputs[2] if old.op_type == "Gemm" and len(old.inputs) > 2 else None
    if addend is not None:
        parts = [*parts, node("Add", [parts[-1].outputs[0], addend])]
    turned = [v.producer() for v in old.inputs if v is not None and v.producer() is not None]
    _ir_convenience().replace_nodes_and_values(
        old.graph, old, [old], parts, old.outputs, parts[-1].outputs
    )
    for before in turned:
        out = before.outputs[0]
        # a transposed copy that nothing reads any more
        if before.op_type == "Transpose" and not out.uses() and not out.is_graph_output():
            before.graph.remove(before, safe=True)


def _is_plain(gemm: Any) -> bool:
    usual = (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
    return all(_attribute(gemm, name, value) == value for name, value in usual)


def _attribute(of: Any, name: str, otherwise: Any) -> Any:
    held = of.attributes.get(name)
    return otherwise if held is None else held.value


def _ir_convenience() -> Any:
    return require("onnx_ir.convenience", "onnx", "to write ONNX graphs")
