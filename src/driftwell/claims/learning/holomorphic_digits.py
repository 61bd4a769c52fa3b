"""Claim on holomorphic equilibrium propagation: digits learned from random feedback weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from driftwell import data
from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, permutation
from driftwell.core.state import State, leaves
from driftwell.fixed_points import fixed_point
from driftwell.learning import HolomorphicEP, jacobian_homeostasis, jacobian_symmetry
from driftwell.learning.rules.holomorphic import LABORIEUX_ZENKE
from driftwell.models.feedback import FeedbackNetwork, rate

EPOCHS, BATCH, TOL = 12, 50, 1e-5


def _settle(network: FeedbackNetwork, x: Tensor) -> Tensor:
    with torch.no_grad():
        start = network.rest(len(x))
        z = fixed_point(network, start, x, tol=TOL, max_steps=300, throw=False).z
    return z  # type: ignore[return-value]


def _accuracy(network: FeedbackNetwork, images: data.ImageSet) -> float:
    found = network.output(_settle(network, images.flat())).argmax(dim=1)
    right: Tensor = found == images.labels  # type: ignore[assignment]
    return float(right.double().mean())


@lru_cache(maxsize=4)
def _learned(seed: int, deaf: bool) -> tuple[float, float]:
    """Test accuracy, and symmetry of the Jacobian at the end.

    `deaf`: the hidden layer hears nothing of the output, so that no error reaches it.
    """
    train, test = data.load("digits", "train"), data.load("digits", "test")
    network = FeedbackNetwork((64, 64, 10), angle=90.0, gain=0.5, seed=seed)
    with torch.no_grad():
        network.b[0].fill_(0.5)  # where the rate is steepest
        network.b[1].fill_(0.3)
        if deaf:
            network.B[0].zero_().requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    batches = -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * batches)
    rule = HolomorphicEP(beta=0.1, n_points=2, activation=rate, tol=TOL)
    x, labels = train.flat(), train.labels
    y = torch.nn.functional.one_hot(labels, 10).to(x.dtype)  # type: ignore[arg-type]
    for step in range(EPOCHS * batches):
        epoch, k = divmod(step, batches)
        order = permutation(len(x), seed=seed, purpose=Purpose.DATA, step=epoch)
        rows = order[k * BATCH : (k + 1) * BATCH]
        z, inputs, target = _settle(network, x[rows]), x[rows], y[rows]
        loss = rule.loss(network, _distance(target), z, inputs, throw=False).mean()
        if not deaf:
            loss = (
                loss
                + jacobian_homeostasis(
                    network, z, inputs, activation=rate, probes=1, seed=seed, step=step
                ).mean()
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    z = _settle(network, x[:4])
    symmetry = jacobian_symmetry(network, z, x[:4], activation=rate).detach()
    return _accuracy(network, test), float(symmetry.mean())


def _distance(target: Tensor) -> Callable[[State], Tensor]:
    def loss(a: State) -> Tensor:
        return 0.5 * (leaves(a)[0][:, -target.shape[1] :] - target).square().sum(dim=1)

    return loss


def _judge(seed: int, deaf: bool) -> Outcome:
    accuracy, symmetry = _learned(seed, deaf)
    return Outcome(
        holds=accuracy > 0.95,
        measured={"test accuracy": accuracy, "symmetry of the Jacobian": symmetry},
        bound="test accuracy above 95 %",
    )


def _deaf(seed: int) -> Outcome:
    return _judge(seed, deaf=True)


@claim(
    id="hep-digits",
    paper=LABORIEUX_ZENKE,
    states="a 64-64-10 network whose feedback weights start at 90 degrees to the forward ones "
    "learns the 8x8 digits by holomorphic equilibrium propagation (N = 2, beta 0.1) with "
    "homeostasis, in 12 epochs",
    stated="card: target above 95 % test accuracy, not measured there",
    cpu_minutes=0.8,
    control=_deaf,
    control_is="no feedback into the hidden layer, which then never learns",
)
def digits(seed: int) -> Outcome:
    """Test accuracy after local learning."""
    return _judge(seed, deaf=False)
