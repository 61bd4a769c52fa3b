"""Claim on holomorphic equilibrium propagation as the gradient of an equilibrium layer."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal
from driftwell.core.state import State, leaves
from driftwell.fixed_points import Implicit, fixed_point
from driftwell.learning import HolomorphicEP
from driftwell.learning.rules.holomorphic import LABORIEUX_ZENKE


def _one(z: State) -> Tensor:
    return leaves(z)[0]


def _gaussian(*shape: int, seed: int, leaf: int) -> Tensor:
    return normal(
        shape, seed=seed, purpose=Purpose.PARAMETERS, chains=shape[0], step=0, leaf=leaf,
        dtype=torch.float64,
    )  # fmt: skip


class _Layer(torch.nn.Module):
    """Equilibrium layer z = tanh(W z + U x + b)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        n, p = 16, 8
        self.W = torch.nn.Parameter(0.5 / math.sqrt(n) * _gaussian(n, n, seed=seed, leaf=3))
        self.U = torch.nn.Parameter(1.0 / math.sqrt(p) * _gaussian(n, p, seed=seed, leaf=4))
        self.b = torch.nn.Parameter(0.1 * _gaussian(1, n, seed=seed, leaf=5)[0])

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(z @ self.W.T + x @ self.U.T + self.b)


def _gradient(layer: _Layer, x: Tensor, y: Tensor, how: Implicit | HolomorphicEP) -> Tensor:
    """Gradient of the mean squared error, left in `.grad` and returned flat."""
    layer.zero_grad()
    found = fixed_point(layer, torch.zeros_like(y), x, tol=1e-10, max_steps=500, gradient=how)
    (_one(found.z) - y).square().mean().backward()
    return torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None])


@lru_cache(maxsize=4)
def _fine_tuned(seed: int, against: bool) -> tuple[float, float, float, float]:
    """Loss before and after, and cosine to the implicit gradient before and after."""
    teacher, layer = _Layer(seed), _Layer(seed)
    x = _gaussian(64, 8, seed=seed, leaf=6)
    y = _one(fixed_point(teacher, x.new_zeros(64, 16), x, tol=1e-10, max_steps=500).z).detach()
    with torch.no_grad():
        for leaf, p in enumerate(layer.parameters()):
            noise = _gaussian(1, p.numel(), seed=seed, leaf=16 + leaf)
            p.add_(0.1 * noise.reshape(p.shape))
    rule = HolomorphicEP(0.02, 4, tol=1e-9, warn_above=math.inf)
    truth = Implicit(tol=1e-10, max_steps=500)
    optimizer = torch.optim.Adam(layer.parameters(), lr=5e-3, maximize=against)

    def look() -> tuple[float, float]:
        local, exact = _gradient(layer, x, y, rule), _gradient(layer, x, y, truth)
        z = _one(fixed_point(layer, torch.zeros_like(y), x, tol=1e-10, max_steps=500).z)
        loss = float((z - y).detach().square().mean())
        return loss, float(local @ exact / (local.norm() * exact.norm()))

    before = look()
    for _ in range(10 if against else 200):
        _gradient(layer, x, y, rule)
        optimizer.step()
    after = look()
    return before[0], after[0], before[1], after[1]


def _judge_fine_tuning(seed: int, against: bool) -> Outcome:
    before, after, first, last = _fine_tuned(seed, against)
    return Outcome(
        holds=after <= 0.1 * before,
        measured={
            "loss before": before,
            "loss after": after,
            "cosine to the implicit gradient before": first,
            "cosine to the implicit gradient after": last,
        },
        bound="200 local updates bring the loss below a tenth of its start",
    )


def _ascend(seed: int) -> Outcome:
    return _judge_fine_tuning(seed, against=True)


@claim(
    id="hep-deq-finetune",
    paper=LABORIEUX_ZENKE,
    states="an equilibrium layer with asymmetric weights is fine-tuned by the local rule: the "
    "gradient= of its fixed point is HolomorphicEP()",
    stated="ours: the paper trains its own networks; the bridge to DEQ layers is not in it",
    cpu_minutes=0.3,
    control=_ascend,
    control_is="the rule with the wrong sign, 10 updates (it soon leaves the stable laws)",
)
def fine_tuning(seed: int) -> Outcome:
    """A layer is moved off its teacher and comes back by local updates."""
    return _judge_fine_tuning(seed, against=False)
