"""Claims on residual networks: the Jacobian's singular values when the variance is divided by L."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal
from driftwell.measures.activations import Activation, LeakyReLU
from driftwell.measures.residual_spectra import (
    LING_RESIDUAL,
    jacobian_singular_values,
    residual_,
    resnet_jacobian_spectrum,
)

_WIDTH, _DEPTHS = 400, (1, 10, 50)
# Slopes hardly change with depth, so that one input's share of active units is off by 2.5 % in
# all layers; twelve inputs bring that to 0.7 %.
_INPUTS = 12


@dataclass(frozen=True)
class _Measured:
    """Means over inputs of the mean and the largest squared singular value."""

    mean: float
    largest: float


@lru_cache(maxsize=32)
def _measure(depth: int, phi: Activation | None, scaled: bool, seed: int) -> _Measured:
    weights = [torch.empty(_WIDTH, _WIDTH) for _ in range(depth)]
    residual_(weights, sigma=1.0 if scaled else math.sqrt(depth), seed=seed)

    def net(h: Tensor) -> Tensor:
        for W in weights:
            h = h + (h if phi is None else phi(h)) @ W.T
        return h

    count = 1 if phi is None else _INPUTS  # a linear network's Jacobian is one matrix
    x = normal((count, _WIDTH), seed=seed, purpose=Purpose.DATA, chains=count, step=depth)
    squares = jacobian_singular_values(net, x).double().square()
    return _Measured(float(squares.mean()), float(squares[:, 0].mean()))


def _judge_means(seed: int, scaled: bool) -> Outcome:
    measured: dict[str, float] = {}
    deviations, largest = [], []
    for word, phi in (("linear", None), ("ReLU", LeakyReLU())):
        for depth in _DEPTHS:
            found, theory = (
                _measure(depth, phi, scaled, seed),
                resnet_jacobian_spectrum(depth, 1.0, phi),
            )
            measured[f"mean, {word}, L = {depth}"] = found.mean
            measured[f"mean of theory, {word}, L = {depth}"] = theory.mean
            measured[f"largest, {word}, L = {depth}"] = found.largest
            deviations.append(abs(found.mean / theory.mean - 1))
            largest.append(found.largest)
    return Outcome(
        holds=max(deviations) <= 0.03 and max(largest) < 25.0,
        measured=measured,
        bound="squared singular values of the Jacobian, N = 400, L = 1, 10, 50, linear and ReLU: "
        "mean within 3 % of (1 + sigma^2 c / L)^L, largest < 25",
    )


@claim(
    id="resnet-jacobian-mean",
    paper=LING_RESIDUAL,
    states="with the residual branches' variance divided by the number of layers the squared "
    "singular values of the Jacobian stay of order one at any depth",
    stated="card: mean (1 + sigma^2 c / L)^L within 3 %, largest < 25; without 1/L 1e3 at L = 10",
    cpu_minutes=0.6,
    control=lambda seed: _judge_means(seed, scaled=False),
    control_is="the variance is not divided by the number of layers",
)
def jacobian_mean(seed: int) -> Outcome:
    """Mean and largest squared singular value at three depths."""
    return _judge_means(seed, scaled=True)


def _judge_edge(seed: int, phi: Activation | None, scaled: bool) -> Outcome:
    measured: dict[str, float] = {}
    ratios = []
    for depth in _DEPTHS[1:]:
        edge = resnet_jacobian_spectrum(depth, 1.0, phi).edges()[1]
        found = _measure(depth, phi, scaled, seed).largest
        measured |= {f"largest, L = {depth}": found, f"edge of theory, L = {depth}": edge}
        ratios.append(found / edge)
    return Outcome(
        holds=all(abs(ratio - 1) <= 0.1 for ratio in ratios),
        measured=measured,
        bound="largest squared singular value within 10 % (set after seeing 3.8 % at L = 10 on one "
        "draw) of the edge of the free-probability law",
    )


@claim(
    id="resnet-jacobian-edge",
    paper=LING_RESIDUAL,
    states="the largest singular value of a linear residual network's Jacobian is where free "
    "probability puts the edge of the spectrum",
    stated="derived here: x = (1 + y) / (y S(y)^L) at its minimum; 21.1 for sigma = 1, L -> inf",
    cpu_minutes=0.2,
    control=lambda seed: _judge_edge(seed, None, scaled=False),
    control_is="the variance is not divided by the number of layers",
)
def jacobian_edge(seed: int) -> Outcome:
    """Edge of the spectrum, linear."""
    return _judge_edge(seed, None, scaled=True)


@claim(
    id="resnet-jacobian-relu-edge",
    paper=LING_RESIDUAL,
    states="the same law with sigma^2 c in place of sigma^2 gives the edge for ReLU",
    stated="card: nonlinear: replace sigma^2 by sigma^2 c, c = 1/2; free slopes in every layer",
    cpu_minutes=0.5,
    control=lambda seed: _judge_edge(seed, LeakyReLU(), scaled=False),
    control_is="the variance is not divided by the number of layers",
    expected="not_reproduced",
)
def relu_edge(seed: int) -> Outcome:
    """Edge of the spectrum, ReLU."""
    return _judge_edge(seed, LeakyReLU(), scaled=True)
