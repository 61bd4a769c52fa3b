"""Nodes of a graph that read packed weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from driftwell.core.errors import require
from driftwell.quantization.export.onnx.integers import Integers
from driftwell.quantization.formats import Packed, pack_codes

LEAST = 16
"""Columns of the smallest block that runtimes take."""
MICROSOFT = "com.microsoft"
CONTRIBUTED = ("MatMulNBits", "GatherBlockQuantized")
"""Operators of onnxruntime's own domain."""


def constant(graph: Any, name: str, value: Any) -> Any:
    """A named constant of the main graph, from a tensor or an array; its `onnx_ir.Value`."""
    ir = _ir()
    array = value.detach().cpu().contiguous().numpy() if isinstance(value, Tensor) else value
    tensor = ir.tensor(array, name=name)
    made = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(made)
    return made


def node(operator: str, inputs: list[Any], about: Mapping[str, Any] | None = None) -> Any:
    """One `onnx_ir.Node` with one output and attributes `about`."""
    domain = MICROSOFT if operator in CONTRIBUTED else ""
    return _ir().node(operator, inputs, attributes=dict(about or {}), domain=domain)


def block_of(weight: Integers, wish: int) -> int | None:
    """Columns a block: at most `wish`, whole within the weight's groups; None where none is."""
    columns = weight.codes.shape[1]
    if weight.scale.shape[1] > 1:
        size = weight.group_size
        fitting = [b for b in (256, 128, 64, 32, 16) if b <= max(wish, LEAST) and size % b == 0]
        return fitting[0] if fitting else None
    block = wish
    while block > LEAST and block >= 2 * columns:
        block //= 2
    return block


