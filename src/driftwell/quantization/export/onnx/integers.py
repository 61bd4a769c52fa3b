"""Codes of any evenly spaced grid as whole numbers times a scale, which is all that ONNX knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.quantization.formats import Grid, Packed

WIDTHS = (2, 4, 8)
"""Bits of a code that runtimes multiply by."""


@final
@dataclass(frozen=True, eq=False)
class Integers:
    """A matrix as what[r, c] = scale[r, g] (codes[r, c] - zero[r, g]) + shift[r, g].

    Attributes:
        codes: (R, C) uint8, below 2^bits.
        scale: (R, G) float32.
        zero: (R, G) uint8, below 2^bits.
        group_size: columns that share a scale, g = c // group_size.
        bits: 2, 4 or 8.
        shift: (R, G) float32, what rounding the grid's zero to a code left; None: nothing.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    group_size: int
    bits: int
    shift: Tensor | None = None

    @property
    def groups(self) -> int:
        """G."""
        return self.scale.shape[1]

    @property
    def values(self) -> Tensor:
        """The matrix (R, C), float32."""
        whole = self.codes.float() - self._spread(self.zero.float())
        what = self._spread(self.scale) * whole
        return what if self.shift is None else what + self._spread(self.shift)

    def _spread(self, per_group: Tensor) -> Tensor:
        return per_group.repeat_interleave(self.group_size, dim=1)


def integers_of(packed: Packed) -> Integers | None:
    """The weight in whole numbers; None where its levels are not evenly spaced.

    Levels that are whole multiples of one step count as such while this at most doubles the bits:
    three ternary levels, or powers of two in 4 bits, which become 8.

    Example:
        >>> from driftwell.quantization.formats import NormalFloat, PowerOfTwo, Ternary, Uniform
        >>> w = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
        >>> forms = (Uniform(3), Uniform(1), Ternary(), PowerOfTwo(4), NormalFloat())
        >>> found = [integers_of(form.encode(w).pack()) for form in forms]
        >>> [None if one is None else one.bits for one in found]
        [4, 2, 2, 8, None]
    """
    grid, rows = packed.grid, packed.shape[0]
    levels = grid.levels.double()
    step = _step(levels)
    whole = ((levels - levels[0]) / step).round()
    width = next((bits for bits in WIDTHS if float(whole.max()) < 1 << bits), None)
    if width is None or width > max(2 * grid.bits, _stored(grid.bits)):
        return None
    groups = grid.scale.shape[1]
    scale = (grid.scale.double() * step).expand(rows, groups)
    zero = ((grid.zero.double() - levels[0]) / step).expand(rows, groups)
    code = zero.round().clamp(0, (1 << width) - 1)
    shift = (scale * (code - zero)).float()
    return Integers(
        whole.to(torch.uint8)[packed.unpack().codes.long()], scale.float().contiguous(),
        code.to(torch.uint8).contiguous(), grid.group_size if groups > 1 else packed.columns,
        width, shift.contiguous() if bool((shift != 0).any()) else None,
    )  # fmt: skip


def is_even(grid: Grid) -> bool:
    """Whether all levels are one step apart.

    Example:
        >>> from driftwell.quantization.formats import NormalFloat, Uniform
        >>> w = torch.ones(1, 64)
        >>> is_even(Uniform(4).fit(w)), is_even(NormalFloat().fit(w))
        (True, False)
    """
    apart = grid.levels.double().diff()
    return bool((apart - apart[0]).abs().max() < 1e-6)


def _stored(bits: int) -> int:
    return next(width for width in WIDTHS if bits <= width)


def _step(levels: Tensor) -> float:
    """The largest step of which all differences of levels are whole multiples, else a tiny one."""
    apart = levels.diff()
    least = float(apart.min())
    for part in (1, 2, 3, 4, 5):
        multiples = apart * part / least
        if bool((multiples - multiples.round()).abs().max() < 1e-6):
            return least / part
    return least / (1 << 16)
