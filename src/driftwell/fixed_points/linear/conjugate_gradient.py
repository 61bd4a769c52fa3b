"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.papers import Paper
from driftwell.fixed_points.linear.solver import Correction, LinearSolver, Operator

HESTENES_STIEFEL = Paper(
    key="hestenes1952cg",
    title="Methods of conjugate gradients for solving linear systems",
    authors="Hestenes, Magnus R. and Stiefel, Eduard",
    year=1952,
    venue="Journal of Research of the National Bureau of Standards 49(6)",
    doi="10.6028/jres.049.044",
)


@final
@dataclass(frozen=True)
class ConjugateGradient(LinearSolver):
    """Conjugate gradients, from Hestenes and Stiefel, *Methods of conjugate gradients for solving
    linear systems*, 1952, for a symmetric positive definite A.

        a = r^T r / p^T A p,  z <- z + a p,  r' = r - a A p,  p <- r' + (r'^T r' / r^T r) p

    Exact after as many steps as A has distinct eigenvalues, and four vectors are kept. A direction
    with p^T A p <= 0 shows that A is not positive definite: the sample stops there and its
    sentence says so. That A is symmetric cannot be seen and is up to the caller.

    Example:
        >>> from driftwell.fixed_points.linear import solve_linear
        >>> a = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> b = torch.tensor([[3.0, 3.0]])
        >>> solve_linear(lambda y: y @ a, b, solver=ConjugateGradient()).z
        tensor([[1., 1.]])
    """

    papers = (HESTENES_STIEFEL,)

    def cycle(self, A: Operator, r: Tensor, target: Tensor, budget: int) -> Correction:
        """Steps until every sample's recursion is below its target or the budget is spent."""
        z, p, rr = torch.zeros_like(r), r, _dot(r, r)
        running = rr.sqrt() > target
        steps = torch.zeros(len(r), dtype=torch.int64, device=r.device)
        broke_down = torch.zeros_like(running)
        for _ in range(budget):
            if not bool(running.any()):
                break
            Ap = A(p)
            curvature = _dot(p, Ap)
            steps = steps + running
            broke_down = broke_down | (running & (curvature <= 0))
            running = running & ~broke_down
            a = torch.where(running, rr / torch.where(curvature > 0, curvature, 1.0), 0.0)[:, None]
            # torch.where keeps a neighbour's NaN out: 0 * NaN is NaN
            z = torch.where(running[:, None], z + a * p, z)
            r = torch.where(running[:, None], r - a * Ap, r)
            after = _dot(r, r)
            ratio = (after / torch.where(rr > 0, rr, 1.0))[:, None]
            p, rr = torch.where(running[:, None], r + ratio * p, p), after
            running = running & (rr.sqrt() > target)
        return Correction(z, steps, broke_down)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1)
