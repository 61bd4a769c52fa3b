"""Counts of a grid as a network should see them: totals of the day, stacks of past maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

__all__ = ["PastMaps", "counts_from_day_totals", "day_totals"]

CRIME_FORECASTING = Paper(
    key="wang2017ternarization",
    title="Deep Learning for Real-Time Crime Forecasting and its Ternarization",
    authors="Wang, Bao and Yin, Penghang and Bertozzi, Andrea L. and Brantingham, P. Jeffrey "
    "and Osher, Stanley J. and Xin, Jack",
    year=2017,
    arxiv="1711.08833",
)


def day_totals(counts: Tensor, day: int = 24) -> Tensor:
    """Counts since midnight, the smoother series that Wang, Yin, Bertozzi, Brantingham, Osher and
    Xin, *Deep Learning for Real-Time Crime Forecasting and its Ternarization*, 2017,
    arXiv:1711.08833 learn on.

        Y(t) = sum of X(tau) over tau <= t of the same day

    Args:
        counts: X (T, ...), hour 0 at midnight; T need not be whole days.
        day: hours of a day.

    Raises:
        InvalidInput: no time axis, or a day without hours.

    Example:
        >>> day_totals(torch.tensor([1, 2, 3, 4, 5]), day=2)
        tensor([1, 3, 3, 7, 5])
    """
    _check(counts, day)
    return torch.cat([part.cumsum(0) for part in counts.split(day)])


def counts_from_day_totals(totals: Tensor, day: int = 24) -> Tensor:
    """X(t) = Y(t) - Y(t-1), and Y(t) at midnight: the inverse of `day_totals`, exact for
    integers; see Wang et al., 2017, arXiv:1711.08833.

    Args:
        totals: Y (T, ...), hour 0 at midnight.
        day: hours of a day.

    Raises:
        InvalidInput: as `day_totals`.

    Example:
        >>> counts_from_day_totals(torch.tensor([1, 3, 3, 7, 5]), day=2)
        tensor([1, 2, 3, 4, 5])
    """
    _check(totals, day)
    return torch.cat([torch.cat([part[:1], part.diff(dim=0)]) for part in totals.split(day)])


@final
@dataclass(frozen=True)
class PastMaps:
    """Which past maps a forecast sees: the last hours, the same hour of past days and of past
    weeks, as in Wang et al., 2017, arXiv:1711.08833.

    Args:
        near: c, the last hours, >= 1.
        daily: p, past days at the same hour, >= 1.
        weekly: q, past weeks at the same hour, >= 1.
        day: hours of a day.
        week: hours of a week.

    Raises:
        InvalidInput: a number below its bound.

    Example:
        >>> past = PastMaps(near=2, daily=1, weekly=1, day=3, week=6)
        >>> maps = torch.arange(10.0)[:, None, None]
        >>> [stack.flatten().tolist() for stack in past(maps, torch.tensor([8]))]
        [[7.0, 6.0], [5.0], [2.0]]
    """

    papers = (CRIME_FORECASTING,)

    near: int = 3
    daily: int = 2
    weekly: int = 1
    day: int = 24
    week: int = 168

    def __post_init__(self) -> None:
        if min(self.near, self.daily, self.weekly, self.day, self.week) < 1:
            raise InvalidInput(f"all numbers of past maps are at least 1, got {self}")

    @property
    def lags(self) -> tuple[list[int], list[int], list[int]]:
        """Hours back, of each stack, the latest map first."""
        return (
            [i + 1 for i in range(self.near)],
            [(i + 1) * self.day for i in range(self.daily)],
            [(i + 1) * self.week for i in range(self.weekly)],
        )

    @property
    def history(self) -> int:
        """The first hour that has all its past maps."""
        return max(max(lags) for lags in self.lags)

    def __call__(self, maps: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Stacks (B, c, H, W), (B, p, H, W), (B, q, H, W) of maps before each time.

        Args:
            maps: (T, H, W).
            times: (B,) hours in `history` .. T; hour T is the first that is not known.

        Raises:
            InvalidInput: a time without its past.
        """
        if int(times.min()) < self.history or int(times.max()) > len(maps):
            raise InvalidInput(
                f"forecasts need times in {self.history} .. {len(maps)}, got "
                f"{int(times.min())} .. {int(times.max())}"
            )
        near, daily, weekly = (
            maps[times[:, None] - torch.tensor(lags, device=times.device)] for lags in self.lags
        )
        return near, daily, weekly


def _check(series: Tensor, day: int) -> None:
    if series.ndim < 1 or len(series) == 0:
        raise InvalidInput(f"a series has a time axis, got the shape {tuple(series.shape)}")
    if day < 1:
        raise InvalidInput(f"a day has at least one hour, got {day}")
