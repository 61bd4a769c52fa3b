"""Claim on monotone equilibrium networks: one fixed point, found where Picard diverges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import driftwell as dw
from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal
from driftwell.fixed_points import Picard
from driftwell.fixed_points.solvers.peaceman_rachford import PeacemanRachford
from driftwell.nn.monotone import WINSTON_KOLTER, MonotoneLaw, MonotoneLayer

_WIDTH, _INPUTS, _SAMPLES, _STARTS = 48, 16, 8, 4
_LAYERS, _GAIN, _MARGIN, _TOL = 3, 1.5, 1.0, 1e-8

Change = Callable[[MonotoneLaw, int], MonotoneLaw]


class _Found(NamedTuple):
    """What one layer showed: shares of samples that converged, and how sharply."""

    norm: float
    solved: float
    picard: float
    spread: float
    steps: float
    theory: float


def _draw(*shape: int, seed: int, step: int) -> Tensor:
    return normal(
        shape, seed=seed, purpose=Purpose.DATA, chains=shape[0], step=step, dtype=torch.float64
    )


def _solve(law: MonotoneLaw, seed: int) -> _Found:
    x = _draw(_SAMPLES, _INPUTS, seed=seed, step=0).repeat(_STARTS, 1)
    z0 = 3.0 * _draw(_SAMPLES * _STARTS, _WIDTH, seed=seed, step=1)
    found = dw.fixed_point(
        law, z0, x, solver=PeacemanRachford(), tol=_TOL, max_steps=1000, throw=False
    )
    plain = dw.fixed_point(law, z0, x, solver=Picard(), tol=_TOL, max_steps=1000, throw=False)
    z = found.z
    if not isinstance(z, Tensor):
        raise TypeError("a state of this claim is one tensor")
    points = z.reshape(_STARTS, _SAMPLES, _WIDTH)
    spread = (points - points[0]).norm(dim=2) / points[0].norm(dim=1)
    return _Found(
        norm=float(torch.linalg.matrix_norm(law.W, 2)),
        solved=float((found.status == 0).double().mean()),
        picard=float((plain.status == 0).double().mean()),
        spread=float(spread.max()),
        steps=float(found.steps.max()),
        theory=_steps_of_theory(law, z0, z, x),
    )


def _steps_of_theory(law: MonotoneLaw, z0: Tensor, z: Tensor, x: Tensor) -> float:
    """Evaluations by which the contraction of u guarantees the tolerance, for the worst sample.

    |f(z) - z| <= (1 + |W|) |z - z*| <= (1 + |W|) rate^k |u_0 - u*|, u_0 = z_0, and at the solution
    u* = z* + alpha (W z* + U x + b - z*).
    """
    L, m = law.lipschitz(), law.margin
    alpha = 1.0 / L
    rate = math.sqrt(1 - 4 * alpha * m / (1 + 2 * alpha * m + (alpha * L) ** 2))
    u = z + alpha * (law.linear(z) + law.drive(x) - z)
    norm = float(torch.linalg.matrix_norm(law.W, 2))
    start = (1 + norm) * (z0 - u).norm(dim=1) / (_TOL * z.norm(dim=1))
    return 1 + math.ceil(float(start.log().max()) / -math.log(rate))


def _judge(seed: int, change: Change) -> Outcome:
    layers = []
    with torch.no_grad():
        for i in range(_LAYERS):
            layer = MonotoneLayer(
                _INPUTS, _WIDTH, margin=_MARGIN, gain=_GAIN, seed=1000 * seed + i
            ).double()
            layers.append(_solve(change(layer.law(), 1000 * seed + i), 1000 * seed + i))
    norm = min(each.norm for each in layers)
    solved = min(each.solved for each in layers)
    picard = max(each.picard for each in layers)
    spread = max(each.spread for each in layers)
    late = max(each.steps / each.theory for each in layers)
    holds = norm >= 4.0 and solved == 1.0 and picard == 0.0 and spread <= 1e-6 and late <= 1.0
    return Outcome(
        holds=holds,
        measured={
            "least |W|": norm,
            "least share solved by Peaceman-Rachford": solved,
            "largest share solved by Picard": picard,
            "largest distance of solutions from other starts": spread,
            "most evaluations": max(each.steps for each in layers),
            "most evaluations / those of theory": late,
        },
        bound=f"{_LAYERS} layers of {_WIDTH} neurons with |W| >= 4, {_SAMPLES} inputs, {_STARTS} "
        f"starts: Peaceman-Rachford meets {_TOL:g} for all and Picard for none, in 1000 "
        "evaluations; solutions from different starts within 1e-6; no more evaluations than the "
        "contraction of the linear half guarantees",
    )


def _unconstrained(law: MonotoneLaw, seed: int) -> MonotoneLaw:
    """A Gaussian W of the same norm, for which I - W is not monotone."""
    W = _draw(_WIDTH, _WIDTH, seed=seed, step=2)
    W = W * torch.linalg.matrix_norm(law.W, 2) / torch.linalg.matrix_norm(W, 2)
    return MonotoneLaw(W, law.U, law.b, law.margin, law.prox)


def _without_constraint(seed: int) -> Outcome:
    return _judge(seed, _unconstrained)


@claim(
    id="monotone-unique-equilibrium",
    paper=WINSTON_KOLTER,
    states="with W = (1 - m) I - A^T A + B - B^T the equilibrium exists and is unique for all "
    "weights, and operator splitting finds it where plain iteration diverges",
    stated="I - W is strongly monotone with modulus m; Peaceman-Rachford converges linearly for "
    "every step",
    cpu_minutes=0.03,
    control=_without_constraint,
    control_is="an unconstrained Gaussian W of the same spectral norm",
    fast=True,
)
def monotone_unique_equilibrium(seed: int) -> Outcome:
    """Random monotone layers with large weights, from several starts."""
    return _judge(seed, lambda law, seed: law)
