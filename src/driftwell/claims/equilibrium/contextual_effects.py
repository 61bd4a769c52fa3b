"""Claim on contextual effects: an input's partners are found, and none where there are none."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, uniform
from driftwell.measures.interactions import CONTEXT, contextual_effects, pairwise_interactions

_PARTNER = {0: 1, 1: 0, 3: 4, 4: 3}


def _paired(x: Tensor) -> Tensor:
    return x[:, 0] * x[:, 1] + x[:, 2] + torch.tanh(x[:, 3] * x[:, 4])


def _additive(x: Tensor) -> Tensor:
    return x[:, 0] + x[:, 1] + x[:, 2] + torch.tanh(x[:, 3]) + torch.tanh(x[:, 4])


def _points(seed: int) -> Tensor:
    """64 points with entries of size 0.5 to 1.5 and either sign."""
    draws = uniform(
        (64, 5, 2), seed=seed, purpose=Purpose.DATA, chains=64, step=0, dtype=torch.float64
    )
    return (0.5 + draws[..., 0]) * torch.where(draws[..., 1] < 0.5, -1.0, 1.0)


def _context(seed: int, model: Callable[[Tensor], Tensor]) -> Outcome:
    x, right, exact, spurious = _points(seed), [], [], 0.0
    for unit in range(5):
        found = contextual_effects(model, x, unit)
        wanted = _PARTNER.get(unit, -1)
        right.append((found.partner == wanted).double().mean())
        region = found.mask > 0.5
        region[:, unit] = False
        target = torch.arange(5) == wanted
        exact.append((region == target).all(dim=1).double().mean())
        apart = ~target
        spurious = max(spurious, float(pairwise_interactions(model, x, unit)[:, apart].abs().max()))
    shares = [float(torch.stack(each).mean()) for each in (right, exact)]
    return Outcome(
        holds=shares == [1.0, 1.0] and spurious < 1e-6,
        measured={
            "share of right partners": shares[0],
            "share of exact regions": shares[1],
            "largest interaction of units that add": spurious,
        },
        bound="f = x1 x2 + x3 + tanh(x4 x5) at 64 points: every unit's partner and region right "
        "(none for x3), |I_ij| < 1e-6 for units that add",
    )


def _without_pairs(seed: int) -> Outcome:
    return _context(seed, _additive)


@claim(
    id="contextual-effects",
    paper=CONTEXT,
    states="the effect of an input is traced to the units it acts with, coarsely by a learned mask "
    "and finely by pairwise interactions",
    stated="card, on a function with known pairs instead of a network that plays Go: the first "
    "partner right for all units, none for additive ones, the mask of unit 1 is {2}",
    cpu_minutes=0.04,
    control=_without_pairs,
    control_is="a model that is a sum over its inputs, in which nobody has a partner",
    fast=True,
)
def context(seed: int) -> Outcome:
    """Partners and regions of five inputs."""
    return _context(seed, _paired)
