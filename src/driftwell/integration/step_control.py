"""How long a step is: constant, or per sample by its error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput


@final
@dataclass(frozen=True)
class ConstantStep:
    """Constant step; the last one before each output time is shortened to hit it.

    Args:
        dt: length of a step, positive, in integration units, whatever the direction of time.

    Raises:
        InvalidInput: dt is not positive and finite.

    Example:
        >>> ConstantStep(0.4).grid(0.0, 1.0)
        [0.0, 0.4, 0.8, 1.0]
    """

    dt: float

    def __post_init__(self) -> None:
        if not 0.0 < self.dt < math.inf:
            raise InvalidInput(f"ConstantStep(dt=...) must be positive and finite, got {self.dt}")

    def count(self, start: float, end: float) -> int:
        """Number of steps from `start` to `end`."""
        return max(1, math.ceil(abs(end - start) / self.dt * (1.0 - 1e-9)))

    def grid(self, start: float, end: float) -> list[float]:
        """Times from `start` to `end`, both included."""
        step = math.copysign(self.dt, end - start)
        return [start + i * step for i in range(self.count(start, end))] + [end]


@final
@dataclass(frozen=True)
class AdaptiveStep:
    """Steps of each sample's own, from the error estimate of its integrator.

    A step is accepted if its error, root mean square over the state in units of
    atol + rtol * max(|z|, |z'|), is at most 1. The next length follows the PI controller of
    Gustafsson, *Control theoretic techniques for stepsize selection in explicit Runge-Kutta
    methods*, 1991: with p the order of the estimate and e the error,

        dt' = dt * clip(safety * e^(-0.7 / (p + 1)) * e_before^(0.4 / (p + 1)))

    Args:
        rtol: relative tolerance per step.
        atol: absolute tolerance per step, in units of the state.
        dt0: first step, positive; None estimates it per sample from two evaluations.
        safety: aim below the tolerance, in (0, 1].
        shrink: smallest factor between two steps, in (0, 1).
        grow: largest factor between two steps, above 1.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> import driftwell as dw
        >>> rate = torch.tensor([[1.0], [200.0]])
        >>> flow = dw.integrate(lambda t, z, x: -x * z, torch.ones(2, 1), [0, 1], rate,
        ...                     integrator=dw.DormandPrince(), step=dw.AdaptiveStep(rtol=1e-5))
        >>> bool(flow.steps[0] < flow.steps[1])
        True
    """

    rtol: float = 1e-4
    atol: float = 1e-6
    dt0: float | None = None
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 5.0

    def __post_init__(self) -> None:
        if not (self.rtol >= 0.0 and self.atol >= 0.0 and 0.0 < self.rtol + self.atol < math.inf):
            raise InvalidInput(
                "AdaptiveStep needs rtol and atol not negative and not both 0, "
                f"got rtol={self.rtol}, atol={self.atol}"
            )
        if self.dt0 is not None and not 0.0 < self.dt0 < math.inf:
            raise InvalidInput(f"AdaptiveStep(dt0=...) must be positive or None, got {self.dt0}")
        if not (0.0 < self.safety <= 1.0 and 0.0 < self.shrink < 1.0 < self.grow):
            raise InvalidInput(
                "AdaptiveStep needs 0 < safety <= 1 and 0 < shrink < 1 < grow, got "
                f"safety={self.safety}, shrink={self.shrink}, grow={self.grow}"
            )

    def scale(self, z: Tensor, other: Tensor) -> Tensor:
        """Tolerated error of each entry, (B, D)."""
        return self.atol + self.rtol * torch.maximum(z.detach().abs(), other.detach().abs())

    def error(self, error: Tensor, z: Tensor, after: Tensor) -> Tensor:
        """Error of each sample in units of the tolerance, (B,); infinite if not finite."""
        ratio = rms(error.detach() / self.scale(z, after))
        bad = ~torch.isfinite(ratio) | ~torch.isfinite(after.detach()).all(dim=1)
        return torch.where(bad, torch.inf, ratio)

    def factor(self, error: Tensor, before: Tensor, order: int, growing: Tensor) -> Tensor:
        """Factor on the step, (B,): after an accepted step by PI control, else by error alone.

        Args:
            error: of the step just tried, in units of the tolerance.
            before: of the last accepted step.
            order: of the error estimate.
            growing: whether the sample's step may grow: it was accepted, and so was the one before.
        """
        tiny = 1e-10
        e, last, k = error.clamp_min(tiny), before.clamp_min(tiny), order + 1
        accepted = self.safety * e ** (-0.7 / k) * last ** (0.4 / k)
        rejected = self.safety * e ** (-1.0 / k)
        factor = torch.where(error <= 1.0, accepted, rejected).clamp(self.shrink, self.grow)
        return torch.where(growing, factor, factor.clamp_max(1.0))


def rms(entries: Tensor) -> Tensor:
    """Root mean square of each sample, (B,)."""
    return entries.square().mean(dim=1).sqrt()
