"""What every format is: a frozen value that fits a grid to a weight and rounds the weight to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats.grid import Grid
from driftwell.quantization.formats.quantized import Quantized

Granularity = Literal["tensor", "channel", "group"]


@dataclass(frozen=True)
class Format(ABC):
    """A family of grids; `fit` picks the one for a weight.

    A weight (R, ...) is seen as a matrix (R, C). Weights that share a scale form a block: the
    whole matrix (`per="tensor"`), a row (`"channel"`) or `group_size` neighbours in a row
    (`"group"`).
    """

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits a code is stored in."""

    @property
    @abstractmethod
    def levels(self) -> Tensor:
        """The levels before scaling, (K,) ascending, float64."""

    @property
    @abstractmethod
    def blocks(self) -> tuple[Granularity, int | None]:
        """Which weights share a scale: granularity and group size."""

    @abstractmethod
    def fit_blocks(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero (R', G) of blocks of weights (R', G, n)."""

    def fit(self, w: Tensor) -> Grid:
        """The grid of this format for the weight `w`, in its dtype (float32 for shorter ones).

        Raises:
            InvalidInput: `w` is empty, not floating or not finite, or a group does not divide.
        """
        matrix = self.matrix(w)
        per, group = self.blocks
        rows, columns = matrix.shape
        size = columns if per != "group" else check_group(group, columns)
        shaped = matrix.reshape(1, 1, -1) if per == "tensor" else matrix.reshape(rows, -1, size)
        scale, zero = self.fit_blocks(shaped)
        # a block of zeros is stored exactly on any scale
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return Grid(self.levels.to(matrix), scale, zero, size, self.bits)

    def encode(self, w: Tensor, grid: Grid | None = None) -> Quantized:
        """`w` rounded to the nearest level of `grid`, by default of its own fit.

        Raises:
            InvalidInput: as `fit`.
        """
        grid = self.fit(w) if grid is None else grid
        return Quantized(grid.nearest(self.matrix(w)), grid, tuple(w.shape), w.dtype)

    def fake(self, w: Tensor, grid: Grid | None = None) -> Tensor:
        """`w` rounded to the nearest level, as numbers of its own dtype."""
        return self.encode(w, grid).decode()

    def matrix(self, w: Tensor) -> Tensor:
        """The weight as a matrix (R, C) in float32 or float64, without gradient.

        Raises:
            InvalidInput: it is empty, not floating or not finite.
        """
        if not w.is_floating_point():
            raise InvalidInput(f"a weight to quantize is floating, not {w.dtype}")
        if w.ndim == 0 or w.numel() == 0:
            raise InvalidInput(f"a weight of shape {tuple(w.shape)} has nothing to quantize")
        matrix = w.detach().reshape(w.shape[0], -1)
        matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
        if not matrix.isfinite().all():
            bad = int((~matrix.isfinite()).sum())
            raise InvalidInput(
                f"{bad} of {matrix.numel()} weights are NaN or infinite: "
                "train or load the network again before quantizing it"
            )
        return matrix


def check_group(group_size: int | None, columns: int) -> int:
    """The group size, if it divides the columns.

    Raises:
        InvalidInput: it is missing or does not divide.
    """
    if group_size is None or group_size < 1:
        raise InvalidInput(f"per='group' needs group_size, a positive number, not {group_size}")
    if columns % group_size:
        fitting = [g for g in (16, 32, 64, 128, 256) if columns % g == 0]
        advice = f"take one of {fitting}" if fitting else f"take a divisor of {columns}"
        raise InvalidInput(
            f"groups of {group_size} do not divide the {columns} columns of the weight: "
            f"{advice}, or per='channel'"
        )
    return group_size


def check_granularity(per: str, group_size: int | None) -> None:
    """Raise unless `per` is known and goes with `group_size`."""
    if per not in ("tensor", "channel", "group"):
        raise InvalidInput(f"per is 'tensor', 'channel' or 'group', not {per!r}")
    if (per == "group") != (group_size is not None):
        raise InvalidInput(f"group_size goes with per='group'; got per={per!r}, {group_size=}")
    if group_size is not None and group_size < 1:
        raise InvalidInput(f"a group has at least one column, not {group_size}")