def product_constants(graph: Any, name: str, weight: Integers, block: int) -> list[Any]:
    """What MatMulNBits reads of W (N, K): codes (N, blocks, bytes), scales, zeros."""
    rows, columns = weight.codes.shape
    blocks = -(-columns // block)
    first = torch.arange(blocks) * block // weight.group_size
    scale, zero = weight.scale[:, first], weight.zero[:, first]
    codes = zero.repeat_interleave(block, dim=1)
    codes[:, :columns] = weight.codes
    data = pack_codes(codes, weight.bits).reshape(rows, blocks, block * weight.bits // 8)
    held = [constant(graph, f"{name}.codes", data), constant(graph, f"{name}.scale", scale)]
    if bool((zero != 1 << (weight.bits - 1)).any()):
        held.append(constant(graph, f"{name}.zero", pack_codes(zero, weight.bits)))
    return held


def product(x: Any, held: list[Any], weight: Integers, block: int) -> Any:
    """x C^T by the runtime's low-bit kernel, with inputs in 8 bits block by block."""
    rows, columns = weight.codes.shape
    about = {
        "K": columns, "N": rows, "bits": weight.bits, "block_size": block, "accuracy_level": 4,
    }  # fmt: skip
    return node("MatMulNBits", [x, *held], about)


def shift_constants(graph: Any, name: str, weight: Integers) -> list[Any]:
    """What the term of the shifts needs: shifts (G, N), the axis, and a shape for groups."""
    if weight.shift is None:
        return []
    held = [
        constant(graph, f"{name}.shift", weight.shift.T.contiguous()),
        constant(graph, f"{name}.axis", _shape(-1)),
    ]
    if weight.groups > 1:
        held.append(constant(graph, f"{name}.in", _shape(-1, weight.groups, weight.group_size)))
    return held


def shifted(x: Any, done: Any, held: list[Any], weight: Integers) -> list[Any]:
    """Nodes that add sum_g (sum of x over group g) shift[:, g] to the product `done`."""
    if not held:
        return []
    shift, axis, *into = held
    parts = []
    if into:
        parts.append(node("Reshape", [x, into[0]]))
        x = parts[-1].outputs[0]
    total = node("ReduceSum", [x, axis], {"keepdims": 0 if into else 1})
    term = node("MatMul" if into else "Mul", [total.outputs[0], shift])
    parts += [total, term]
    if into:
        whole = node("Shape", [done])
        parts += [whole, node("Reshape", [term.outputs[0], whole.outputs[0]])]
    return [*parts, node("Add", [done, parts[-1].outputs[0]])]


def lookup_constants(graph: Any, name: str, weight: Integers, block: int) -> list[Any]:
    """What GatherBlockQuantized reads of a table."""
    first = torch.arange(weight.codes.shape[1] // block) * block // weight.group_size
    kind = "uint4" if weight.bits <= 4 else "uint8"
    return [
        constant(graph, f"{name}.codes", _small(weight.codes, kind)),
        constant(graph, f"{name}.scale", weight.scale[:, first]),
        constant(graph, f"{name}.zero", _small(weight.zero[:, first], kind)),
    ]


def lookup(held: list[Any], index: Any, weight: Integers, block: int) -> Any:
    """Rows of a table, decoded as they are read."""
    codes, scale, zero = held
    bits = 4 if weight.bits <= 4 else 8
    about = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": bits}
    return node("GatherBlockQuantized", [codes, index, scale, zero], about)


def decoded(graph: Any, name: str, weight: Integers, shape: tuple[int, ...]) -> list[Any]:
    """Nodes of the portable form, the last of which gives the weight in float."""
    kind = "uint4" if weight.bits <= 4 else "uint8"
    grouped = weight.groups > 1
    codes = weight.codes if grouped else weight.codes.reshape(shape)
    scale, zero = (v if grouped else v[:, 0] for v in (weight.scale, weight.zero))
    inputs = [
        constant(graph, f"{name}.codes", _small(codes, kind)),
        constant(graph, f"{name}.scale", scale),
        constant(graph, f"{name}.zero", _small(zero, kind)),
    ]
    about: dict[str, Any] = {"axis": 1, "block_size": weight.group_size} if grouped else {"axis": 0}
    parts = [node("DequantizeLinear", inputs, about)]

    def then(operator: str, key: str, value: Any) -> None:
        held = constant(graph, f"{name}.{key}", value)
        parts.append(node(operator, [parts[-1].outputs[0], held]))

    if weight.shift is not None and grouped:
        rows, groups = weight.scale.shape
        then("Reshape", "groups", _shape(rows, groups, weight.group_size))
        then("Add", "shift", weight.shift[..., None])
    elif weight.shift is not None:
        then("Add", "shift", weight.shift.reshape(-1, *(1 for _ in shape[1:])))
    if grouped and (len(shape) != 2 or weight.shift is not None):
        then("Reshape", "shape", _shape(*shape))
    return parts


def looked_up(graph: Any, name: str, packed: Packed) -> list[Any]:
    """Nodes that look the levels of an uneven grid up, the last of which gives the weight."""
    grid, (rows, columns) = packed.grid, (packed.shape[0], packed.columns)
    codes = packed.unpack().codes
    levels = constant(graph, f"{name}.levels", grid.levels.float())
    index = constant(graph, f"{name}.codes", _small(codes, "uint4" if grid.bits <= 4 else "uint8"))
    groups = grid.scale.shape[1]
    scale = grid.scale.float().expand(rows, groups)[..., None]
    zero = grid.zero.float().expand(rows, groups)[..., None]
    wide = node("Cast", [index], {"to": _ir().DataType.INT32})
    level = node("Gather", [levels, wide.outputs[0]], {"axis": 0})
    parts = [wide, level]

    def then(operator: str, key: str, value: Any) -> None:
        held = constant(graph, f"{name}.{key}", value)
        parts.append(node(operator, [parts[-1].outputs[0], held]))

    then("Reshape", "groups", _shape(rows, groups, columns // groups))
    if bool((zero != 0).any()):
        then("Sub", "zero", zero)
    then("Mul", "scale", scale)
    then("Reshape", "shape", _shape(*packed.shape))
    return parts


def _shape(*sizes: int) -> Any:
    return numpy.array(sizes, dtype=numpy.int64)


def _small(codes: Tensor, kind: str) -> Any:
    """An array of 4 or 8 bits an entry."""
    array = codes.contiguous().numpy()
    if kind == "uint8":
        return array
    types = require("ml_dtypes", "onnx", "to write ONNX graphs")
    return array.astype(types.uint4)


def _ir() -> Any:
    return require("onnx_ir", "onnx", "to write ONNX graphs")
