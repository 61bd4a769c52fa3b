"""Claims on straight-through estimators: what they expect, and where they can stay."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal
from driftwell.quantization.training_aware.binary_teacher import BinaryTeacher
from driftwell.quantization.training_aware.coarse_gradient import coarse_gradient_alignment
from driftwell.quantization.training_aware.straight_through import (
    YIN_STE,
    IdentitySTE,
    ReLUSTE,
    StraightThrough,
)

_HIDDEN, _INPUTS = 4, 6
_ESTIMATORS: tuple[tuple[str, StraightThrough], ...] = (
    ("ReLU", ReLUSTE()),
    ("identity", IdentitySTE()),
)


def _gaussian(seed: int, step: int, *shape: int) -> Tensor:
    return normal(
        shape, seed=seed, purpose=Purpose.USER, chains=shape[0], step=step, dtype=torch.float64
    )


def _random_pairs(seed: int, draws: int) -> tuple[BinaryTeacher, Tensor, Tensor]:
    """`draws` teachers and students, all entries standard normal."""
    parts = [
        _gaussian(seed, i, draws, size) for i, size in enumerate((_HIDDEN, _INPUTS, _HIDDEN, 6))
    ]
    return BinaryTeacher(parts[0], parts[1]), parts[2], parts[3]


def _judge_expectations(swapped: bool, seed: int) -> Outcome:
    draws, blocks, samples = 6, 8, 50_000
    teacher, v, w = _random_pairs(seed, draws)
    sums = {name: torch.zeros_like(w) for name, _ in _ESTIMATORS}
    for i in range(draws):
        one = BinaryTeacher(teacher.v[i], teacher.w[i])
        for block in range(blocks):
            z = _gaussian(seed, 10 + i * blocks + block, samples, _HIDDEN, _INPUTS)
            for name, ste in _ESTIMATORS:
                sums[name][i] += one.sampled_gradients(v[i], w[i], z, ste)[1] / blocks
    downhill = teacher.gradients(v, w)[1]
    measured: dict[str, float] = {}
    for name, ste in _ESTIMATORS:
        other = next(each for each in _ESTIMATORS if each[0] != name)[1]
        exact = teacher.expected_coarse_gradient(v, w, other if swapped else ste)
        measured[f"relative error, {name}"] = float((sums[name] - exact).norm() / exact.norm())
        measured[f"lowest cosine, {name}"] = min(
            float(coarse_gradient_alignment([a], [b]))
            for a, b in zip(sums[name], downhill, strict=True)
        )
    # in closed form over many more draws
    teacher, v, w = _random_pairs(seed + 1, 10_000)
    downhill = teacher.gradients(v, w)[1]
    for name, ste in _ESTIMATORS:
        product = (teacher.expected_coarse_gradient(v, w, ste) * downhill).sum(-1)
        measured[f"positive of 10000, {name}"] = float((product > 0).sum())
    errors = [measured[f"relative error, {name}"] for name, _ in _ESTIMATORS]
    positive = [measured[f"positive of 10000, {name}"] for name, _ in _ESTIMATORS]
    return Outcome(
        holds=max(errors) <= 0.02 and min(positive) == 10_000,
        measured=measured,
        bound="both expectations over 6 draws within 2 % of the closed forms at 4e5 samples a "
        "draw; both closed forms with a positive inner product with df/dw on 10000 of 10000 draws",
    )


def _swapped(seed: int) -> Outcome:
    return _judge_expectations(True, seed)


@claim(
    id="ste-expected-gradients",
    paper=YIN_STE,
    states="the mean coarse gradients of the ReLU and the identity estimator have closed forms, "
    "and both point downhill on the population loss",
    stated="theory: <E g, df/dw> = sin t (v^T v*)^2 / (2 (2 pi)^(3/2) |w|) for ReLU, twice that "
    "for the identity",
    cpu_minutes=0.05,
    control=_swapped,
    control_is="each estimator judged by the other's closed form",
    fast=True,
)
def expected_gradients(seed: int) -> Outcome:
    """Monte Carlo against the closed forms, and the sign of both inner products."""
    return _judge_expectations(False, seed)


def _drift(teacher: BinaryTeacher, start: tuple[Tensor, Tensor], ste: StraightThrough) -> float:
    """Root mean square of |w - w_0| after 1000 steps of 1e-3 along the mean coarse gradient."""
    (v, w), rate = start, 1e-3
    for _ in range(1000):
        d_v = teacher.gradients(v, w)[0]
        v, w = v - rate * d_v, w - rate * teacher.expected_coarse_gradient(v, w, ste)
    return float((w - start[1]).square().sum(-1).mean().sqrt())


def _judge_minimum(second: StraightThrough, seed: int) -> Outcome:
    v, w = _gaussian(seed, 0, 64, _HIDDEN), _gaussian(seed, 1, 64, _INPUTS)
    # where 2 (1^T v*)^2 < (m + 1) |v*|^2 the point w = -w* is a minimum, not a saddle
    proper = 2 * v.sum(-1).square() < (_HIDDEN + 1) * v.square().sum(-1)
    teacher = BinaryTeacher(v[proper], w[proper])
    v0, w0 = teacher.spurious_minimum()
    start = (
        v0 + 1e-3 * _gaussian(seed, 2, *v0.shape),
        w0 + 1e-3 * _gaussian(seed, 3, *w0.shape),
    )
    relu, identity = _drift(teacher, start, ReLUSTE()), _drift(teacher, start, second)
    return Outcome(
        holds=identity >= 10 * relu,
        measured={
            "teachers": float(len(v0)),
            "drift, ReLU": relu,
            "drift, identity": identity,
            "ratio": identity / max(relu, math.ulp(0.0)),
        },
        bound="drift of w under the identity at least 10 times that under ReLU",
    )


def _relu_twice(seed: int) -> Outcome:
    return _judge_minimum(ReLUSTE(), seed)


@claim(
    id="ste-spurious-minimum",
    paper=YIN_STE,
    states="descent along the identity's coarse gradient leaves a minimum of the population loss "
    "at which descent along ReLU's stays (started 1e-3 beside it, 1000 steps of 1e-3)",
    stated="theory: E g of the identity does not vanish at w = -w*, that of ReLU does",
    cpu_minutes=0.02,
    control=_relu_twice,
    control_is="ReLU in the identity's place",
    fast=True,
)
def spurious_minimum(seed: int) -> Outcome:
    """Drift from the spurious minimum under both estimators."""
    return _judge_minimum(IdentitySTE(), seed)
