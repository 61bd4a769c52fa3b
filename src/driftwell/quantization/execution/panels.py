"""Packed codes laid out for vector instructions, still in b bits.

Sixteen rows are a *panel* and 32 columns of a panel a *unit*: b vectors of 64 bytes. A lane of a
vector is a row. A unit has eight sub-blocks t of four columns, a byte each (64 bytes); the bits of
its codes are split into planes of 4, 2 and 1 bits (8 bits: one plane), and a plane of p bits keeps
8 / p sub-blocks in each vector, sub-block t in bits p (t mod 8/p) and up. Groups of columns are
filled up to whole units with columns where x is zero, rows to whole panels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from driftwell.quantization.formats.quantized import Packed

LANES, UNIT, TABLE = 16, 32, 16
BYTE = 255


@final
@dataclass(frozen=True, eq=False)
class Panels:
    """A packed weight (R, C) as the compiled products read it.

        W[r, c] = scale[r, g] (table[code[r, c]] - zero[r, g] - whole[r, g])

    Attributes:
        codes: (panels, units, bits, 64) uint8.
        scale: (panels, G, 16) float32.
        zero: (panels, G, 16) float32, or None where it is 0.
        whole: (panels, G, 16) int16, an integer part of the zero; 0 for float activations.
        table: (16,) what a code stands for: float32, or uint8 for int8 activations; None where it
            stands for itself.
        rows: R.
        columns: C.
        group: columns of a group.
        bits: bits of a code.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    whole: Tensor
    table: Tensor | None
    rows: int
    columns: int
    group: int
    bits: int

    @property
    def groups(self) -> int:
        """G, groups of columns."""
        return self.scale.shape[1]

    @property
    def filled(self) -> int:
        """Columns of a group with those that fill it up."""
        return _up(self.group, UNIT)

    @property
    def nbytes(self) -> int:
        """Bytes that a product with few rows reads."""
        parts = (self.codes, self.scale, self.zero, self.whole)
        return sum(part.nbytes for part in parts if part is not None)


def for_floats(packed: Packed) -> Panels:
    """For float activations: levels measured from their middle, which shortens sums.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> for_floats(Uniform(3).encode(torch.randn(20, 40)).pack()).codes.shape
        torch.Size([2, 2, 3, 64])
    """
    grid = packed.grid
    levels, zero = grid.levels.double(), grid.zero.double()
    table = None
    if grid.bits <= 4:
        middle = (levels[0] + levels[-1]) / 2
        padded = F.pad(levels - middle, (0, (1 << grid.bits) - len(levels)))
        table = padded.repeat(TABLE >> grid.bits).float()
        zero = zero - middle
    return _panels(packed, packed.unpack().codes, grid.scale.double(), zero, None, table)


def for_integers(packed: Packed) -> Panels:
    """For int8 activations: levels as bytes, and the integer part of the zero apart.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> panels = for_integers(Uniform(3).encode(torch.randn(20, 40)).pack())
        >>> panels.table is None, panels.zero is None
        (True, True)
    """
    grid, codes = packed.grid, packed.unpack().codes
    scale, zero, table = grid.scale.double(), grid.zero.double(), None
    if not grid.is_uniform:
        first, unit, found = _as_bytes(grid.levels)
        scale, zero = scale * unit, (zero - first) / unit
        if not torch.equal(found, torch.arange(len(found), dtype=torch.uint8)):
            if grid.bits <= 4:
                table = F.pad(found, (0, TABLE - len(found)))
            else:
                codes = found[codes.long()]
    whole = torch.where(zero.abs() <= BYTE, zero.round(), torch.zeros_like(zero))
    return _panels(packed, codes, scale, zero - whole, whole, table)


def has_integer_levels(packed: Packed) -> bool:
    """Whether the levels are equally spaced integers of one byte, up to a scale and a shift.

    Example:
        >>> from driftwell.quantization.formats import NormalFloat, PowerOfTwo
        >>> [has_integer_levels(f.encode(torch.randn(2, 64)).pack())
        ...  for f in (PowerOfTwo(4), NormalFloat(4))]
        [True, False]
    """
    if packed.grid.is_uniform:
        return True
    first, unit, found = _as_bytes(packed.grid.levels)
    levels = packed.grid.levels.double()
    error = (first + unit * found.double() - levels).abs().max()
    return bool(error <= 1e-7 * levels.abs().max())


def _as_bytes(levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First level, spacing, and bytes n with levels = first + spacing n, where there are such."""
    levels = levels.double()
    gaps = levels.diff()
    unit = gaps.min().clamp(min=(levels[-1] - levels[0]) / BYTE)
    return levels[0], unit, ((levels - levels[0]) / unit).round().to(torch.uint8)


def _panels(
    packed: Packed, codes: Tensor, scale: Tensor, zero: Tensor, whole: Tensor | None,
    table: Tensor | None,
) -> Panels:  # fmt: skip
    rows, columns = codes.shape
    groups = scale.shape[1]
    group = columns // groups
    stored = 8 if table is None and not packed.grid.is_uniform and packed.grid.bits > 4 else None
    bits = stored or packed.grid.bits
    panels, filled = _up(rows, LANES) // LANES, _up(group, UNIT)
    codes = codes.reshape(rows, groups, group)
    codes = F.pad(codes, (0, filled - group, 0, 0, 0, panels * LANES - rows))
    blocks = codes.reshape(panels, LANES, groups * filled // UNIT, 8, 4).permute(0, 2, 3, 1, 4)

    def by_panel(numbers: Tensor, dtype: torch.dtype) -> Tensor:
        spread = numbers.expand(rows, groups)
        spread = F.pad(spread, (0, 0, 0, panels * LANES - rows))
        return spread.reshape(panels, LANES, groups).transpose(1, 2).to(dtype).contiguous()

    return Panels(
        codes=_planes(blocks.reshape(panels, -1, 8, LANES * 4), bits),
        scale=by_panel(scale, torch.float32),
        zero=by_panel(zero, torch.float32) if bool((zero != 0).any()) else None,
        whole=by_panel(torch.zeros_like(zero) if whole is None else whole, torch.int16),
        table=table,
        rows=rows,
        columns=columns,
        group=group,
        bits=bits,
    )


def _planes(blocks: Tensor, bits: int) -> Tensor:
    """Sub-blocks (panels, units, 8, 64), a byte a code -> planes (panels, units, bits, 64)."""
    if bits == 8:
        return blocks.contiguous()
    planes, low = [], 0
    for width in (4, 2, 1):
        if bits & width:
            turns = 8 // width
            part = (blocks >> low) & ((1 << width) - 1)
            part = part.unflatten(2, (width, turns))
            planes.append(sum((part[:, :, :, i] << (i * width) for i in range(1, turns)),
                              part[:, :, :, 0]))  # fmt: skip
            low += width
    return torch.cat(planes, dim=2).contiguous()


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
