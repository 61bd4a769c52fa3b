"""The bench of the claims on recovery: one-bit weights, one-bit activations, N samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper
from driftwell.quantization.training_aware.activations import BinaryActivation, Sign
from driftwell.quantization.training_aware.recurrence import VisitCounter, Visits
from driftwell.quantization.training_aware.straight_through import ReLUSTE

JEONG_STE = Paper(
    key="jeong2025ste",
    title="Beyond Discreteness: Finite-Sample Analysis of Straight-Through Estimator "
    "for Quantization",
    authors="Jeong, Halyun and Xin, Jack and Yin, Penghang",
    year=2025,
    arxiv="2505.18113",
)
HIDDEN = 6  # m of the card
_RATE = 0.02
_ACTIVATION = BinaryActivation(ReLUSTE())


@dataclass(frozen=True, eq=False)
class Recovery:
    """R runs of one-bit training.

    Attributes:
        visits: counts of the visits to the true weights, over all steps.
        halfway: the same, over the first half.
    """

    visits: Visits
    halfway: Visits


def gaussian(seed: int, step: int, *shape: int) -> Tensor:
    """Keyed standard normal numbers; run r's depend on r alone."""
    return normal(shape, seed=seed, purpose=Purpose.USER, chains=shape[0], step=step)


def binary_weights(w: Tensor) -> Tensor:
    """Q(w) = sign(w) / sqrt(n), sign(0) = 1."""
    sign: Tensor = Sign()(w)
    return sign / math.sqrt(w.shape[-1])


def recover(
    z: Tensor, *, seed: int, steps: int, noise: float = 0.0, shuffled: bool = False
) -> Recovery:
    """Train w by w <- w - 0.02 g(Q(w)), g the coarse gradient of the ReLU estimator on each run's
    N samples z (R, n, N, m), inputs first, and count the visits of Q(w) to the teacher's w*.

    The labels are y = v^T 1[z w* > 0] + noise xi with a known standard normal v and random
    signs w*; `shuffled` hands them to the wrong samples.
    """
    runs, n, samples, m = z.shape
    target = binary_weights(gaussian(seed, 1, runs, n))
    v, w = gaussian(seed, 2, runs, m), gaussian(seed, 3, runs, n) / n**0.5
    y = _outputs(z, v, target) + noise * gaussian(seed, 4, runs, samples)
    y = y.roll(1, dims=1) if shuffled else y
    counter = VisitCounter()
    visits = halfway = counter.init(runs)
    for step in range(steps):
        q = binary_weights(w).requires_grad_()
        loss = 0.5 * (_outputs(z, v, q) - y).square().mean(1).sum()
        visits = counter.step(visits, q, target)
        halfway = visits if step == steps // 2 else halfway
        w = w - _RATE * torch.autograd.grad(loss, q)[0]
    return Recovery(visits, halfway)


def _outputs(z: Tensor, v: Tensor, q: Tensor) -> Tensor:
    """v^T s(Z q) for every sample, (R, N)."""
    hidden: Tensor = _ACTIVATION((q[:, None] @ z.flatten(2)).view(len(z), *z.shape[2:]))
    return (hidden @ v[..., None])[..., 0]
