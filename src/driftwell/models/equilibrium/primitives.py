"""Activations s with their primitive S, S' = s, and slope s', for energies that integrate them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional


class Integrable(ABC):
    """Activation s, nondecreasing and 1-Lipschitz, with S(u) = int s and s'; all elementwise."""

    @abstractmethod
    def value(self, u: Tensor) -> Tensor:
        """s(u)."""

    @abstractmethod
    def primitive(self, u: Tensor) -> Tensor:
        """S(u) with S' = s, convex."""

    @abstractmethod
    def slope(self, u: Tensor) -> Tensor:
        """s'(u), in [0, 1]."""


@final
@dataclass(frozen=True)
class Identity(Integrable):
    """s(u) = u, S(u) = u^2 / 2: the linear limit.

    Example:
        >>> Identity().primitive(torch.tensor(2.0))
        tensor(2.)
    """

    def value(self, u: Tensor) -> Tensor:
        """u."""
        return u

    def primitive(self, u: Tensor) -> Tensor:
        """u^2 / 2."""
        return 0.5 * u * u

    def slope(self, u: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(u)


@final
@dataclass(frozen=True)
class ReLU(Integrable):
    """s(u) = max(u, 0), S(u) = max(u, 0)^2 / 2.

    Example:
        >>> ReLU().primitive(torch.tensor([-3.0, 2.0]))
        tensor([0., 2.])
    """

    def value(self, u: Tensor) -> Tensor:
        """max(u, 0)."""
        return functional.relu(u)

    def primitive(self, u: Tensor) -> Tensor:
        """max(u, 0)^2 / 2."""
        return 0.5 * functional.relu(u).square()

    def slope(self, u: Tensor) -> Tensor:
        """1 where u > 0."""
        return (u > 0).to(u.dtype)


@final
@dataclass(frozen=True)
class Tanh(Integrable):
    """s(u) = tanh u, S(u) = log cosh u.

    Example:
        >>> Tanh().primitive(torch.tensor(0.0))
        tensor(0.)
    """

    def value(self, u: Tensor) -> Tensor:
        """tanh u."""
        return torch.tanh(u)

    def primitive(self, u: Tensor) -> Tensor:
        """log cosh u = |u| + log(1 + exp(-2 |u|)) - log 2, which no u overflows."""
        # As softplus(-2u) + u it is smooth at 0, where |u| would have no second derivative.
        return u + functional.softplus(-2.0 * u) - math.log(2.0)

    def slope(self, u: Tensor) -> Tensor:
        """1 - tanh^2 u."""
        return 1.0 - torch.tanh(u).square()


# B_n / (n + 1)! of the dilogarithm's series in log(1 - z), n even; the next is below 1e-17 here.
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
_COEFFICIENTS = tuple(b / math.factorial(2 * k + 3) for k, b in enumerate(_BERNOULLI))


@final
@dataclass(frozen=True)
class Softplus(Integrable):
    """s(u) = log(1 + e^u), S(u) = -Li2(-e^u), the dilogarithm.

    For u <= 0, with p = s(u) in (0, log 2]: S = p + p^2/4 + sum_n B_2n p^(2n+1) / (2n+1)!, the
    series in Bernoulli numbers; for u > 0: S(u) = u^2/2 + pi^2/6 - S(-u).

    Example:
        >>> print(f"{Softplus().primitive(torch.tensor(0.0)).item():.5f}")  # pi^2 / 12
        0.82247
    """

    def value(self, u: Tensor) -> Tensor:
        """log(1 + e^u)."""
        return functional.softplus(u)

    def primitive(self, u: Tensor) -> Tensor:
        """-Li2(-e^u)."""
        p = functional.softplus(-u.abs())
        p2 = p * p
        series = torch.zeros_like(p)
        for coefficient in reversed(_COEFFICIENTS):
            series = (series + coefficient) * p2
        left = p * (1.0 + 0.25 * p + series)
        return torch.where(u > 0, 0.5 * u * u + math.pi**2 / 6 - left, left)

    def slope(self, u: Tensor) -> Tensor:
        """1 / (1 + e^-u)."""
        return torch.sigmoid(u)
