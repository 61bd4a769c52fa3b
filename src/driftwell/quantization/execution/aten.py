"""Low-bit products that torch brings along: the fall-back where nothing can be compiled.

Only calls that run on vector instructions are here; the same operators are scalar for other dtypes
(`_weight_int4pack_mm_for_cpu` and `_weight_int8pack_mm` in float32, for instance).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from driftwell.quantization.execution.kernel import Activations, Kernel
from driftwell.quantization.execution.rounding import round_rows
from driftwell.quantization.formats.quantized import Packed

_GROUPS_OF_INT4 = (32, 64, 128, 256)
_ROWS_OF_INT4 = 16  # output rows must be a multiple
_COLUMNS_OF_INT8 = 32  # columns must be a multiple: the operator reads past the end of others
_LARGEST_ZERO = 256  # of integer zeros, whose product with a sum of x fits in 32 bits
_LONGEST = 65536  # |sum| of int8 products stays below 2^31


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """Arrays that an operator of torch takes, and its group size where it has one."""

    weight: Tensor
    scale: Tensor
    group: int = 0


@final
@dataclass(frozen=True, eq=False)
class Integers:
    """W[r, c] = scale[r] (weight[r, c] - whole[r] - rest[r]), weight int8 and whole int32."""

    weight: Tensor
    scale: Tensor
    whole: Tensor
    rest: Tensor


@final
@dataclass(frozen=True)
class AtenIntegers(Kernel):
    """int8 activations by `torch._int_mm`, exact where the processor has VNNI.

    Without it the operator gives wrong numbers and no error, which the self-test sees.

    Example:
        >>> AtenIntegers().name
        'torch int8'
    """

    name: ClassVar[str] = "torch int8"
    activations: ClassVar[Activations] = "int8"
    error: ClassVar[float] = 1e-6

    def missing(self) -> str:
        """Why it cannot run here, or an empty string."""
        return "" if hasattr(torch, "_int_mm") else "this torch has no _int_mm"

    def refuses(self, packed: Packed) -> str:
        """Groups, lookup levels, and sums that may overflow."""
        if not packed.grid.is_uniform or packed.grid.scale.shape[1] > 1:
            return "it takes uniform levels without groups"
        return _empty(packed) or ("more than 65536 columns" if packed.columns > _LONGEST else "")

    def prepare(self, packed: Packed) -> Integers:
        """Codes moved to -2^(b-1) .. 2^(b-1) - 1, so that all eight bits are used."""
        half, rows = 1 << (packed.grid.bits - 1), packed.shape[0]
        weight = (packed.unpack().codes.to(torch.int16) - half).to(torch.int8)
        zero = (packed.grid.zero.double() - half).expand(rows, 1).reshape(-1)
        whole = torch.where(zero.abs() < _LARGEST_ZERO, zero.round(), 0.0)
        scale = packed.grid.scale.float().expand(rows, 1).reshape(-1)
        return Integers(weight, scale, whole.int(), (zero - whole).float())

    def run(self, x: Tensor, layout: Integers) -> Tensor:
        """y (M, R), rows of x rounded to 8 bits."""
        q, step = round_rows(x.float())
        total = q.sum(dim=1, keepdim=True)
        sums = torch._int_mm(q.to(torch.int8), layout.weight.t())
        value = (sums - total.int() * layout.whole).float() - total * layout.rest
        return (value * layout.scale * step).to(x.dtype)


@final
@dataclass(frozen=True)
class AtenInt4(Kernel):
    """Float activations by torch's 4-bit product in bfloat16; 2 and 3 bits fit in 4.

    Example:
        >>> AtenInt4().name
        'torch int4'
    """

    name: ClassVar[str] = "torch int4"
    activations: ClassVar[Activations] = "float"
    error: ClassVar[float] = 2.0**-7

    def missing(self) -> str:
        """Why it cannot run here, or an empty string."""
        if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
            return "this torch has no _weight_int4pack_mm_for_cpu"
        return _no_bfloat16()

    def refuses(self, packed: Packed) -> str:
        """More than 4 bits, other group sizes, zeros that are not integers."""
        grid = packed.grid
        if not grid.is_uniform or grid.bits > 4:
            return "it takes uniform levels of at most 4 bits"
        if not _group_of_int4(packed) or packed.shape[0] % _ROWS_OF_INT4:
            return (
                f"it takes groups of {_GROUPS_OF_INT4} columns and multiples of "
                f"{_ROWS_OF_INT4} rows"
            )
        return "" if _fits(packed, 16) else "codes do not fit 4 bits around an integer zero"

    def prepare(self, packed: Packed) -> Parts:
        """Codes with the zero at 8, where its term is exactly 0."""
        grid, group = packed.grid, _group_of_int4(packed)
        rows, groups = packed.shape[0], packed.columns // group
        codes = _around_zero(packed) + 8
        scale = grid.scale.expand(rows, -1)
        scale = scale.repeat_interleave(groups // scale.shape[1], dim=1)
        pair = torch.stack([scale, torch.zeros_like(scale)], dim=-1).transpose(0, 1)
        weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        return Parts(weight, pair.bfloat16().contiguous(), group)

    def run(self, x: Tensor, layout: Parts) -> Tensor:
        """y (M, R), computed in bfloat16."""
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.bfloat16().contiguous(), layout.weight, layout.group, layout.scale
        )
        return y.to(x.dtype)


@final
@dataclass(frozen=True)
class AtenInt8(Kernel):
    """Float activations by torch's 8-bit product in bfloat16.

    Example:
        >>> AtenInt8().name
        'torch int8 weights'
    """

    name: ClassVar[str] = "torch int8 weights"
    activations: ClassVar[Activations] = "float"
    error: ClassVar[float] = 2.0**-7

    def missing(self) -> str:
        """Why it cannot run here, or an empty string."""
        if not hasattr(torch.ops.aten, "_weight_int8pack_mm"):
            return "this torch has no _weight_int8pack_mm"
        return _no_bfloat16()

    def refuses(self, packed: Packed) -> str:
        """Groups, lookup levels, zeros that are not integers."""
        if not packed.grid.is_uniform or packed.grid.scale.shape[1] > 1:
            return "it takes uniform levels without groups"
        if _empty(packed) or packed.columns % _COLUMNS_OF_INT8:
            return f"it takes multiples of {_COLUMNS_OF_INT8} columns"
        return "" if _fits(packed, 256) else "codes do not fit 8 bits around an integer zero"

    def prepare(self, packed: Packed) -> Parts:
        """code - zero as signed bytes."""
        scale = packed.grid.scale.expand(packed.shape[0], 1).reshape(-1)
        weight = _around_zero(packed).to(torch.int8)
        return Parts(weight, scale.bfloat16().contiguous())

    def run(self, x: Tensor, layout: Parts) -> Tensor:
        """y (M, R), computed in bfloat16."""
        y: Tensor = torch.ops.aten._weight_int8pack_mm(
            x.bfloat16().contiguous(), layout.weight, layout.scale
        )
        return y.to(x.dtype)


def _around_zero(packed: Packed) -> Tensor:
    """code - zero, (R, C) int16."""
    zero = packed.grid.zero.to(torch.int16)
    codes = packed.unpack().codes.to(torch.int16)
    return codes - zero.repeat_interleave(packed.columns // zero.shape[1], dim=1)


def _fits(packed: Packed, count: int) -> bool:
    """Whether all zeros are integers and code - zero lies in -count/2 .. count/2 - 1."""
    zero = packed.grid.zero
    if not bool((zero == zero.round()).all()) or float(zero.abs().max()) > count:
        return False
    around = _around_zero(packed)
    return int(around.min()) >= -count // 2 and int(around.max()) < count // 2


def _group_of_int4(packed: Packed) -> int:
    """The largest group the 4-bit product takes that divides this weight's groups, or 0."""
    group = packed.columns // packed.grid.scale.shape[1]
    sizes = [size for size in _GROUPS_OF_INT4 if group and group % size == 0]
    return max(sizes, default=0)


def _empty(packed: Packed) -> str:
    return "" if packed.shape[0] and packed.columns else "it is empty"


def _no_bfloat16() -> str:
    """The vector code of these operators is for x86 with AVX-512 (and ARM, untried)."""
    found = torch.backends.cpu.get_cpu_capability()
    return "" if found == "AVX512" else f"vector code of AVX-512 is not used here, but {found}"
