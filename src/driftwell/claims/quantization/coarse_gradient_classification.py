"""Claims on coarse gradients: classes on orthogonal subspaces, two-bit activations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal, uniform
from driftwell.quantization.training_aware.activations import QuantizedReLU
from driftwell.quantization.training_aware.straight_through import (
    LONG_COARSE,
    ClippedReLUSTE,
    IdentitySTE,
    LogTailedSTE,
    ReLUSTE,
    StraightThrough,
)

_CLASSES, _POINTS, _HIDDEN, _INPUTS, _RUNS, _STEPS = 4, 20, 40, 8, 10, 2000
_TOP = 3.0  # of two bits with step 1


@final
@dataclass(frozen=True)
class _Reversed(StraightThrough):
    """1[x < 0]: neurons learn only where they are silent."""

    def derivative(self, x: Tensor) -> Tensor:
        return (x < 0).to(x.dtype)


def _data(seed: int) -> tuple[Tensor, Tensor]:
    """Inputs (R, C P, 8), P points around the origin in each of C orthogonal planes, and labels
    (C P,).
    """
    frame = normal((_RUNS, _INPUTS, _INPUTS), seed=seed, purpose=Purpose.DATA, chains=_RUNS, step=0)
    planes = torch.linalg.qr(frame)[0].mT.unflatten(1, (_CLASSES, 2))
    u = uniform(
        (_RUNS, _CLASSES, _POINTS, 2), seed=seed, purpose=Purpose.DATA, chains=_RUNS, step=1
    )
    angle, radius = 2.0 * math.pi * u[..., :1], 0.5 + u[..., 1:]
    inside = radius * torch.cat([angle.cos(), angle.sin()], dim=-1)
    return (inside @ planes).flatten(1, 2), torch.arange(_CLASSES).repeat_interleave(_POINTS)


@lru_cache(maxsize=8)
def _steps_needed(ste: StraightThrough, seed: int) -> list[float]:
    """Steps of full-batch coarse gradient descent on W until every sample is classified right,
    for every run; inf beyond the budget. V is fixed: a block of ten neurons votes for its class.
    """
    x, y = _data(seed)
    w = normal((_RUNS, _INPUTS, _HIDDEN), seed=seed, purpose=Purpose.INIT, chains=_RUNS, step=0)
    w = w / _INPUTS**0.5
    activation, mine = QuantizedReLU(2, 1.0, ste), torch.nn.functional.one_hot(y, _CLASSES).bool()
    needed = torch.full((_RUNS,), math.inf)
    for step in range(_STEPS):
        w.requires_grad_()
        votes = activation(x @ w).unflatten(2, (_CLASSES, -1)).sum(-1)
        own = votes[:, mine][..., None]
        margins = (1.0 - own + votes).clamp(min=0.0).masked_fill(mine, 0.0)
        beaten = (votes >= own).masked_fill(mine, False).flatten(1).any(1)
        needed = torch.where(~beaten & needed.isinf(), float(step), needed)
        if bool(needed.isfinite().all()):
            break
        loss = margins.sum(-1).mean(1).sum()
        w = w.detach() - 0.1 * torch.autograd.grad(loss, w)[0]
    return [float(each) for each in needed]


def _summary(name: str, steps: list[float]) -> dict[str, float]:
    return {
        f"solved of {_RUNS}, {name}": float(sum(map(math.isfinite, steps))),
        f"slowest, {name}": max((s for s in steps if math.isfinite(s)), default=math.inf),
        f"median, {name}": sorted(steps)[_RUNS // 2],
    }


def _judge_three(family: tuple[tuple[str, StraightThrough], ...], seed: int) -> Outcome:
    measured: dict[str, float] = {}
    for name, ste in family:
        measured |= _summary(name, _steps_needed(ste, seed))
    solved = [measured[f"solved of {_RUNS}, {name}"] for name, _ in family]
    return Outcome(
        holds=min(solved) == _RUNS,
        measured=measured,
        bound=f"every sample right before step {_STEPS} in all {_RUNS} runs of each estimator",
    )


_MONOTONE: tuple[tuple[str, StraightThrough], ...] = (
    ("ReLU", ReLUSTE()),
    ("clipped ReLU", ClippedReLUSTE(_TOP)),
    ("log-tailed", LogTailedSTE(_TOP)),
)


def _reversed(seed: int) -> Outcome:
    return _judge_three((("reversed", _Reversed()),), seed)


@claim(
    id="coarse-gradient-subspaces",
    paper=LONG_COARSE,
    states="coarse gradient descent with ReLU, clipped ReLU or a log-tailed surrogate classifies "
    "four classes on orthogonal planes perfectly (40 neurons of 2 bits, V fixed)",
    stated="theory: converges to perfect classification; card: in less than 2000 steps",
    cpu_minutes=0.05,
    fast=True,
    control=_reversed,
    control_is="a surrogate derivative that is 1 where a neuron is silent and 0 where it is not",
)
def subspaces(seed: int) -> Outcome:
    """Steps to perfect classification with three surrogates."""
    return _judge_three(_MONOTONE, seed)


def _judge_identity(rival: StraightThrough, seed: int) -> Outcome:
    relu, other = _steps_needed(ReLUSTE(), seed), _steps_needed(rival, seed)
    measured = _summary("ReLU", relu) | _summary("rival", other)
    key = f"solved of {_RUNS}, "
    fewer = measured[key + "rival"] < measured[key + "ReLU"]
    slower = measured["median, rival"] > 1.2 * measured["median, ReLU"]
    return Outcome(
        holds=fewer or slower,
        measured=measured,
        bound="the identity solves fewer runs than ReLU, or needs 1.2 times its median steps",
    )


def _relu_as_rival(seed: int) -> Outcome:
    return _judge_identity(ReLUSTE(), seed)


@claim(
    id="coarse-gradient-identity",
    paper=LONG_COARSE,
    states="the identity estimator classifies the same data more slowly, or less often",
    stated="card: identity converges slower or less often",
    cpu_minutes=0.05,
    fast=True,
    control=_relu_as_rival,
    control_is="ReLU in the identity's place",
)
def identity(seed: int) -> Outcome:
    """Steps to perfect classification, identity against ReLU."""
    return _judge_identity(IdentitySTE(), seed)
