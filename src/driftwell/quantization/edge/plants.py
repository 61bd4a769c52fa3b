"""Simulated plants and signals to learn and control them with: a mass on a spring, references."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform


@final
@dataclass(frozen=True)
class MassSpringDamper:
    """A mass on a spring with a damper, driven by a force that is held between samples.

        m y'' + c y' + k y + k3 y^3 = u

    Without k3 a step is exact, (y, v, u) <- exp(A dt) (y, v, u); with it, four steps of the
    classical Runge-Kutta method.

    Attributes:
        mass: m > 0, kg.
        damping: c >= 0, N s / m.
        stiffness: k >= 0, N / m.
        hardening: k3 >= 0, N / m^3.
        period: time dt between samples, s.

    Raises:
        InvalidInput: constants outside these ranges.

    Example:
        >>> plant = MassSpringDamper(mass=1.0, damping=0.0, stiffness=1.0, period=math.pi)
        >>> [round(value, 9) for value in plant.step((1.0, 0.0), 0.0)]  # half a turn
        [-1.0, -0.0]
    """

    mass: float = 1.0
    damping: float = 0.5
    stiffness: float = 4.0
    hardening: float = 0.0
    period: float = 0.05

    def __post_init__(self) -> None:
        """Raise on constants that no such plant has."""
        values = (self.mass, self.damping, self.stiffness, self.hardening, self.period)
        if not all(map(math.isfinite, values)) or min(self.mass, self.period) <= 0:
            raise InvalidInput(f"mass and period must be positive and all constants finite: {self}")
        if min(values) < 0:
            raise InvalidInput(f"damping, stiffness and hardening cannot be negative: {self}")

    def step(self, state: tuple[float, float], force: float) -> tuple[float, float]:
        """Position and velocity one period later."""
        if self.hardening:
            return self._integrated(state, force)
        (yy, yv, yu), (vy, vv, vu) = self._exact
        y, v = state
        return yy * y + yv * v + yu * force, vy * y + vv * v + vu * force

    @cached_property
    def _exact(self) -> tuple[tuple[float, ...], ...]:
        m = self.mass
        a = [[0, 1, 0], [-self.stiffness / m, -self.damping / m, 1 / m], [0, 0, 0]]
        whole = torch.matrix_exp(torch.tensor(a, dtype=torch.float64) * self.period)
        return tuple(tuple(row) for row in whole[:2].tolist())

    def _acceleration(self, y: float, v: float, u: float) -> float:
        return (u - self.damping * v - (self.stiffness + self.hardening * y * y) * y) / self.mass

    def _integrated(
        self, state: tuple[float, float], u: float, parts: int = 4
    ) -> tuple[float, float]:
        y, v = state
        h = self.period / parts
        for _ in range(parts):
            a1 = self._acceleration(y, v, u)
            v2 = v + h / 2 * a1
            a2 = self._acceleration(y + h / 2 * v, v2, u)
            v3 = v + h / 2 * a2
            a3 = self._acceleration(y + h / 2 * v2, v3, u)
            v4 = v + h * a3
            a4 = self._acceleration(y + h * v3, v4, u)
            y += h / 6 * (v + 2 * v2 + 2 * v3 + v4)
            v += h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
        return y, v

    def record(self, forces: Tensor) -> Tensor:
        """Positions y_0 .. y_{T-1} from rest, force u_k held from sample k to k + 1.

        Args:
            forces: (T,).

        Returns:
            (T,) float64.
        """
        state, found = (0.0, 0.0), []
        for force in forces.tolist():
            found.append(state[0])
            state = self.step(state, force)
        return torch.tensor(found, dtype=torch.float64)


def excitation(length: int, bounds: tuple[float, float], *, seed: int, longest: int = 30) -> Tensor:
    """Forces to learn a plant from: levels, uniform within bounds, each held for a while.

    Args:
        length: T, samples.
        bounds: least and largest force.
        seed: of levels and of how long each is held, 1 to `longest` samples.
        longest: see `seed`.

    Returns:
        (T,) float64.

    Example:
        >>> u = excitation(500, (-2.0, 2.0), seed=0)
        >>> u.shape, bool((u.abs() <= 2).all()), bool(u.mean().abs() < 1)
        (torch.Size([500]), True, True)
    """
    if length < 1 or longest < 1 or not bounds[0] < bounds[1]:
        raise InvalidInput(
            f"excitation needs samples and a range, got length {length}, longest {longest}, "
            f"bounds {bounds}"
        )
    level, hold = uniform(
        (1, 2, length), seed=seed, purpose=Purpose.DATA, chains=1, step=0, dtype=torch.float64
    )[0]
    times = 1 + (hold * longest).long()
    levels = bounds[0] + (bounds[1] - bounds[0]) * level
    forces: Tensor = levels.repeat_interleave(times)
    return forces[:length]


def sinusoid(length: int, *, amplitude: float, samples: float) -> Tensor:
    """amplitude sin(2 pi k / samples), k = 0 .. length - 1, float64.

    Example:
        >>> sinusoid(3, amplitude=2.0, samples=4.0).round(decimals=9).tolist()
        [0.0, 2.0, 0.0]
    """
    return amplitude * torch.sin(2 * math.pi / samples * torch.arange(length, dtype=torch.float64))


def staircase(levels: tuple[float, ...], *, samples: int) -> Tensor:
    """Levels one after the other, each for so many samples, float64.

    Example:
        >>> staircase((0.0, 1.0), samples=2).tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    steps: Tensor = torch.tensor(levels, dtype=torch.float64).repeat_interleave(samples)
    return steps
