"""The compiled products: codes are read in b bits and never decoded to memory as floats."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from driftwell.core import native
from driftwell.quantization.execution.kernel import Activations, Kernel
from driftwell.quantization.execution.panels import (
    LANES,
    UNIT,
    Panels,
    for_floats,
    for_integers,
    has_integer_levels,
)
from driftwell.quantization.formats.quantized import Packed

SOURCE = "quantization/execution/products.c"
FLOATS, INTEGERS = 1, 2  # driftwell_low_bit_features
# an integer sum of so many products of a code below 256 and |q| <= 127 fits in 32 bits
LONGEST_GROUP = 65536
# rows of x from which on panels are decoded to bytes once for all of them
# (python bench/low_bit_products.py --crossovers)
MANY_ROWS = 9
_TILE = 4  # panels that are decoded together


@final
@dataclass(frozen=True)
class CompiledIntegers(Kernel):
    """int8 activations by products of bytes summed in 32 bits, which is exact.

    Example:
        >>> CompiledIntegers().activations
        'int8'
    """

    name: ClassVar[str] = "compiled int8"
    activations: ClassVar[Activations] = "int8"
    error: ClassVar[float] = 1e-6

    def missing(self) -> str:
        """Why it cannot run here, or an empty string."""
        return _missing(INTEGERS, "AVX512-VNNI")

    def refuses(self, packed: Packed) -> str:
        """Levels that are not integers of a byte; groups whose sums may overflow."""
        if not has_integer_levels(packed):
            return "its levels are not integers of a byte"
        return _refuses(packed)

    def prepare(self, packed: Packed) -> Panels:
        """Panels with bytes for levels."""
        return for_integers(packed)

    def run(self, x: Tensor, layout: Panels) -> Tensor:
        """y (M, R), rows of x rounded to 8 bits."""
        library, threads = _library(), torch.get_num_threads()
        floats, count = x.float().contiguous(), x.shape[0]
        length = layout.groups * layout.filled
        q = torch.empty(count, length, dtype=torch.int8)
        sums = torch.empty(count, layout.groups, dtype=torch.int32)
        step, y = torch.empty(count), torch.empty(count, layout.rows)
        library.driftwell_quantise(
            _at(floats), *_sizes(count, layout), ctypes.c_int(threads), _at(q), _at(sums), _at(step)
        )
        scratch = _scratch(layout, length, count, threads)
        library.driftwell_integer_product(
            ctypes.byref(_Weight.of(layout)), _at(q), _at(sums), _at(step), ctypes.c_int64(count),
            ctypes.c_int(threads), _at(scratch), _at(y),
        )  # fmt: skip
        return y.to(x.dtype)


@final
@dataclass(frozen=True)
class CompiledFloats(Kernel):
    """Float activations, summed in float32; for few rows, where reading the weight is the cost.

    Example:
        >>> CompiledFloats().activations
        'float'
    """

    name: ClassVar[str] = "compiled float"
    activations: ClassVar[Activations] = "float"
    # sums of 256 terms, and their sum: (256 + K / 256) 2^-24 at most for K = 4096
    error: ClassVar[float] = 2e-5

    def missing(self) -> str:
        """Why it cannot run here, or an empty string."""
        return _missing(FLOATS, "AVX-512")

    def refuses(self, packed: Packed) -> str:
        """Lookup levels of more than 4 bits."""
        if packed.grid.bits > 4 and not packed.grid.is_uniform:
            return "lookup levels of more than 4 bits"
        return _refuses(packed)

    def prepare(self, packed: Packed) -> Panels:
        """Panels with floats for levels."""
        return for_floats(packed)

    def run(self, x: Tensor, layout: Panels) -> Tensor:
        """y (M, R)."""
        library, threads = _library(), torch.get_num_threads()
        floats, count = x.float().contiguous(), x.shape[0]
        filled = torch.empty(count, layout.groups * layout.filled)
        sums, y = torch.empty(count, layout.groups), torch.empty(count, layout.rows)
        library.driftwell_pad(_at(floats), *_sizes(count, layout), _at(filled), _at(sums))
        library.driftwell_real_product(
            ctypes.byref(_Weight.of(layout)), _at(filled), _at(sums), ctypes.c_int64(count),
            ctypes.c_int(threads), _at(y),
        )  # fmt: skip
        return y.to(x.dtype)


class _Weight(ctypes.Structure):
    """`weight` of products.c; made for each call, so that no copy keeps a stale address."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "panels", "units", "groups", "bits")),
        *((name, ctypes.c_void_p) for name in
          ("codes", "scale", "zero", "whole", "bytes", "levels")),
    )  # fmt: skip

    @classmethod
    def of(cls, layout: Panels) -> _Weight:
        panels, units = layout.codes.shape[:2]
        table = None if layout.table is None else layout.table.data_ptr()
        zero = None if layout.zero is None else layout.zero.data_ptr()
        numbers = (layout.rows, panels, units, layout.groups, layout.bits)
        codes, scale, whole = (
            part.data_ptr() for part in (layout.codes, layout.scale, layout.whole)
        )
        return cls(*numbers, codes, scale, zero, whole, table, table)


def _sizes(count: int, layout: Panels) -> tuple[ctypes.c_int64, ...]:
    sizes = (count, layout.columns, layout.group, layout.groups, layout.filled)
    return tuple(ctypes.c_int64(size) for size in sizes)


def _scratch(layout: Panels, length: int, count: int, threads: int) -> Tensor | None:
    """Room for `_TILE` decoded panels a thread; None for few rows, which need none."""
    if count < MANY_ROWS:
        return None
    return torch.empty(threads * _TILE * length * LANES, dtype=torch.uint8)


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _library() -> ctypes.CDLL:
    library = native.load(SOURCE)
    if library is None:  # `missing` was asked before
        raise RuntimeError(native.status(SOURCE).reason)
    return library


def _missing(feature: int, instructions: str) -> str:
    library = native.load(SOURCE)
    if library is None:
        return native.status(SOURCE).reason
    if not library.driftwell_low_bit_features() & feature:
        return f"the processor or the compiler lacks {instructions}"
    return ""


def _refuses(packed: Packed) -> str:
    group = packed.columns // packed.grid.scale.shape[1]
    if packed.shape[0] == 0 or group == 0:
        return "it is empty"
    if group > LONGEST_GROUP:
        return f"a group of more than {LONGEST_GROUP} columns"
    if group < UNIT // 2 and packed.grid.scale.shape[1] > 1:
        return f"groups of less than {UNIT // 2} columns"
    return ""
