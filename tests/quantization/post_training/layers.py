"""Small layers with correlated inputs, and every point of their grids."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from driftwell.quantization.formats import Grid, Quantized
from driftwell.quantization.post_training import row_errors


def layer(
    rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float64, samples: int = 0
) -> tuple[Tensor, Tensor]:
    """A weight (R, C) and the Gram matrix of inputs with a mean and very unequal directions."""
    draw = torch.Generator().manual_seed(seed)
    samples = samples or 4 * columns
    mix = torch.randn(columns, columns, generator=draw, dtype=torch.float64)
    x = torch.randn(samples, columns, generator=draw, dtype=torch.float64) @ mix + 0.5
    w = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    return w.to(dtype), (x.T @ x).to(dtype)


def errors(w: Tensor, found: Quantized, gram: Tensor) -> Tensor:
    """E of every row, float64."""
    return row_errors(w, found.decode(), gram)


def best_on_grid(w: Tensor, gram: Tensor, grid: Grid) -> Tensor:
    """The smallest E of every row over all codes on the grid, by looking at all of them."""
    rows, columns = w.shape
    codes = itertools.product(range(len(grid.levels)), repeat=columns)
    table = torch.tensor(list(codes), dtype=torch.uint8)
    best = []
    for r in range(rows):
        points = grid.rows(torch.tensor([r])).values(table)
        best.append(row_errors(w[r].expand(len(points), -1), points, gram).min())
    return torch.stack(best)
