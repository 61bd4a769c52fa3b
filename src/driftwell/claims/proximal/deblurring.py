"""Claim on plug and play: with a learned proximal operator it descends and settles."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal, uniform
from driftwell.models.proximal import (
    LPN,
    LPN_PAPER,
    LeastSquares,
    PlugAndPlayADMM,
    PlugAndPlayPGD,
    Stage,
    train_denoiser,
)

_LENGTH, _SIGMA, _STEPS = 32, 0.1, 3000


def bumps(count: int, seed: int, update: int) -> Tensor:
    """Signals on a ring: two bumps of random place, width 1 to 3 and height 0.3 to 1, (n, 32)."""
    u = uniform((count, 2, 3), seed=seed, purpose=Purpose.DATA, chains=count, step=update)
    place, width, height = (_LENGTH * u[..., 0], 1 + 2 * u[..., 1], 0.3 + 0.7 * u[..., 2])
    angle = (torch.arange(_LENGTH) - place[..., None]) * (2 * math.pi / _LENGTH)
    across = (_LENGTH / math.pi) * torch.sin(angle / 2)  # distance along the ring, nearly
    return (height[..., None] * torch.exp(-0.5 * (across / width[..., None]).square())).sum(1)


@lru_cache(maxsize=4)
def _denoiser(seed: int) -> LPN:
    lpn = LPN((_LENGTH,), hidden=96, depth=3, sharpness=10.0, seed=seed)
    schedule = (Stage(None, 1500, 3e-3, 1e-3), Stage(0.6, 700, 1e-3), Stage(0.3, 700, 1e-3, 1e-4))
    train_denoiser(lpn, lambda k: bumps(128, seed, k), _SIGMA, schedule, seed=seed)
    return lpn.double()


def _blur() -> Tensor:
    """Circular blur by a Gaussian of width 1.5, of norm 1, (32, 32)."""
    i = torch.arange(_LENGTH, dtype=torch.float64)
    apart = (i[:, None] - i + _LENGTH / 2) % _LENGTH - _LENGTH / 2
    kernel = torch.exp(-0.5 * (apart / 1.5).square())
    return kernel / kernel.sum(1, keepdim=True)


def _decibel(error: Tensor) -> float:
    return -10 * math.log10(float(error.square().mean()))


def _judge(twist: float, seed: int) -> Outcome:
    lpn = _denoiser(seed)
    with torch.no_grad():
        return _judge_denoiser(lpn, twist, seed)


def _judge_denoiser(lpn: LPN, twist: float, seed: int) -> Outcome:
    fidelity = LeastSquares(_blur(), weight=1.0)
    truth = bumps(8, seed, 10**6).double()
    noise = normal(truth.shape, seed=seed, purpose=Purpose.PROBE, chains=8, step=0)
    b = truth @ fidelity.A.T + _SIGMA * noise
    shift = torch.eye(_LENGTH, dtype=torch.float64).roll(1, 0)
    K = 0.5 * twist * (shift - shift.T)  # |K| = twist

    def descended(z: Tensor) -> Tensor:
        return z - fidelity.weight * (z @ fidelity.A.T - b) @ fidelity.A

    descent, z, values = PlugAndPlayPGD(lpn, fidelity), b, []
    for _ in range(_STEPS):
        after = descent(z, b) + descended(z) @ K.T
        values.append(fidelity.energy(after, b) + lpn.conjugate(descended(z), after))
        move, z = (after - z).norm(dim=1), after
    rise = float((torch.stack(values)[1:] - torch.stack(values)[:-1]).max())
    admm, pair = PlugAndPlayADMM(lpn, fidelity), (b, torch.zeros_like(b))
    for _ in range(_STEPS):
        last, pair = pair[0], admm(pair, b)
    rounds = float((pair[0] - last).norm(dim=1).max())
    return Outcome(
        holds=float(move.max()) < 1e-5 and rounds < 1e-5 and rise < 1e-10,
        measured={
            "last move, descent": float(move.max()),
            "last move, ADMM": rounds,
            "largest rise of D + R": rise,
            "dB, measured": _decibel(b - truth),
            "dB, restored": _decibel(z - truth),
            "dB, restored by ADMM": _decibel(pair[0] - truth),
        },
        bound="after 3000 steps |z+ - z| < 1e-5 on all 8 signals, by descent and by ADMM; the "
        "objective D + R of descent never rises by more than 1e-10",
        series={"D + R": ([float(k) for k in range(200)], [float(v.mean()) for v in values[:200]])},
    )


def _twisted(seed: int) -> Outcome:
    return _judge(1.0, seed)


@claim(
    id="lpn-deblurring",
    paper=LPN_PAPER,
    states="plug-and-play iterations with a learned proximal network converge, and descend an "
    "objective that can be evaluated",
    stated="card: |x_{k+1} - x_k| < 1e-5 with a monotone objective, on a 1-D deblurring",
    cpu_minutes=1.0,
    control=_twisted,
    control_is="a denoiser that is no gradient: f(y) + K y with K skew-symmetric, |K| = 1 (in "
    "descent)",
)
def deblurring(seed: int) -> Outcome:
    """Deblurring of bumps on a ring by proximal gradient descent and ADMM."""
    return _judge(0.0, seed)
