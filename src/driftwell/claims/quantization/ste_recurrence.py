"""Claim on recurrence: one-bit training keeps coming back to the optimum it does not keep."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from driftwell.claims.quantization.ste_bench import binary_weights
from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal
from driftwell.quantization.training_aware.binary_teacher import BinaryTeacher
from driftwell.quantization.training_aware.recurrence import (
    LONG_RECURRENCE,
    TailAverage,
    VisitCounter,
    Visits,
)
from driftwell.quantization.training_aware.straight_through import ReLUSTE

_RUNS, _INPUTS, _HIDDEN, _STEPS, _TAIL = 100, 10, 6, 4000, 200


def _gaussian(seed: int, step: int, size: int) -> Tensor:
    shape = (_RUNS, size)
    return normal(
        shape, seed=seed, purpose=Purpose.USER, chains=_RUNS, step=step, dtype=torch.float64
    )


@lru_cache(maxsize=4)
def _orbits(at_quantized: bool, seed: int) -> tuple[Visits, Visits, Tensor, Tensor]:
    """Visits over the first half and over all; population loss at the quantized last iterate and
    at the quantized mean of the last 200 float weights, (R,).
    """
    v = _gaussian(seed, 0, _HIDDEN)
    teacher = BinaryTeacher(v, _gaussian(seed, 1, _INPUTS))
    # of all sign vectors the one at the smallest angle to w* has the least loss
    optimum = binary_weights(teacher.w)
    w = _gaussian(seed, 2, _INPUTS) / _INPUTS**0.5
    counter, tail = VisitCounter(), TailAverage(_STEPS - _TAIL)
    visits = halfway = counter.init(_RUNS)
    carry = tail.init(w)
    for step in range(_STEPS):
        q = binary_weights(w)
        visits = counter.step(visits, q, optimum)
        halfway = visits if step == _STEPS // 2 else halfway
        w = w - 0.02 * teacher.expected_coarse_gradient(v, q if at_quantized else w, ReLUSTE())
        carry = tail.step(carry, step, w)
    last, mean = (teacher.loss(v, binary_weights(each)) for each in (w, tail.mean(carry)))
    return halfway, visits, last, mean


def _judge(at_quantized: bool, seed: int) -> Outcome:
    halfway, visits, last, mean = _orbits(at_quantized, seed)
    revisits = visits.arrivals - halfway.arrivals
    share = float((revisits >= 10).double().mean())
    return Outcome(
        holds=share >= 0.95 and float(mean.mean()) <= float(last.mean()),
        measured={
            "share revisited 10 times": share,
            "median revisits": float(revisits.double().median()),
            "share of time at the optimum": float((visits.at_target / visits.steps).mean()),
            "loss, last iterate": float(last.mean()),
            "loss, mean then quantized": float(mean.mean()),
        },
        bound="at least 95 % of 100 runs come back to the optimum 10 times or more in the second "
        "half of 4000 steps; the mean of the last 200 float weights, quantized, has a mean loss "
        "not above the last iterate's",
    )


def _float_gradient(seed: int) -> Outcome:
    return _judge(False, seed)


@claim(
    id="ste-recurrence",
    paper=LONG_RECURRENCE,
    states="with a float teacher the quantized weights visit the best of their grid again and "
    "again without staying; averaging the last float weights does better than stopping",
    stated="card: revisited at least 10 times in the second half in 95 % of the runs",
    cpu_minutes=0.05,
    control=_float_gradient,
    control_is="the coarse gradient taken at the float weights, which settle",
    fast=True,
)
def recurrence(seed: int) -> Outcome:
    """Revisits of the discrete optimum under the expected coarse gradient."""
    return _judge(True, seed)
