"""Products with weights of 2 to 8 bits against float32 and bfloat16, weights read from memory.

    python bench/low_bit_products.py                 1, 8 and 256 rows of x
    python bench/low_bit_products.py --crossovers    the constants of execution/selection.py

Weights are rotated among copies larger than the caches together; ratios are of the best times of
variants run in turn, so that another process on the machine disturbs all alike. Peers are
onnxruntime's MatMulNBits and torchao, where they are installed.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timing import (
    Goal,
    Timing,
    Variant,
    at_least,
    duration,
    interleave,
    options,
    say_goals,
    say_machine,
    table,
    write_results,
)
from torch import Tensor
from torch.nn import functional as F

from driftwell.quantization.execution import Activations, Executor, kernels
from driftwell.quantization.execution.kernel import Kernel
from driftwell.quantization.execution.selection import KERNELS
from driftwell.quantization.execution.self_test import verdict
from driftwell.quantization.formats import Format, NormalFloat, Packed, Uniform

SHAPES = ((1, 4096, 4096), (8, 4096, 4096), (256, 1024, 1024))
FORMATS: dict[str, Format] = {
    "8 bits": Uniform(8), "4 bits": Uniform(4), "4 bits, groups of 64": Uniform(4, per="group",
    group_size=64), "NF4, groups of 64": NormalFloat(4), "3 bits": Uniform(3), "2 bits": Uniform(2),
}  # fmt: skip
ACTIVATIONS: tuple[Activations, ...] = ("int8", "float")
CROSSOVER_ROWS = (1, 2, 4, 6, 8, 10, 12, 16, 24, 32, 64, 128)
CROSSOVER_WEIGHTS = ((4096, 4096), (1024, 1024), (256, 256), (64, 64))
ROTATED_BYTES = 2.0e8
FLOAT32, MEDIUM, BFLOAT16 = "float32", "float32, medium", "bfloat16"


def main(given: list[str] | None = None) -> int:
    more = ("--crossovers", {"action": "store_true", "help": "rows up to which a kernel pays"})
    chosen = options(__doc__, more, given=given)
    say_machine()
    for row in kernels():
        print(f"{'' if row.available else 'not used: '}{row.name}: {row.why}")
    print()
    if chosen.crossovers:
        _say_crossovers(duration(chosen, 3.0, 0.05))
        return 0
    found = {}
    for shape in SHAPES:
        variants = [*_floats(*shape), *_ours(*shape), *_peers(*shape)]
        found[shape] = interleave(variants, seconds=duration(chosen, 15.0, 0.5), least=5)
        _say(shape, found[shape])
    goals = _goals(found)
    say_goals(goals)
    measured = {
        " x ".join(map(str, shape)): {
            name: {"median": 1e3 * t.median, "best": 1e3 * t.best} for name, t in times.items()
        }
        for shape, times in found.items()
    }
    write_results("low_bit_products", {"milliseconds": measured}, goals)
    return 0


# ---------------------------------------------------------------- variants


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _rotated(call: Callable[[Any], Tensor], copies: Sequence[Any]) -> Callable[[], Tensor]:
    turn = itertools.cycle(copies)

    def once() -> Tensor:
        with torch.no_grad():
            return call(next(turn))

    return once


def _copies(one: Callable[[], Any], nbytes: float) -> list[Any]:
    return [one() for _ in range(min(max(2, int(ROTATED_BYTES / nbytes)), 100))]


def _floats(rows: int, columns: int, outputs: int) -> list[Variant]:
    x, weight = _random(rows, columns), _random(outputs, columns)
    half, half_weight = x.bfloat16(), weight.bfloat16()
    wide = _copies(weight.clone, 4 * weight.numel())
    narrow = _copies(half_weight.clone, 2 * weight.numel())
    return [
        Variant(FLOAT32, _rotated(lambda w: F.linear(x, w), wide)),
        Variant(MEDIUM, _rotated(lambda w: F.linear(x, w), wide), precision="medium"),
        Variant(BFLOAT16, _rotated(lambda w: F.linear(half, w), narrow)),
    ]


def _ours(rows: int, columns: int, outputs: int) -> list[Variant]:
    x, weight, variants = _random(rows, columns), _random(outputs, columns), []
    for name, format in FORMATS.items():
        packed = format.encode(weight).pack()
        for activations in ACTIVATIONS:
            executor = Executor(packed, activations)
            executor(x)  # prepares what it reads
            copies = _copies(lambda it=executor: copy.deepcopy(it), packed.nbytes)
            for each in copies:  # a copy looks at its buffers anew
                each(x)
            path = executor.path(rows).partition(":")[0]
            label = f"{name}, {activations} x ({path})"
            variants.append(Variant(label, _rotated(lambda executor: executor(x), copies)))
    return variants


def _peers(rows: int, columns: int, outputs: int) -> list[Variant]:
    return [*_onnxruntime(rows, columns, outputs), *_torchao(rows, columns, outputs)]


def _onnxruntime(rows: int, columns: int, outputs: int) -> list[Variant]:
    """MatMulNBits with activations of 8 bits, its fastest level, in blocks of 128."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return []
    x, variants = _random(rows, columns).numpy(), []
    for bits in (8, 4, 2):
        session = _session(onnx, onnxruntime, bits, columns, outputs)
        copies = _copies(lambda make=session: make(), outputs * columns * bits / 8)
        call = _rotated(lambda s: s.run(None, {"x": x}), copies)
        variants.append(Variant(f"onnxruntime MatMulNBits, {bits} bits, int8 x", call))
    return variants


