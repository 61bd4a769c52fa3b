"""Half precision: rounding to it, and steps of descent on weights that are kept in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.noise import Purpose, uniform
from driftwell.core.papers import Paper

MIXED_PRECISION = Paper(
    "micikevicius2018mixed",
    "Mixed Precision Training",
    "Micikevicius, Paulius and Narang, Sharan and Alben, Jonah and Diamos, Gregory and Elsen, "
    "Erich and Garcia, David and Ginsburg, Boris and Houston, Michael and Kuchaiev, Oleksii and "
    "Venkatesh, Ganesh and Wu, Hao",
    2018,
    arxiv="1710.03740",
)
LARGEST, SMALLEST_NORMAL, BITS = 65504.0, -14, 10
"""Of half precision: largest number, exponent of the smallest normal one, bits of the fraction."""
Carry = tuple[Tensor, ...]


def round_to_half(v: Tensor, u: Tensor | None = None) -> Tensor:
    """Values of half precision, in the dtype of `v`.

    To nearest, halves to even; with u uniform in [0, 1), up with the share of the way that is
    done, so that the mean over u is v:

        q = s floor(v / s + u),    s = 2^(max(floor log2 |v|, -14) - 10)

    Args:
        v: any values; beyond 65504 they are infinite.
        u: of the same shape, or None.

    Example:
        >>> v = torch.full((4,), 1.0 + 2.0**-12)  # a quarter of the way to the next
        >>> u = torch.tensor([0.0, 0.5, 0.7, 0.8])
        >>> (round_to_half(v, u) - 1.0).tolist(), float(round_to_half(v)[0])
        ([0.0, 0.0, 0.0, 0.0009765625], 1.0)
    """
    if u is None:
        return v.half().to(v.dtype)
    wide = v.double()
    exponent = torch.frexp(wide)[1] - 1
    spacing = torch.exp2(exponent.clamp(min=SMALLEST_NORMAL).double() - BITS)
    return (spacing * (wide / spacing + u.double()).floor()).half().to(v.dtype)


class WeightUpdate(ABC):
    """How a step of descent is taken on weights of half precision."""

    def init(self, weights: Carry) -> Carry:
        """What is kept beside the weights."""
        return ()

    @abstractmethod
    def apply(self, weights: Carry, carry: Carry, moves: Carry, step: int) -> tuple[Carry, Carry]:
        """Weights and carry after w <- w + move.

        Args:
            weights: values of half precision.
            carry: of `init` or of the step before.
            moves: in single precision, of the same shapes.
            step: number of the update.
        """


@final
@dataclass(frozen=True)
class MasterWeights(WeightUpdate):
    """Single-precision copies take the steps, from Micikevicius et al., *Mixed Precision Training*,
    2018, arXiv:1710.03740: w32 <- w32 + move, w = half(w32). Six bytes a weight.

    Example:
        >>> update, w = MasterWeights(), (torch.ones(1),)
        >>> carry = update.init(w)
        >>> for step in range(8):
        ...     w, carry = update.apply(w, carry, (torch.full((1,), 1e-4),), step)
        >>> w[0].tolist()
        [1.0009765625]
    """

    papers = (MIXED_PRECISION,)

    def init(self, weights: Carry) -> Carry:
        """The masters."""
        return tuple(w.clone() for w in weights)

    def apply(self, weights: Carry, carry: Carry, moves: Carry, step: int) -> tuple[Carry, Carry]:
        """Move the masters and round them."""
        carry = tuple(w + move for w, move in zip(carry, moves, strict=True))
        return tuple(round_to_half(w) for w in carry), carry


@final
@dataclass(frozen=True)
class StochasticRounding(WeightUpdate):
    """w <- w + move, rounded up or down at random so that its mean is right; two bytes a weight.

    Args:
        seed: of the keyed noise.

    Example:
        >>> update, w = StochasticRounding(seed=0), (torch.ones(1000),)
        >>> for step in range(20):  # each a twentieth of the distance to the next number
        ...     w, _ = update.apply(w, (), (torch.full((1000,), 2.0**-10 / 20),), step)
        >>> bool((w[0].mean() - 1 - 2.0**-10).abs() < 1e-4)
        True
    """

    seed: int

    def apply(self, weights: Carry, carry: Carry, moves: Carry, step: int) -> tuple[Carry, Carry]:
        """Move and round at random; noise is keyed by step and by the weight's place."""
        found = []
        for leaf, (w, move) in enumerate(zip(weights, moves, strict=True)):
            shape = (1, max(1, w.numel()))
            u = uniform(
                shape, seed=self.seed, purpose=Purpose.PARAMETERS, chains=1, step=step, leaf=leaf,
                dtype=torch.float64, device=w.device,
            )  # fmt: skip
            found.append(round_to_half(w + move, u.reshape(w.shape)))
        return tuple(found), ()


@final
@dataclass(frozen=True)
class NearestRounding(WeightUpdate):
    """w <- half(w + move): a move below half the distance to the next number is lost.

    Example:
        >>> w, _ = NearestRounding().apply((torch.ones(1),), (), (torch.full((1,), 4e-4),), 0)
        >>> w[0].tolist()
        [1.0]
    """

    def apply(self, weights: Carry, carry: Carry, moves: Carry, step: int) -> tuple[Carry, Carry]:
        """Move and round to nearest."""
        return tuple(round_to_half(w + m) for w, m in zip(weights, moves, strict=True)), ()
