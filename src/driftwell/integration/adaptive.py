"""Integration with steps of each sample's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from driftwell.core.status import Status
from driftwell.integration.flat_field import Course, Travelled
from driftwell.integration.step_control import AdaptiveStep, rms


@dataclass(frozen=True, eq=False)
class _Pace:
    """Where each sample is: all (B,), but z and slope (B, D).

    `dt` is the signed step to try next, `error` that of the last accepted step, `fresh` whether
    the last try was accepted, `running` whether the sample is still worth a try.
    """

    t: Tensor
    z: Tensor
    slope: Tensor | None
    dt: Tensor
    error: Tensor
    fresh: Tensor
    running: Tensor
    status: Tensor
    steps: Tensor
    rejected: Tensor


def run_adaptive(course: Course, control: AdaptiveStep) -> Travelled:
    """Every sample with its own time, step and verdict; they wait for each other at `ts` only.

    Step lengths are constants to autograd.
    """
    pace = _start(course, control)
    zs = [pace.z]
    for target in course.ts[1:]:
        while bool((pace.running & (pace.t != target)).any()):
            pace = _advance(course, control, pace, target)
        zs.append(pace.z)
    status = torch.where(pace.running, int(Status.COMPLETED), pace.status).to(torch.int8)
    return Travelled(zs, status, pace.steps, pace.rejected)


def _start(course: Course, control: AdaptiveStep) -> _Pace:
    z = course.z0
    t = course.time(course.ts[0])
    slope = course.field.drift(t, z)
    none = torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
    yes = torch.ones_like(none, dtype=torch.bool)
    return _Pace(
        t=t,
        z=z,
        slope=slope,
        dt=_first_step(course, control, t, z, slope.detach()),
        error=torch.ones_like(t),
        fresh=yes,
        running=yes,
        status=torch.full_like(none, int(Status.COMPLETED)),
        steps=none,
        rejected=none,
    )


def _advance(course: Course, control: AdaptiveStep, pace: _Pace, target: float) -> _Pace:
    """One try for every sample that has not reached `target`."""
    moving = pace.running & (pace.t != target)
    gap = target - pace.t
    cut = pace.dt.abs() * 1.01 >= gap.abs()  # no crumb of a step is left over
    dt = torch.where(moving, torch.where(cut, gap, pace.dt), 0.0)
    proposal = course.integrator.step(course.field, pace.t, pace.z, dt, None, pace.slope)
    if proposal.error is None:
        raise TypeError(f"{course.integrator!r} names an error order but returned no error")
    error = control.error(proposal.error, pace.z, proposal.z).to(dt.dtype)
    accepted = moving & (error <= 1.0)
    keep = accepted[:, None]
    slope = proposal.slope
    if slope is not None and pace.slope is not None:
        slope = torch.where(keep, slope, pace.slope)
    order = course.integrator.error_order or 0
    factor = control.factor(error, pace.error, order, accepted & pace.fresh)
    # A step cut to hit the target says little about the next: never shrink because of the cut.
    proposed = torch.where(accepted & cut, _longer(dt * factor, pace.dt), dt * factor)
    later = replace(
        pace,
        t=torch.where(accepted, torch.where(cut, target, pace.t + dt), pace.t),
        z=torch.where(keep, proposal.z, pace.z),
        slope=slope,
        dt=torch.where(moving, proposed, pace.dt),
        error=torch.where(accepted, error, pace.error),
        fresh=torch.where(moving, accepted, pace.fresh),
        steps=pace.steps + accepted,
        rejected=pace.rejected + (moving & ~accepted),
    )
    return _give_up(course, later, moving & ~accepted, error, target)


def _give_up(course: Course, pace: _Pace, refused: Tensor, error: Tensor, target: float) -> _Pace:
    """Stop samples whose step vanished or whose budget is used up."""
    eps = torch.finfo(course.dtype).eps
    span = abs(course.ts[-1] - course.ts[0])
    floor = (4.0 * eps * pace.t.abs()).clamp_min(eps * eps * span)
    small = refused & (pace.dt.abs() < floor)
    spent = pace.running & (pace.t != target) & (pace.steps + pace.rejected >= course.max_steps)
    status = torch.where(spent, int(Status.BUDGET_REACHED), pace.status)
    status = torch.where(small, int(Status.STEP_UNDERFLOW), status)
    status = torch.where(small & torch.isinf(error), int(Status.DIVERGED), status)
    return replace(pace, status=status, running=pace.running & ~small & ~spent)


def _first_step(
    course: Course, control: AdaptiveStep, t: Tensor, z: Tensor, slope: Tensor
) -> Tensor:
    """Signed first step per sample, (B,), as Hairer, Nørsett and Wanner estimate it (II.4)."""
    span = course.ts[-1] - course.ts[0]
    if control.dt0 is not None:
        return torch.full_like(t, math.copysign(min(control.dt0, abs(span)), span))
    with torch.no_grad():
        scale = control.scale(z, z)
        size, speed = rms(z / scale), rms(slope / scale)
        slow = (size < 1e-5) | (speed < 1e-5)
        guess = torch.where(slow, 1e-6 * abs(span), 0.01 * size / speed.clamp_min(1e-30))
        guess = guess.to(t.dtype).clamp_max(abs(span))
        signed = guess * math.copysign(1.0, span)
        ahead = course.field.drift(t + signed, z + signed.to(z.dtype)[:, None] * slope)
        bend = rms((ahead - slope) / scale).to(t.dtype) / guess
        fastest = torch.maximum(speed.to(t.dtype), bend)
        k = (course.integrator.error_order or 0) + 1
        curved = torch.where(
            fastest <= 1e-15,
            torch.maximum(guess * 1e-3, torch.full_like(guess, 1e-6 * abs(span))),
            (0.01 / fastest.clamp_min(1e-15)) ** (1.0 / k),
        )
        first = torch.minimum(100.0 * guess, curved).clamp_max(abs(span))
        first = torch.where(torch.isfinite(first) & (first > 0), first, 1e-6 * abs(span))
    return first * math.copysign(1.0, span)


def _longer(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a.abs() >= b.abs(), a, b)
