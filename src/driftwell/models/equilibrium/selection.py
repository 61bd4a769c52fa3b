"""Selection among equilibria that are not unique, by sequential averaging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.results import FixedPoint
from driftwell.core.status import Status
from driftwell.dynamics.laws import Map, call

SAM = Paper(
    key="xu2004viscosity",
    title="Viscosity approximation methods for nonexpansive mappings",
    authors="Xu, Hong-Kun",
    year=2004,
    venue="Journal of Mathematical Analysis and Applications 298(1)",
    doi="10.1016/j.jmaa.2004.04.059",
)


def sam_solve(
    f: Map | Callable[..., Tensor],
    prior_gradient: Callable[[Tensor], Tensor],
    z0: Tensor,
    x: Any = None,
    *,
    steps: int,
    step_size: float = 1.0,
    eta: float = 2.0,
    tol: float = 1e-2,
) -> FixedPoint:
    """Sequential averaging (viscosity approximation), from Xu, *Viscosity approximation methods
    for nonexpansive mappings*, 2004, the selection rule of OptEq (Xie et al., arXiv:2105.13228).

        z_{k+1} = b_k (z_k - step_size grad R(z_k)) + (1 - b_k) f(z_k),   b_k = min(1, eta / k)

    For a nonexpansive f with fixed points, and R strongly convex with a step_size at which
    z - step_size grad R contracts, the limit is the minimiser of R over the fixed points of f. Its
    residual falls as b_k, as 1 / k, so all `steps` are taken: a small residual would say nothing
    about R.

    Args:
        f: nonexpansive map z -> z, or (z, x) -> z.
        prior_gradient: grad R, row-wise.
        z0: start, (B, ...).
        x: input of f.
        steps: evaluations of f, at least 1.
        step_size: of the descent on R, positive.
        eta: of the weights b_k, at least 1.
        tol: relative residual up to which a sample counts as converged.

    Returns:
        The last iterates, detached, with their residual and a status a sample.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> def onto_line(z):  # every point of the line z_1 + z_2 = 2 is fixed
        ...     return z + (2.0 - z.sum(1, keepdim=True)) / 2
        >>> sam_solve(onto_line, lambda z: z, torch.tensor([[5.0, 0.0]]), steps=2000).z.round()
        tensor([[1., 1.]])
    """
    if steps < 1 or not step_size > 0.0 or not eta >= 1.0:
        raise InvalidInput(
            "sequential averaging needs steps >= 1, step_size > 0 and eta >= 1, "
            f"got {steps}, {step_size}, {eta}"
        )
    with torch.no_grad():
        z = z0.detach()
        for k in range(1, steps + 1):
            share = min(1.0, eta / k)
            z = torch.lerp(call(f, z, x=x), z - step_size * prior_gradient(z), share)
        fz = call(f, z, x=x)
        difference = (fz - z).flatten(1).norm(dim=1)
        residual = difference / fz.flatten(1).norm(dim=1).clamp_min(torch.finfo(z.dtype).tiny)
    status = torch.where(residual <= tol, int(Status.CONVERGED), int(Status.BUDGET_REACHED))
    status = torch.where(torch.isfinite(residual), status, int(Status.DIVERGED))
    used = torch.full_like(status, steps + 1, dtype=torch.int64)
    return FixedPoint(z=z, residual=residual, steps=used, status=status.to(torch.int8))
