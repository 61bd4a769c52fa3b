"""Solving first, without a record: what every gradient but `Unrolled` begins with."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from driftwell.core.status import Status
from driftwell.fixed_points.iteration import FlatMap, Outcome, Problem, check_outcome, iterate


def settle(problem: Problem) -> tuple[Outcome, bool]:
    """Outcome of `problem`, free of derivatives, and whether f has any to give.

    Raises:
        Diverged: f became NaN or infinite for a sample, if the problem throws.
        NotConverged: a sample used up its steps, if the problem throws.
    """
    f = _FirstCall(problem.f)
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        outcome = iterate(replace(problem, f=f, z0=problem.z0.detach()))
    if problem.throw:
        check_outcome(outcome)
    return replace(outcome, z=outcome.z.detach()), bool(f.differentiable)


def sound_rows(outcome: Outcome) -> Tensor:
    """Samples that did not diverge, (B, 1): only those have derivatives."""
    return (outcome.status != int(Status.DIVERGED))[:, None]


def with_derivatives_of(y: Tensor, outcome: Outcome) -> Outcome:
    """`outcome` whose `z` keeps its value and takes the derivatives of `y` (B, D)."""
    difference = torch.where(sound_rows(outcome), y - y.detach(), 0.0)
    return replace(outcome, z=outcome.z + difference)


def transformed() -> bool:
    """Whether a `torch.func` transform is at work."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def forward_mode() -> bool:
    """Whether forward-mode derivatives are being taken outside of `torch.func`."""
    return forward_ad._current_level >= 0 and not transformed()


class _FirstCall:
    """The map, noticing at its first call whether there is anything to differentiate."""

    def __init__(self, f: FlatMap) -> None:
        self.f = f
        self.differentiable: bool | None = None
        self._recording = torch.is_grad_enabled()

    def __call__(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        if self.differentiable is not None:
            return self.f(z, rows)
        with torch.set_grad_enabled(self._recording):
            value = self.f(z, rows)
        self.differentiable = value.requires_grad or forward_mode() or transformed()
        return value.detach()
