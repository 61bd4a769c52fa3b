"""Proximal matching: the loss whose minimiser is the mode, and its schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

LPN_PAPER = Paper(
    key="fang2024lpn",
    title="What's in a Prior? Learned Proximal Networks for Inverse Problems",
    authors="Fang, Zhenghan and Buchanan, Sam and Sulam, Jeremias",
    year=2024,
    arxiv="2310.14344",
    venue="ICLR 2024",
)


def proximal_matching_loss(prox: Tensor, x: Tensor, gamma: float) -> Tensor:
    """Proximal matching loss, from Fang, Buchanan and Sulam, *What's in a Prior? Learned Proximal
    Networks for Inverse Problems*, 2024, arXiv:2310.14344.

        loss = mean over the batch of 1 - exp(-|f(y) - x|^2 / gamma^2)

    As gamma goes to 0 its minimiser f(y) goes from the mean of p(x | y) to its mode, which for
    y = x + N(0, s^2) is the proximal operator of -s^2 log p.

    Args:
        prox: what the network made of the noisy samples, f(y), (B, ...).
        x: the clean samples, of the same shape.
        gamma: width, positive, in units of the norm of a whole sample.

    Raises:
        InvalidInput: shapes that differ, or a gamma that is not positive.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> proximal_matching_loss(x + 10.0, x, gamma=1.0), proximal_matching_loss(x, x, 1.0)
        (tensor(1.), tensor(0.))
    """
    if prox.shape != x.shape:
        raise InvalidInput(
            f"f(y) and x must have one shape, got {tuple(prox.shape)} and {tuple(x.shape)}"
        )
    if not 0.0 < gamma < float("inf"):
        raise InvalidInput(f"gamma must be positive and finite, got {gamma}")
    distance2 = (prox - x).flatten(1).square().sum(1)
    return (-torch.expm1(-distance2 / gamma**2)).mean()


@final
@dataclass(frozen=True)
class ProximalMatching:
    """Proximal matching with its gamma as a value; see `proximal_matching_loss`.

    Args:
        gamma: width, positive, in units of the norm of a whole sample.

    Raises:
        InvalidInput: a gamma that is not positive and finite.

    Example:
        >>> ProximalMatching(0.5)(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor(0.)
    """

    gamma: float
    papers = (LPN_PAPER,)

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma < float("inf"):
            raise InvalidInput(f"gamma must be positive and finite, got {self.gamma}")

    def __call__(self, prox: Tensor, x: Tensor) -> Tensor:
        """The loss of f(y) against x."""
        return proximal_matching_loss(prox, x, self.gamma)


@final
@dataclass(frozen=True)
class Stage:
    """One stage of a schedule: so many updates of Adam by one loss.

    Attributes:
        gamma: width of proximal matching; None is the l1 distance; ``inf`` the mean square.
        updates: how many.
        lr: learning rate at the stage's first update; it falls to `lr_last` geometrically.
        lr_last: learning rate at its last update; None keeps `lr`.

    Example:
        >>> Stage(gamma=None, updates=10, lr=1e-3)(torch.ones(1, 2), torch.zeros(1, 2))
        tensor(2.)
    """

    gamma: float | None
    updates: int
    lr: float
    lr_last: float | None = None

    def __post_init__(self) -> None:
        if self.gamma is not None and not self.gamma > 0.0:
            raise InvalidInput(f"gamma must be positive, got {self.gamma}")
        if self.updates < 1 or not self.lr > 0.0:
            raise InvalidInput(
                f"a stage needs updates >= 1 and lr > 0, got {self.updates} and {self.lr}"
            )

    def __call__(self, prox: Tensor, x: Tensor) -> Tensor:
        """The stage's loss of f(y) against x."""
        if self.gamma is None:
            return (prox - x).flatten(1).abs().sum(1).mean()
        if math.isinf(self.gamma):
            return (prox - x).flatten(1).square().sum(1).mean()
        return proximal_matching_loss(prox, x, self.gamma)

    def lr_at(self, update: int) -> float:
        """Learning rate at one of the stage's updates, counted from 0."""
        if self.lr_last is None or self.updates == 1:
            return self.lr
        share = update / (self.updates - 1)
        return self.lr * math.exp(share * math.log(self.lr_last / self.lr))


def matching_schedule(
    gamma: float, *, pretrain: int, updates: int, stages: int = 4, lr: float = 1e-3
) -> tuple[Stage, ...]:
    """The paper's schedule: l1 first, then proximal matching with gamma halved stage by stage.

    A small gamma from scratch has no gradient, as every sample lies outside of its well; l1 brings
    f within reach. Learning rates are `lr` for l1 and a tenth of it after that.

    Args:
        gamma: width in the last stage, in units of the norm of a whole sample.
        pretrain: updates by l1.
        updates: updates by proximal matching, over all stages.
        stages: how many; the first has gamma 2^(stages - 1).
        lr: learning rate of the first part.

    Raises:
        InvalidInput: fewer updates than stages, or a setting outside its range.

    Example:
        >>> [stage.gamma for stage in matching_schedule(0.1, pretrain=10, updates=8)]
        [None, 0.8, 0.4, 0.2, 0.1]
    """
    if not 1 <= stages <= updates:
        raise InvalidInput(f"{updates} updates cannot be split into {stages} stages")
    widths = [gamma * 2.0**k for k in reversed(range(stages))]
    later = tuple(Stage(width, updates // stages, 0.1 * lr) for width in widths)
    return (Stage(None, pretrain, lr), *later)
