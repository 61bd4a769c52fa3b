"""Claim on OptEq as a classifier: the constraint costs no accuracy, and no solve fails."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.claims.registry import Outcome, claim
from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, permutation
from driftwell.data import Split, load
from driftwell.fixed_points import Anderson, Implicit, fixed_point
from driftwell.models.equilibrium.opteq import OPTEQ, OptEqLayer

_WIDTH, _BATCH, _EPOCHS, _TOL, _MAX_STEPS = 64, 96, 15, 1e-3, 100


@dataclass(frozen=True)
class _Report:
    accuracy: float
    failures: int
    solves: int
    evaluations: float


class _Plain(nn.Module):
    """The unconstrained layer z = relu(W z + U x + b)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        made = [
            normal((_WIDTH, 64), seed=seed, purpose=Purpose.PARAMETERS, chains=_WIDTH, step=step)
            for step in (1, 2)
        ]
        self.W, self.U = nn.Parameter(made[0] / 16.0), nn.Parameter(made[1] / 8.0)
        self.b = nn.Parameter(torch.zeros(_WIDTH))

    def unit(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """z -> f(z, x)."""
        u = functional.linear(x, self.U, self.b)
        return lambda z: torch.relu(z @ self.W.T + u)


class _OptEq(nn.Module):
    """An OptEq layer, or the same without the constraint on |W|."""

    def __init__(self, seed: int, constrained: bool) -> None:
        super().__init__()
        self.layer = OptEqLayer(64, _WIDTH, 2 * _WIDTH, bound=0.95, seed=seed)
        self.constrained = constrained

    def unit(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """z -> f(z, x)."""
        if self.constrained:
            return self.layer.at(x)
        W, u = self.layer.W0, self.layer.injection(x)
        return lambda z: torch.relu(z @ W.T + u) @ W


def _digits(split: Split) -> tuple[Tensor, Tensor]:
    """Pixels (n, 64) and labels (n,)."""
    images = load("digits", split)
    labels = images.labels
    if labels is None:
        raise InvalidInput("the digits have no labels")
    return images.flat(), labels


def _make(kind: str, seed: int) -> _Plain | _OptEq:
    return _Plain(seed) if kind == "plain" else _OptEq(seed, kind == "opteq")


@lru_cache(maxsize=8)
def _train(kind: str, seed: int) -> _Report:
    """Train by cross-entropy on the digits and count the solves that fail, in training too."""
    pixels, answers = _digits("train")
    model = _make(kind, seed)
    readout = nn.Parameter(torch.zeros(10, _WIDTH))
    optimizer = torch.optim.Adam([*model.parameters(), readout], lr=3e-3)
    counts = [0, 0, 0]

    def logits(x: Tensor) -> Tensor:
        how = Implicit(tol=_TOL, max_steps=_MAX_STEPS)
        found = fixed_point(
            model.unit(x), x.new_zeros(len(x), _WIDTH), solver=Anderson(), gradient=how,
            tol=_TOL, max_steps=_MAX_STEPS, throw=False,
        )  # fmt: skip
        counts[0] += int((found.status > 0).sum())
        counts[1] += len(x)
        counts[2] += int(found.steps.sum())
        return torch.nan_to_num(found.z) @ readout.T  # type: ignore[arg-type]

    steps = _EPOCHS * len(pixels) // _BATCH
    for update in range(steps):
        rows = permutation(len(pixels), seed=seed, purpose=Purpose.DATA, step=update)[:_BATCH]
        optimizer.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * update / steps))
        optimizer.zero_grad()
        with warnings.catch_warnings():  # failures are counted, not told one by one
            warnings.simplefilter("ignore", UserWarning)
            functional.cross_entropy(logits(pixels[rows]), answers[rows]).backward()
        optimizer.step()
    model.eval()
    unseen, truth = _digits("test")
    with torch.no_grad():
        right = (logits(unseen).argmax(1) == truth).double().mean()
    return _Report(100 * float(right), counts[0], counts[1], counts[2] / counts[1])


def _judge(kind: str, seed: int) -> Outcome:
    ours, plain = _train(kind, seed), _train("plain", seed)
    return Outcome(
        holds=ours.failures == 0 and ours.accuracy >= plain.accuracy - 1.0,
        measured={
            "accuracy %": ours.accuracy,
            "accuracy %, unconstrained": plain.accuracy,
            "failures": ours.failures,
            "failures, unconstrained": plain.failures,
            "solves": ours.solves,
            "evaluations a solve": ours.evaluations,
            "evaluations a solve, unconstrained": plain.evaluations,
        },
        bound="0 failed solves, in training and test, at tolerance 1e-3 within 100 evaluations; "
        "test accuracy at most 1 point below that of the unconstrained layer",
    )


def _free(seed: int) -> Outcome:
    return _judge("free", seed)


@claim(
    id="opteq-digits",
    paper=OPTEQ,
    states="an OptEq classifier matches an unconstrained equilibrium layer, and no solve fails",
    stated="card: within 1 point of an unconstrained DEQ, 0 solver failures (there MNIST, here the "
    "8x8 digits)",
    cpu_minutes=1.0,
    control=_free,
    control_is="the same layer with |W| left free",
)
def digits(seed: int) -> Outcome:
    """Accuracy and failures on the digits, with and without the constraint."""
    return _judge("opteq", seed)
