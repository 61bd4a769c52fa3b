"""Quantized training returns to its best point rather than settling there: keep it, count it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

__all__ = ["Best", "BestIterate", "TailAverage", "VisitCounter", "Visits"]

LONG_RECURRENCE = Paper(
    key="long2020recurrence",
    title="Recurrence of Optimum for Training Weight and Activation Quantized Networks",
    authors="Long, Ziang and Yin, Penghang and Xin, Jack",
    year=2020,
    arxiv="2012.05529",
)


@final
@dataclass(frozen=True, eq=False)
class Best:
    """The best iterate so far.

    Attributes:
        step: when it was seen; -1 before the first.
        score: its validation number.
        weights: copies of its quantized weights.

    Example:
        >>> BestIterate(lower_is_better=False).init().score
        -inf
    """

    step: int
    score: float
    weights: Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class BestIterate:
    """Keeps the best quantized weights by a validation number, as the orbits of Long, Yin and
    Xin, *Recurrence of Optimum for Training Weight and Activation Quantized Networks*, 2020,
    arXiv:2012.05529 ask for: they visit the optimum again and again without staying.

    Args:
        lower_is_better: true for a loss, false for an accuracy.

    Example:
        >>> keeper = BestIterate()
        >>> best = keeper.init()
        >>> for step, loss in enumerate([0.9, 0.2, 0.5]):
        ...     best = keeper.step(best, step, loss, {"w": torch.tensor([loss])})
        >>> best.step, best.score
        (1, 0.2)
    """

    papers = (LONG_RECURRENCE,)

    lower_is_better: bool = True

    def init(self) -> Best:
        """Nothing seen yet."""
        return Best(-1, math.inf if self.lower_is_better else -math.inf, {})

    def step(self, best: Best, step: int, score: float, weights: Mapping[str, Tensor]) -> Best:
        """`best`, or the new iterate where its score is better; a tie keeps the earlier one, and
        a score that is NaN never wins.

        Args:
            best: what `init` or the last `step` returned.
            step: number of this iterate.
            score: its validation number, taken at its quantized weights.
            weights: those weights, by name; copied only if kept.
        """
        better = score < best.score if self.lower_is_better else score > best.score
        if not better:
            return best
        return Best(step, score, {name: w.detach().clone() for name, w in weights.items()})


@final
@dataclass(frozen=True, eq=False)
class Visits:
    """How often each of R runs was at its target.

    Attributes:
        steps: iterates seen.
        at_target: (R,) iterates at the target.
        arrivals: (R,) times it came there, the first iterate included.
        departures: (R,) times it left.
        inside: (R,) whether the last iterate is there.
        first: (R,) number of the first iterate there, -1 if none.

    Example:
        >>> VisitCounter().init(2).first
        tensor([-1, -1])
    """

    steps: int
    at_target: Tensor
    arrivals: Tensor
    departures: Tensor
    inside: Tensor
    first: Tensor

    @property
    def returns(self) -> Tensor:
        """(R,) arrivals after the first."""
        return (self.arrivals - 1).clamp(min=0)


@final
@dataclass(frozen=True)
class VisitCounter:
    """Counts how often training visits, leaves and revisits a point, the recurrence of Long, Yin
    and Xin, 2020, arXiv:2012.05529.

    Args:
        tolerance: the largest |w - target| of any entry that still counts as there; 0 asks for
            equality, as quantized weights can satisfy.

    Raises:
        InvalidInput: a negative tolerance.

    Example:
        >>> counter, target = VisitCounter(), torch.tensor([1.0, -1.0])
        >>> visits = counter.init(1)
        >>> for w in ([1.0, -1.0], [1.0, 1.0], [1.0, -1.0]):
        ...     visits = counter.step(visits, torch.tensor([w]), target)
        >>> int(visits.at_target), int(visits.departures), int(visits.returns)
        (2, 1, 1)
    """

    papers = (LONG_RECURRENCE,)

    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not self.tolerance >= 0.0:
            raise InvalidInput(
                f"VisitCounter(tolerance=...) must not be negative, got {self.tolerance}"
            )

    def init(self, runs: int, device: torch.device | str | None = None) -> Visits:
        """No iterate seen yet of `runs` runs side by side."""
        zero = torch.zeros(runs, dtype=torch.int64, device=device)
        return Visits(0, zero, zero, zero, zero.bool(), zero - 1)

    def step(self, visits: Visits, weights: Tensor, target: Tensor) -> Visits:
        """The counts after one more iterate.

        Args:
            visits: what `init` or the last `step` returned.
            weights: quantized weights (R, ...).
            target: (R, ...), or (...) where all runs share it.

        Raises:
            InvalidInput: another number of runs than before, or a target that does not fit.
        """
        if len(weights) != len(visits.inside):
            raise InvalidInput(
                f"the counts are of {len(visits.inside)} runs, the weights of {len(weights)}"
            )
        if target.shape not in (weights.shape, weights.shape[1:]):
            raise InvalidInput(
                f"the target {tuple(target.shape)} must have the weights' shape "
                f"{tuple(weights.shape)}, or that of one run"
            )
        inside = ((weights.detach() - target).abs() <= self.tolerance).flatten(1).all(dim=1)
        return Visits(
            visits.steps + 1,
            visits.at_target + inside,
            visits.arrivals + (inside & ~visits.inside),
            visits.departures + (visits.inside & ~inside),
            inside,
            torch.where(inside & (visits.first < 0), visits.steps, visits.first),
        )


@final
@dataclass(frozen=True)
class TailAverage:
    """The mean of the last float weights, to be quantized after the mean: a way out of the
    recurrence of Long, Yin and Xin, 2020, arXiv:2012.05529, without a validation set.

    The carry is (count, sum): memory does not grow with the window.

    Args:
        start: first step that enters the mean.

    Raises:
        InvalidInput: a negative start.

    Example:
        >>> tail = TailAverage(start=1)
        >>> carry = tail.init(torch.zeros(1))
        >>> for step, w in enumerate([9.0, 1.0, 2.0]):
        ...     carry = tail.step(carry, step, torch.tensor([w]))
        >>> tail.mean(carry)
        tensor([1.5000])
    """

    papers = (LONG_RECURRENCE,)

    start: int

    def __post_init__(self) -> None:
        if self.start < 0:
            raise InvalidInput(f"TailAverage(start=...) must not be negative, got {self.start}")

    def init(self, like: Tensor) -> tuple[int, Tensor]:
        """The empty sum for weights of this shape."""
        return 0, torch.zeros_like(like)

    def step(self, carry: tuple[int, Tensor], step: int, weights: Tensor) -> tuple[int, Tensor]:
        """The sum with the float weights of iterate number `step`."""
        if step < self.start:
            return carry
        return carry[0] + 1, carry[1] + weights.detach()

    def mean(self, carry: tuple[int, Tensor]) -> Tensor:
        """The mean so far.

        Raises:
            InvalidInput: no iterate reached `start` yet.
        """
        count, total = carry
        if count == 0:
            raise InvalidInput(f"no iterate has reached step {self.start}: train longer")
        return total / count
