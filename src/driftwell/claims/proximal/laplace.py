"""Claims on learned proximal networks where the answer is known: Laplace samples, unit noise."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, uniform
from driftwell.models.proximal import LPN, LPN_PAPER, Stage, train_denoiser

_BATCH = 1000
_GAMMA = 0.1
# Each stage settles before the next: the narrower the loss, the less it pulls from afar.
_MATCHING = (
    Stage(None, 1500, 1e-2, 1e-3),
    Stage(0.5, 1000, 5e-3, 1e-3),
    Stage(0.25, 1000, 3e-3, 1e-3),
    Stage(_GAMMA, 1500, 3e-3, 1e-4),
)
_MEAN = (Stage(math.inf, 1500, 1e-2, 1e-4),)


def laplace(seed: int, update: int) -> Tensor:
    """Samples of p(x) = exp(-|x|) / 2, (B, 1), one from each B-th of its probability."""
    u = uniform(
        (_BATCH,), seed=seed, purpose=Purpose.DATA, chains=_BATCH, step=update, dtype=torch.float64
    )
    p = (torch.arange(_BATCH) + u) / _BATCH - 0.5
    return (-p.sign() * torch.log1p(-2 * p.abs()))[:, None].float()


@lru_cache(maxsize=8)
def trained(schedule: tuple[Stage, ...], seed: int) -> LPN:
    """The card's network in one dimension, trained on Laplace samples with noise 1."""
    lpn = LPN((1,), hidden=50, depth=4, sharpness=10.0, seed=seed)
    train_denoiser(lpn, lambda update: laplace(seed, update), 1.0, schedule, seed=seed)
    return lpn


def _soft(y: Tensor) -> Tensor:
    return y.sign() * (y.abs() - 1.0).clamp(min=0.0)


def _posterior(y: Tensor) -> tuple[Tensor, Tensor]:
    """Points x and the unnormalised p(x | y) on them, (len(y), len(x))."""
    x = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64)
    return x, torch.exp(-0.5 * (x - y.double()[:, None]).square() - x.abs())


def posterior_mean(y: Tensor) -> Tensor:
    """E[x | y] by quadrature, for y of shape (n,)."""
    x, p = _posterior(y)
    return (p * x).sum(1) / p.sum(1)


def matching_minimiser(y: float, gamma: float) -> float:
    """argmin over f of E[1 - exp(-(f - x)^2 / gamma^2) | y] by quadrature, to 1e-3."""
    x, p = _posterior(torch.tensor([y]))
    f = torch.arange(min(0.0, y) - 0.5, max(0.0, y) + 0.5, 1e-3, dtype=torch.float64)
    near = torch.exp(-((f[:, None] - x) / gamma).square())
    return float(f[(near @ p[0]).argmax()])


def _judge_laplace(schedule: tuple[Stage, ...], seed: int) -> Outcome:
    y = torch.linspace(-3.0, 3.0, 241)
    with torch.no_grad():
        ours = trained(schedule, seed).prox(y[:, None])[:, 0]
        mean = trained(_MEAN, seed).prox(y[:, None])[:, 0]
    at = int((y - 0.9).abs().argmin())
    ours_at, mean_at = float(ours[at]), float(mean[at])
    off = float((ours - _soft(y)).abs().max())
    return Outcome(
        holds=abs(ours_at) < 0.15 and off < 0.15 and 0.40 < mean_at < 0.50,
        measured={
            "f(0.9)": ours_at,
            "max |f - soft|": off,
            "f(0.9), trained by l2": mean_at,
            "posterior mean at 0.9": float(posterior_mean(y[at : at + 1])),
            "minimiser of the loss at 0.9": matching_minimiser(0.9, _GAMMA),
            "max |f - soft|, trained by l2": float((mean - _soft(y)).abs().max()),
        },
        bound="|f(0.9)| < 0.15 and max |f - soft| < 0.15 on [-3, 3]; trained by l2, f(0.9) in "
        "(0.40, 0.50). The card asks for |f(0.9)| < 0.08, which not even the minimiser of the loss "
        "at gamma = 0.1 meets (0.091, by quadrature), so its bound on [-3, 3] is used there too",
        series={
            "proximal matching": (y.tolist(), ours.tolist()),
            "l2": (y.tolist(), mean.tolist()),
            "soft threshold": (y.tolist(), _soft(y).tolist()),
        },
    )


def _by_mean(seed: int) -> Outcome:
    return _judge_laplace(_MEAN, seed)


@claim(
    id="lpn-laplace",
    paper=LPN_PAPER,
    states="trained by proximal matching on Laplace samples, the network becomes the soft "
    "threshold, the proximal operator of |x|; trained by squares, the posterior mean",
    stated="card: soft threshold 0 at y = 0.9 against a posterior mean of 0.448. Measured here, "
    "with 5000 updates where the authors take some 15,000: f(0.9) = 0.150 and max |f - soft| = "
    "0.187 (seed 0), on the way there from 0.502 by squares. With 15,000 updates: f(0.9) = 0.101, "
    "0.120, 0.108 and max |f - soft| = 0.138, 0.157, 0.186 for seeds 0, 1, 2",
    cpu_minutes=0.8,
    control=_by_mean,
    control_is="the network trained by squares, judged as if by proximal matching",
    expected="not_reproduced",
)
def soft_threshold(seed: int) -> Outcome:
    """The learned proximal operator against the soft threshold."""
    return _judge_laplace(_MATCHING, seed)


def _judge_prior(schedule: tuple[Stage, ...], seed: int) -> Outcome:
    x = torch.linspace(-2.0, 2.0, 81)
    x = x[x.abs() >= 0.1]
    prior = trained(schedule, seed).prior(x[:, None], tol=1e-3, max_steps=1000)
    basis = torch.stack([x.abs(), torch.ones_like(x)], dim=1).double()
    value = prior.value.double()
    fit = torch.linalg.lstsq(basis, value[:, None]).solution[:, 0]
    left = (value - basis @ fit).square().sum() / (value - value.mean()).square().sum()
    error = float((prior.error).max())
    return Outcome(
        holds=float(left) < 0.02 and abs(float(fit[0]) - 1.0) < 0.15 and error < 0.01,
        measured={
            "R^2 against |x|": 1.0 - float(left),
            "slope": float(fit[0]),
            "error of the inversion": error,
        },
        bound="R^2 > 0.98 of an affine fit in |x| on 0.1 <= |x| <= 2 (0 has no single inverse); "
        "slope in 1 +- 0.15, as R = s^2 |x| with s = 1; f(y) = x to 1 %",
        series={"learned R": (x.tolist(), (value - value.min()).tolist())},
    )


def _prior_by_mean(seed: int) -> Outcome:
    return _judge_prior(_MEAN, seed)


@claim(
    id="lpn-prior",
    paper=LPN_PAPER,
    states="the prior of the trained network is that of its samples, |x| for Laplace's law",
    stated="card: R^2 > 0.98; ours: the slope too, as the prior of the posterior mean has "
    "R^2 = 0.982 and slope 0.75 (quadrature)",
    cpu_minutes=0.8,
    control=_prior_by_mean,
    control_is="the network trained by squares",
)
def prior(seed: int) -> Outcome:
    """The learned prior against |x|."""
    return _judge_prior(_MATCHING, seed)
