"""A small convolutional network trained with quantized weights on the bundled digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from driftwell.data import load
from driftwell.nn.drawn_layers import drawn_conv, drawn_linear
from driftwell.quantization.training_aware.blended import BlendedCoarseGradient

ROWS = 64
SEEDS = 3  # the cards ask for means of three
LEARNING_RATE, MOMENTUM, DECAY = 0.05, 0.95, 1e-4
Activation = Callable[[], nn.Module]


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, 1, 8, 8) around zero and labels: to learn from, and to test on."""
    learn, test = load("digits", "train"), load("digits", "test")
    x, x_test = (2 * part.images.float().reshape(-1, 1, 8, 8) - 1 for part in (learn, test))
    if learn.labels is None or test.labels is None:
        raise ValueError("the bundled digits have labels")
    return x, learn.labels, x_test, test.labels


def small_network(seed: int, activation: Activation = nn.ReLU) -> nn.Sequential:
    """Two convolutions with batch norm and a linear layer: about 5000 weights."""
    draw = torch.Generator().manual_seed(seed)
    return nn.Sequential(
        drawn_conv(1, 8, 3, draw, gain=2**0.5),
        nn.BatchNorm2d(8),
        activation(),
        drawn_conv(8, 16, 3, draw, stride=2, gain=2**0.5),
        nn.BatchNorm2d(16),
        activation(),
        nn.Flatten(),
        drawn_linear(256, 10, draw),
    )


@dataclass(frozen=True)
class Learned:
    """Mean training loss of the last tenth of the steps; accuracy, a mean over ten iterates."""

    loss: float
    accuracy: float


def batch(seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Rows of the training set, the same for every method."""
    x, labels, _, _ = digits()
    rows = torch.randint(
        len(x), (ROWS,), generator=torch.Generator().manual_seed(seed + 7919 * step)
    )
    return x[rows], labels[rows]


def accuracy(model: nn.Module) -> float:
    """Share of the test digits that a model names, in `eval()`."""
    _, _, x, labels = digits()
    was = model.training
    model.eval()
    with torch.no_grad():
        share = float((model(x).argmax(dim=1) == labels).float().mean())
    model.train(was)
    return share


def step_size(step: int, steps: int) -> float:
    """Divided by ten at 2/5 and at 7/10 of the steps, as the authors do at 80 and 140 of 200."""
    return LEARNING_RATE * 0.1 ** ((step >= 0.4 * steps) + (step >= 0.7 * steps))


def learn(
    model: nn.Module,
    steps: int,
    seed: int,
    before: Callable[[int], object] = lambda step: None,
    wrapped: Callable[[torch.optim.Optimizer], BlendedCoarseGradient] | None = None,
) -> Learned:
    """Train by SGD with momentum; `before(step)` runs first, `wrapped` may put a blend around."""
    sgd = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=DECAY
    )
    stepping: torch.optim.Optimizer | BlendedCoarseGradient = sgd
    if wrapped is not None:
        stepping = wrapped(sgd)
    losses, shares = [], []
    model.train()
    for step in range(steps):
        before(step)
        for group in sgd.param_groups:
            group["lr"] = step_size(step, steps)
        x, labels = batch(seed, step)
        sgd.zero_grad()
        loss = cross_entropy(model(x), labels)
        loss.backward()
        stepping.step()
        if step >= 0.9 * steps:
            losses.append(loss.item())
            if step % (steps // 100) == 0:
                shares.append(accuracy(model))
    return Learned(sum(losses) / len(losses), sum(shares) / len(shares))
