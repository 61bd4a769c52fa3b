"""Recorded solves: a solver's iterates as trajectories that end at the fixed point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.state import flatten
from driftwell.dynamics.laws import Map, call
from driftwell.fixed_points import Anderson, Picard, Solver, fixed_point


@final
@dataclass(frozen=True)
class RecordedSolve:
    """Iterates of a solver, one trajectory a sample, ended by the fixed point itself.

    Attributes:
        z: iterates z_0 .. z_{K-1} and z_K = z*, flat, (K+1, B, D).
        fz: f at each of them, (K+1, B, D).

    Example:
        >>> record = record_trajectory(torch.cos, torch.zeros(1, 1), steps=3)
        >>> record.errors()[:, 0]
        tensor([1.0000, 0.3530, 0.2690])
    """

    z: Tensor
    fz: Tensor

    @property
    def steps(self) -> int:
        """K."""
        return self.z.shape[0] - 1

    def errors(self) -> Tensor:
        """Relative errors |z_j - z*| / |z*| of z_0 .. z_{K-1}, (K, B).

        z_j is what j evaluations of f have led to.
        """
        star = self.z[-1]
        gap = torch.linalg.vector_norm(self.z[:-1] - star, dim=2)
        errors: Tensor = gap / torch.linalg.vector_norm(star, dim=1)
        return errors


def record_trajectory(
    f: Map | Callable[..., Tensor],
    z0: Tensor,
    x: Any = None,
    *,
    steps: int,
    solver: Solver = Picard(),
    tol: float = 1e-6,
    max_steps: int = 1000,
) -> RecordedSolve:
    """Record the first `steps` points at which a solver evaluates f, and the fixed point.

    The fixed point is solved for separately by `Anderson`, from the last recorded point, so that
    it is z* also where the recorded solver is slow.

    Args:
        f: map z -> z, or (z, x) -> z, row-wise.
        z0: start, (B, ...).
        x: input of f.
        steps: K, number of recorded points, at least 1.
        solver: the recorded rule.
        tol: relative tolerance of z*.
        max_steps: evaluations allowed for z*.

    Raises:
        InvalidInput: steps below 1, or what `fixed_point` refuses.
        NotConverged: z* was not reached.

    Example:
        >>> record_trajectory(torch.cos, torch.zeros(2, 1), steps=4).z.shape
        torch.Size([5, 2, 1])
    """
    if steps < 1:
        raise InvalidInput(f"record_trajectory(steps=...) must be at least 1, got {steps}")
    points: list[tuple[Tensor, Tensor]] = []

    def recorded(z: Tensor, *rest: Any) -> Tensor:
        fz: Tensor = f(z, *rest)
        points.append((flatten(z), flatten(fz)))
        return fz

    with torch.no_grad():
        fixed_point(recorded, z0, x, solver=solver, tol=0.0, max_steps=steps, throw=False)
        points = (points + points[-1:] * steps)[:steps]  # a solve that hit z* exactly ends early
        last = points[-1][0].reshape(z0.shape)
        star = fixed_point(f, last, x, solver=Anderson(), tol=tol, max_steps=max_steps).z
        points.append((flatten(star), flatten(call(f, star, x=x))))
    return RecordedSolve(*(torch.stack(column) for column in zip(*points, strict=True)))