def _session(onnx: Any, runtime: Any, bits: int, columns: int, outputs: int) -> Callable[[], Any]:
    block = 128
    blocks = columns // block
    codes = torch.randint(0, 256, (outputs, blocks, block * bits // 8), dtype=torch.uint8)
    scales = torch.rand(outputs, blocks) + 0.5
    make, tensor = onnx.helper, onnx.numpy_helper.from_array
    node = make.make_node(
        "MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", K=columns,
        N=outputs, bits=bits, block_size=block, accuracy_level=4,
    )  # fmt: skip
    graph = make.make_graph(
        [node], "product",
        [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, columns])],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, outputs])],
        [tensor(codes.numpy(), "codes"), tensor(scales.numpy().reshape(outputs, -1), "scales")],
    )  # fmt: skip
    versions = [make.make_opsetid("", 21), make.make_opsetid("com.microsoft", 1)]
    content = make.make_model(graph, opset_imports=versions, ir_version=10).SerializeToString()
    how = runtime.SessionOptions()
    how.intra_op_num_threads = torch.get_num_threads()
    how.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return lambda: runtime.InferenceSession(content, how, providers=["CPUExecutionProvider"])


def _torchao(rows: int, columns: int, outputs: int) -> list[Variant]:
    """Its int8 layers, eager; one copy, which a cache may hold, because they take so long."""
    try:
        from torchao.quantization import (
            Int8DynamicActivationInt8WeightConfig,
            Int8WeightOnlyConfig,
            quantize_,
        )
    except ImportError:
        return []
    x, variants = _random(rows, columns), []
    for name, settings in (
        ("8 bits, int8 x", Int8DynamicActivationInt8WeightConfig()),
        ("8 bits, float x", Int8WeightOnlyConfig()),
    ):
        model = torch.nn.Sequential(torch.nn.Linear(columns, outputs, bias=False))
        quantize_(model, settings)
        variants.append(Variant(f"torchao, {name}", _rotated(lambda m: m(x), [model])))
    return variants


# ---------------------------------------------------------------- what came out


def _say(shape: tuple[int, int, int], found: dict[str, Timing]) -> None:
    rows = [
        [name, 1e3 * t.best, 1e3 * t.median, found[FLOAT32].best / t.best,
         found[BFLOAT16].best / t.best, t.repeats]
        for name, t in found.items()
    ]  # fmt: skip
    head = ["", "ms, best", "median", "x float32", "x bfloat16", "repeats"]
    print(table(f"{shape[0]} rows of x, weight {shape[2]} x {shape[1]}", head, rows), end="\n\n",
          flush=True)  # fmt: skip


def _goals(found: dict[tuple[int, int, int], dict[str, Timing]]) -> list[Goal]:
    def against(baseline: str, shape: int, start: str) -> float | None:
        times = found[SHAPES[shape]]
        ours = [t.best for name, t in times.items() if name.startswith(start)]
        return times[baseline].best / ours[0] if ours else None

    slowest = min(
        times[BFLOAT16].best / t.best
        for times in found.values() for name, t in times.items() if " x (" in name
    )  # fmt: skip
    bounds = (
        ("1 row", 0, "8 bits, int8 x", FLOAT32, 6.0),
        ("1 row", 0, "8 bits, float x", FLOAT32, 6.0),
        ("1 row", 0, "4 bits, int8 x", FLOAT32, 8.0),
        ("1 row", 0, "4 bits, int8 x", BFLOAT16, 4.0),
        ("1 row", 0, "4 bits, float x", FLOAT32, 8.0),
        ("1 row", 0, "4 bits, float x", BFLOAT16, 4.0),
        ("256 rows", 2, "8 bits, int8 x", FLOAT32, 5.0),
        ("256 rows", 2, "8 bits, int8 x", BFLOAT16, 1.3),
    )
    goals = [
        at_least(f"{rows}, {what}: >= {bound:g}x {baseline}", against(baseline, at, what), bound)
        for rows, at, what, baseline, bound in bounds
    ]
    return [*goals, at_least("no path slower than 0.9x bfloat16", slowest, 0.9)]


# ---------------------------------------------------------------- crossovers


def _say_crossovers(seconds: float) -> None:
    """Speed of each kernel in units of bfloat16's, by rows of x."""
    for columns, outputs in CROSSOVER_WEIGHTS:
        rows = []
        for name, format in FORMATS.items():
            packed = format.encode(_random(outputs, columns)).pack()
            for kernel in KERNELS:
                if verdict(kernel).available and not kernel.refuses(packed):
                    rows.append([f"{name}: {kernel.name}", *_ratios(kernel, packed, seconds)])
        head = ["rows of x", *map(str, CROSSOVER_ROWS)]
        print(table(f"{outputs} x {columns}: x bfloat16", head, rows), end="\n\n", flush=True)


def _ratios(kernel: Kernel, packed: Packed, seconds: float) -> list[float]:
    weight, layout = packed.decode().bfloat16(), kernel.prepare(packed)
    narrow = _copies(weight.clone, 2 * weight.numel())
    layouts = _copies(lambda: copy.deepcopy(layout), weight.numel())
    ratios = []
    for rows in CROSSOVER_ROWS:
        x = _random(rows, weight.shape[1])
        variants = [
            Variant("it", _rotated(lambda layout, x=x: kernel.run(x, layout), layouts)),
            Variant(BFLOAT16, _rotated(lambda w, x=x.bfloat16(): F.linear(x, w), narrow)),
        ]
        found = interleave(variants, seconds=seconds, least=9, most=200)
        ratios.append(found[BFLOAT16].best / found["it"].best)
    return ratios


if __name__ == "__main__":
    sys.exit(main())
