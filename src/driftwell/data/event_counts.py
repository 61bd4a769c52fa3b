"""Seeded counts of events on a grid that excite each other, with a daily and a weekly rhythm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform

__all__ = ["HOURS_A_DAY", "HOURS_A_WEEK", "EventCounts", "event_counts"]

HOURS_A_DAY, HOURS_A_WEEK = 24, 168
_SUBCELLS = 4  # bumps of the background rate


@final
@dataclass(frozen=True, eq=False)
class EventCounts:
    """Hourly counts on a grid, and the rates they were drawn at.

    Attributes:
        counts: int64 (hours, side, side); hour 0 is midnight of the first day of a week.
        rate: (hours, side, side) expected count of each hour given the past: no forecast has a
            smaller mean square error than this one.

    Example:
        >>> made = event_counts(48, seed=0, side=8)
        >>> len(made), made.counts.shape
        (48, torch.Size([48, 8, 8]))
    """

    counts: Tensor
    rate: Tensor

    def __len__(self) -> int:
        return len(self.counts)


def event_counts(
    hours: int,
    seed: int,
    *,
    side: int = 16,
    mean: float = 0.5,
    branching: float = 0.5,
    memory: float = 6.0,
) -> EventCounts:
    """Self-exciting counts: a Hawkes process in discrete time on a grid.

        X_t ~ Poisson(rate_t),   rate_t = mu r(t) + E_t
        E_{t+1} = d E_t + branching (1 - d) K X_t,   d = exp(-1 / memory)

    with a background mu of a few bumps (keyed by the seed), a rhythm r(t) of the hour and the day
    of the week whose mean is 1, and a kernel K that leaves half of the excitation in the cell and
    spreads half over its eight neighbours. An event causes `branching` others on average. Hour t is
    the same for every `hours` > t.

    Args:
        hours: how many, >= 1.
        seed: of the keyed numbers.
        side: cells along each side, >= 3.
        mean: mean count of a cell and hour in the long run, > 0 (less at the edges, where
            excitation leaves the grid).
        branching: in [0, 1).
        memory: of the excitation, in hours, > 0.

    Raises:
        InvalidInput: an argument out of range.

    Example:
        >>> made = event_counts(336, seed=0)
        >>> bool((made.counts.float().mean() - 0.5).abs() < 0.1)
        True
    """
    if hours < 1 or side < 3 or not (mean > 0 and 0 <= branching < 1 and memory > 0):
        raise InvalidInput(
            "event counts need hours >= 1, side >= 3, mean > 0, 0 <= branching < 1 and memory > 0,"
            f" got {hours}, {side}, {mean}, {branching} and {memory}"
        )
    background = (1 - branching) * mean * _bumps(side, seed)
    rhythm = _rhythm(hours)
    draws = uniform(
        (hours, side, side), seed=seed, purpose=Purpose.DATA, chains=hours, step=0
    ).double()
    decay = math.exp(-1 / memory)
    excitement = branching / (1 - branching) * background  # its mean in the long run
    counts, rates = [], []
    for t in range(hours):
        rate = background * rhythm[t] + excitement
        x = _poisson(rate, draws[t])
        excitement = decay * excitement + branching * (1 - decay) * _spread(x)
        counts.append(x)
        rates.append(rate)
    return EventCounts(torch.stack(counts).long(), torch.stack(rates).float())


def _rhythm(hours: int) -> Tensor:
    """Quiet nights, busy evenings, livelier weekends; the mean over a week is 1."""
    t = torch.arange(hours, dtype=torch.float64)
    week = torch.arange(HOURS_A_WEEK, dtype=torch.float64)

    def shape(at: Tensor) -> Tensor:
        hour, day = at % HOURS_A_DAY, (at // HOURS_A_DAY) % 7
        daily = 1 + 0.8 * torch.cos(2 * math.pi * (hour - 19) / HOURS_A_DAY)
        return daily * torch.where(day >= 5, 1.6, 1.0)

    return shape(t) / shape(week).mean()


def _bumps(side: int, seed: int) -> Tensor:
    """A background of mean 1: a floor and a few Gaussian bumps at keyed places."""
    draws = uniform(
        (_SUBCELLS, 2), seed=seed, purpose=Purpose.DATA, chains=_SUBCELLS, step=1
    ).double()
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    squares = (axis[:, None, None] - draws[:, 0]).square() + (axis[:, None] - draws[:, 1]).square()
    bumps = 0.2 + torch.exp(-squares / (2 * 0.12**2)).sum(dim=2)
    return bumps / bumps.mean()


def _poisson(rate: Tensor, draw: Tensor) -> Tensor:
    """Counts by inversion of the distribution function: keyed numbers in, keyed counts out."""
    term = torch.exp(-rate)
    total, count, k = term.clone(), torch.zeros_like(rate), 0
    while bool((draw > total).any()) and float(term.max()) > 1e-17:
        count += draw > total
        k += 1
        term = term * rate / k
        total = total + term
    return count


def _spread(x: Tensor) -> Tensor:
    kernel = torch.full((1, 1, 3, 3), 0.5 / 8, dtype=x.dtype)
    kernel[0, 0, 1, 1] = 0.5
    return functional.conv2d(x[None, None], kernel, padding=1)[0, 0]
