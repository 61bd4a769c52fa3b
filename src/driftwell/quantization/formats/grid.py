"""The levels that each weight of a matrix may take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats.packing import check_bits


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """Levels of a matrix W (R, C), one scale and zero for each row and group of columns.

        what[r, c] = scale[r, g] (levels[code[r, c]] - zero[r, g]),   g = c // group_size

    A uniform grid has levels 0 .. K-1; a lookup grid any ascending ones. One row of scales serves
    all rows where `scale` has a single row.

    Attributes:
        levels: (K,) ascending, K <= 2^bits.
        scale: (R or 1, G) positive, in the unit of the weights.
        zero: (R or 1, G) in the unit of the levels.
        group_size: columns that share a scale.
        bits: bits a code is stored in.

    Raises:
        InvalidInput: shapes or values that cannot be a grid.

    Example:
        >>> grid = Grid(torch.arange(4.0), torch.tensor([[0.5]]), torch.tensor([[1.0]]), 3, 2)
        >>> codes = grid.nearest(torch.tensor([[-0.6, 0.2, 0.9]]))
        >>> codes.tolist(), grid.values(codes).tolist()
        ([[0, 1, 3]], [[-0.5, 0.0, 1.0]])
    """

    levels: Tensor
    scale: Tensor
    zero: Tensor
    group_size: int
    bits: int

    def __post_init__(self) -> None:
        """Raise where the parts do not make a grid."""
        check_bits(self.bits)
        if self.levels.ndim != 1 or not 2 <= len(self.levels) <= 1 << self.bits:
            raise InvalidInput(
                f"a grid of {self.bits} bits has 2 to {1 << self.bits} levels in a row, "
                f"not a tensor of shape {tuple(self.levels.shape)}"
            )
        if self.scale.ndim != 2 or self.scale.shape != self.zero.shape:
            raise InvalidInput(
                "scale and zero of a grid have one shape (rows or 1, groups), not "
                f"{tuple(self.scale.shape)} and {tuple(self.zero.shape)}"
            )
        if self.group_size < 1:
            raise InvalidInput(f"a group has at least one column, not {self.group_size}")

    @property
    def is_uniform(self) -> bool:
        """Whether the levels are 0, 1, .., K-1."""
        ladder = torch.arange(len(self.levels), device=self.levels.device)
        return bool((self.levels == ladder).all())

    @property
    def usual_zero(self) -> float:
        """2^(bits-1) for uniform levels, 1/2 for the two of one bit, 0 for lookup levels."""
        if not self.is_uniform:
            return 0.0
        return 0.5 if self.bits == 1 else float(1 << (self.bits - 1))

    @property
    def has_usual_zero(self) -> bool:
        """Whether every zero is the usual one, so that a file need not say it."""
        return bool((self.zero == self.usual_zero).all())

    @property
    def is_symmetric(self) -> bool:
        """Whether code - 2^(bits-1) is a signed integer times the scale."""
        return self.bits > 1 and self.is_uniform and self.has_usual_zero

    def nearest(self, w: Tensor) -> Tensor:
        """Codes (R, C) uint8 of the levels nearest to `w` (R, C); halfway, the even or upper."""
        scale, zero = self._spread(self.scale, w), self._spread(self.zero, w)
        return self._nearest(w, scale, zero)

    def values(self, codes: Tensor) -> Tensor:
        """Weights (R, C) of the codes (R, C), in the dtype of the scale."""
        scale, zero = self._spread(self.scale, codes), self._spread(self.zero, codes)
        return scale * (self.levels.to(scale.dtype)[codes.long()] - zero)

    def nearest_in_column(self, t: Tensor, column: int) -> Tensor:
        """Codes (R,) uint8 nearest to `t` (R,) in one column of the matrix."""
        group = column // self.group_size
        return self._nearest(t, self.scale[:, group], self.zero[:, group])

    def values_in_column(self, codes: Tensor, column: int) -> Tensor:
        """Weights (R,) of the codes (R,) of one column of the matrix."""
        group = column // self.group_size
        levels = self.levels.to(self.scale.dtype)[codes.long()]
        return self.scale[:, group] * (levels - self.zero[:, group])

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest weight of each row and group, (R or 1, G) each."""
        ends = self.levels[[0, -1]].to(self.scale.dtype)
        return self.scale * (ends[0] - self.zero), self.scale * (ends[1] - self.zero)

    def shrunk(self, factor: float | Tensor) -> Grid:
        """The grid with its range scaled by `factor`, a number or (R, 1) or (R, G)."""
        factor = torch.as_tensor(factor, dtype=self.scale.dtype, device=self.scale.device)
        scale = self.scale * factor
        return self.replaced(scale=scale, zero=self.zero.expand_as(scale).clone())

    def replaced(self, *, scale: Tensor | None = None, zero: Tensor | None = None) -> Grid:
        """The grid with another scale or zero."""
        return replace(
            self,
            scale=self.scale if scale is None else scale,
            zero=self.zero if zero is None else zero,
        )

    def rows(self, index: Tensor) -> Grid:
        """The grid of the rows `index` (int64 or bool) of the matrix."""
        if self.scale.shape[0] == 1:
            return self
        return self.replaced(scale=self.scale[index], zero=self.zero[index])

    def columns(self, order: Tensor) -> Grid:
        """The grid of the columns `order` (C,): a group for each, unless one group had them all."""
        if self.scale.shape[1] == 1:
            return replace(self, group_size=len(order))
        group = order // self.group_size
        return replace(self, scale=self.scale[:, group], zero=self.zero[:, group], group_size=1)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Grid:
        """The grid with its numbers in another dtype or place."""
        return replace(
            self,
            levels=self.levels.to(device=device, dtype=dtype),
            scale=self.scale.to(device=device, dtype=dtype),
            zero=self.zero.to(device=device, dtype=dtype),
        )

    def _nearest(self, w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        level = w / scale + zero
        if self.is_uniform:
            return level.round().clamp(0, len(self.levels) - 1).to(torch.uint8)
        levels = self.levels.to(level.dtype)
        halfway = (levels[1:] + levels[:-1]) / 2
        return torch.bucketize(level, halfway, right=True).to(torch.uint8)

    def _spread(self, per_group: Tensor, matrix: Tensor) -> Tensor:
        """(R or 1, G) -> what broadcasts against the matrix (R, C)."""
        groups = per_group.shape[1]
        if groups == 1:
            return per_group
        if groups * self.group_size != matrix.shape[1]:
            raise InvalidInput(
                f"{groups} groups of {self.group_size} columns do not make a matrix of "
                f"{matrix.shape[1]} columns"
            )
        return per_group.repeat_interleave(self.group_size, dim=1)
