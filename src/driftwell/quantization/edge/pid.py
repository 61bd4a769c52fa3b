"""The proportional, integral, derivative controller, tuned: what predictive control must beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import final

from torch import Tensor

from driftwell.core.errors import InvalidInput


@final
@dataclass(frozen=True)
class PIDState:
    """Integral of the error, filtered slope of it, and the last error (None before the first)."""

    integral: float = 0.0
    slope: float = 0.0
    error: float | None = None


@final
@dataclass(frozen=True)
class PID:
    """u = P e + I int e dt + D de/dt, within bounds, with e = r - y.

    The slope passes a first-order filter; the integral stops while u is at a bound and the error
    pushes it further.

    Attributes:
        proportional: P.
        integral: I, 1/s.
        derivative: D, s.
        period: between samples, s.
        bounds: least and largest u.
        filter: time constant of the slope's filter, s.

    Example:
        >>> pid = PID(2.0, 0.0, 0.0, period=0.1, bounds=(-1.0, 1.0))
        >>> pid.step(pid.start(0.0), 0.0, [0.25])[0], pid.step(pid.start(0.0), 0.0, [9.0])[0]
        (0.5, 1.0)
    """

    proportional: float
    integral: float
    derivative: float
    period: float
    bounds: tuple[float, float]
    filter: float = 0.0

    def __post_init__(self) -> None:
        """Raise on a period or bounds that cannot be."""
        if not self.period > 0 or not self.bounds[0] < self.bounds[1] or self.filter < 0:
            raise InvalidInput(
                f"a PID needs a positive period, bounds and a filter of 0 or more, got {self}"
            )

    def start(self, y: float, u: float = 0.0) -> PIDState:
        """A state without history."""
        return PIDState()

    def step(
        self, state: PIDState, y: float, reference: Tensor | Sequence[float]
    ) -> tuple[float, PIDState]:
        """The input to apply now, for the first value of the reference, and the next state."""
        error = float(reference[0]) - y
        raw = 0.0 if state.error is None else (error - state.error) / self.period
        keep = self.filter / (self.filter + self.period)
        slope = keep * state.slope + (1 - keep) * raw
        integral = state.integral + self.period * error
        wanted = self._sum(error, integral, slope)
        low, high = self.bounds
        if (wanted > high and error > 0) or (wanted < low and error < 0):
            integral = state.integral
            wanted = self._sum(error, integral, slope)
        return min(max(wanted, low), high), PIDState(integral, slope, error)

    def _sum(self, error: float, integral: float, slope: float) -> float:
        return self.proportional * error + self.integral * integral + self.derivative * slope


GAINS = ((1.0, 4.0, 16.0, 64.0, 256.0), (0.0, 1.0, 8.0, 64.0, 512.0), (0.0, 0.5, 2.0, 8.0, 32.0))
"""Where the search for gains begins: P, I and D of a plant in units of order one."""


def tune_pid(
    start: PID,
    loss: Callable[[PID], float],
    *,
    gains: tuple[tuple[float, ...], ...] = GAINS,
    sweeps: int = 12,
) -> PID:
    """The gains and the filter of least loss: a grid, then a search along each of the four axes.

    The search multiplies or divides one value at a time by a factor that begins at 2 and takes its
    square root after each sweep that found nothing.

    Args:
        start: period and bounds; its gains are not read.
        loss: of a controller, such as its tracking error on the plant itself.
        gains: values of P, I and D on the grid, each tried with a filter of 0 and of one period.
        sweeps: of the search.

    Example:
        >>> pid = PID(0.0, 0.0, 0.0, period=0.1, bounds=(-1.0, 1.0))
        >>> tuned = tune_pid(pid, lambda p: abs(p.proportional - 10) + p.integral + p.derivative)
        >>> round(tuned.proportional), tuned.integral, tuned.derivative
        (10, 0.0, 0.0)
    """
    grid = [
        replace(start, proportional=p, integral=i, derivative=d, filter=f * start.period)
        for p, i, d, f in product(*gains, (0.0, 1.0))
    ]
    losses = [_finite(loss(each)) for each in grid]
    best = min(losses)
    pid, factor = grid[losses.index(best)], 2.0
    for _ in range(sweeps):
        before = best
        for name in ("proportional", "integral", "derivative", "filter"):
            for scale in (factor, 1 / factor):
                trial = replace(pid, **{name: scale * getattr(pid, name)})
                found = _finite(loss(trial))
                if found < best:
                    pid, best = trial, found
        if best == before:
            factor = math.sqrt(factor)
    return pid


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
