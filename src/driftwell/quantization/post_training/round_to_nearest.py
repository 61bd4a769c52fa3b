"""Rounding to the nearest level, with a range searched row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Format, Grid, Quantized
from driftwell.quantization.post_training.method import Method, checked, keeps_scale

FACTORS = tuple(round(1.0 - 0.05 * k, 2) for k in range(14))  # 1, .95, ..., .35


@final
@dataclass(frozen=True)
class RoundToNearest(Method):
    """Every weight to the level nearest to it, on the best of a family of ranges.

    Large weights are rare, and a shorter range gives all others a finer grid. The error separates
    over rows, so the best factor f of each row's range is found exactly among those tried:

        clip="weight":   f = argmin |w - q_f|^2, a group of columns each where there are groups
        clip="output":   f = argmin (w - q_f) G (w - q_f)^T, a row each

    Args:
        clip: "none" keeps the format's own range.
        factors: ranges tried, relative to the format's own.

    Raises:
        InvalidInput: an unknown `clip`, or a factor that is not positive.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> w, gram = torch.tensor([[0.5, 0.5, 0.5, 0.9]]), torch.diag(torch.tensor([1.0, 1, 1, 0]))
        >>> RoundToNearest(clip="output").quantize(w, gram, Uniform(1)).decode()
        tensor([[0.4950, 0.4950, 0.4950, 0.4950]])
    """

    clip: Literal["none", "weight", "output"] = "none"
    factors: tuple[float, ...] = FACTORS

    def __post_init__(self) -> None:
        """Raise on a setting that cannot be."""
        if self.clip not in ("none", "weight", "output"):
            raise InvalidInput(f"clip is 'none', 'weight' or 'output', not {self.clip!r}")
        if not self.factors or not all(f > 0 for f in self.factors):
            raise InvalidInput(f"factors of the range are positive, not {self.factors}")

    def quantize(self, w: Tensor, gram: Tensor, format: Format) -> Quantized:
        """Nearest levels on the chosen range; `gram` is looked at for `clip="output"` only."""
        matrix, gram = checked(w, gram, format)
        grid = format.fit(matrix)
        if self.clip != "none" and not keeps_scale(format):
            grid = self._clipped(matrix, gram, grid)
        return Quantized(grid.nearest(matrix), grid, tuple(w.shape), w.dtype)

    def _clipped(self, w: Tensor, gram: Tensor, grid: Grid) -> Grid:
        """`grid` with the best factor for each of its scales (rows, for the output's error)."""
        by_output = self.clip == "output"
        best_cost: Tensor | None = None
        best = torch.ones_like(grid.scale)
        for factor in self.factors:
            trial = grid.shrunk(factor)
            error = w - trial.values(trial.nearest(w))
            cost = _shared(error * (error @ gram) if by_output else error.square(), grid, by_output)
            if best_cost is None:
                best_cost, best = cost, torch.full_like(cost, factor)
                continue
            best = torch.where(cost < best_cost, torch.full_like(best, factor), best)
            best_cost = torch.minimum(cost, best_cost)
        return grid.shrunk(best)


def _shared(costs: Tensor, grid: Grid, whole_rows: bool) -> Tensor:
    """Costs (R, C) summed over what shares a factor, (R or 1, G or 1)."""
    rows, columns = costs.shape
    groups = 1 if whole_rows else grid.scale.shape[1]
    cost = costs.reshape(rows, groups, columns // groups).sum(dim=2)
    return cost if grid.scale.shape[0] == rows else cost.sum(dim=0, keepdim=True)
