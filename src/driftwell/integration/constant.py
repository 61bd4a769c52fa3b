"""Integration with a constant step."""

from __future__ import annotations

from itertools import pairwise

import torch

from driftwell.core.errors import InvalidInput
from driftwell.core.status import Status
from driftwell.integration.brownian import BrownianPath
from driftwell.integration.flat_field import Course, Travelled
from driftwell.integration.step_control import ConstantStep


def run_constant(course: Course, control: ConstantStep, path: BrownianPath | None) -> Travelled:
    """All samples with the same steps; one that leaves the finite numbers is frozen before it."""
    _check_budget(course, control)
    z, slope = course.z0, None
    samples, device = z.shape[0], z.device
    running = torch.ones(samples, dtype=torch.bool, device=device)
    steps = torch.zeros(samples, dtype=torch.int64, device=device)
    zs = [z]
    for start, end in pairwise(course.ts):
        grid = control.grid(start, end)
        for now, then in pairwise(grid):
            dw = None if path is None else path.increment(now, then)
            proposal = course.integrator.step(
                course.field, course.time(now), z, course.time(then - now), dw, slope
            )
            running = running & torch.isfinite(proposal.z.detach()).all(dim=1)
            z = torch.where(running[:, None], proposal.z, z)
            slope = proposal.slope
            steps = steps + running
        zs.append(z)
    status = torch.where(running, int(Status.COMPLETED), int(Status.DIVERGED)).to(torch.int8)
    return Travelled(zs, status, steps, torch.zeros_like(steps))


def _check_budget(course: Course, control: ConstantStep) -> None:
    needed = sum(control.count(a, b) for a, b in pairwise(course.ts))
    if needed > course.max_steps:
        raise InvalidInput(
            f"ConstantStep(dt={control.dt}) takes {needed} steps from {course.ts[0]} to "
            f"{course.ts[-1]}, more than max_steps={course.max_steps}; raise max_steps or dt"
        )
