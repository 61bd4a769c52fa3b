"""The Neumann series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.fixed_points.linear.solver import Correction, LinearSolver, Operator


@final
@dataclass(frozen=True)
class Neumann(LinearSolver):
    """Neumann series, from Neumann, *Untersuchungen über das logarithmische und Newton'sche
    Potential*, 1877.

    z_k = sum_{j < k} (I - A)^j b, that is z <- z + (b - A z): Picard iteration of the map whose
    fixed point is the solution. It converges if the spectral radius of I - A is below 1, keeps
    nothing, and its residual is measured at every step.

    Example:
        >>> from driftwell.fixed_points.linear import solve_linear
        >>> solve_linear(lambda y: 0.5 * y, torch.ones(1, 2), solver=Neumann(), tol=0.01).steps
        tensor([7])
    """

    def cycle(self, A: Operator, r: Tensor, target: Tensor, budget: int) -> Correction:
        """One term: the residual itself. The verb makes the product."""
        steps = torch.zeros(len(r), dtype=torch.int64, device=r.device)
        return Correction(r, steps, torch.zeros_like(steps, dtype=torch.bool))
