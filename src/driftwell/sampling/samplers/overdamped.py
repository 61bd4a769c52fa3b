"""What the samplers z <- z + dt F + sqrt(2 T dt) noise share."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State, tree_map
from driftwell.dynamics import OverdampedPlan
from driftwell.dynamics.laws import Matmul, Scheme
from driftwell.sampling.samplers.sampler import (
    Problem,
    Sampler,
    check_sampler_temperature,
    check_step_size,
)
from driftwell.sampling.step_size import largest_curvature


class Overdamped(Sampler):
    """Samplers of the form z <- z + dt F + sqrt(2 T dt) noise, which laws may run fused.

    Attributes:
        step_size: dt in integration units, or None: a fraction of 1 / lambda_max.
        temperature: T, or None to inherit the law's.
        matmul: ``"float32"`` or ``"bfloat16"``, precision of matrix products in laws with a
            fused kernel; others ignore it.
    """

    step_size: float | None
    temperature: float | None
    matmul: Matmul

    @property
    @abstractmethod
    def scheme(self) -> Scheme:
        """``"lm"``, ``"em"`` or ``"none"``, see `OverdampedPlan`."""

    @property
    @abstractmethod
    def fraction(self) -> float:
        """Automatic dt as a fraction of 1 / lambda_max."""

    def plan(self, problem: Problem, first_step: int, steps: int) -> OverdampedPlan:
        """Block of steps for a law's fused kernel."""
        return OverdampedPlan(
            scheme=self.scheme,
            step_size=resolved(self.step_size),
            temperature=self.temperature_at(problem, first_step),
            seed=problem.seed,
            chains=problem.chains,
            first_step=first_step,
            steps=steps,
            free=problem.free,
            matmul=self.matmul,
        )

    def block(self, step: int, steps: int) -> int:
        """How many of the next `steps` steps share one temperature."""
        return steps

    def store(self, carry: Any) -> State | None:
        """Nothing: the noise is a function of the step."""
        return None


def kick(z: State, force: State, xi: State, dt: float, temperature: float) -> State:
    """z + dt F + sqrt(2 T dt) xi."""
    amplitude = math.sqrt(2.0 * temperature * dt)

    def move(u: Tensor, f: Tensor, n: Tensor) -> Tensor:
        return u + dt * f + amplitude * n

    return tree_map(move, z, force, xi)


def leimkuhler_matthews(
    problem: Problem, z: State, xi: State, step: int, dt: float, temperature: float
) -> tuple[State, State]:
    """z + dt F + sqrt(2 T dt) (xi_n + xi_{n+1}) / 2, and xi_{n+1}."""
    _, force = problem.energy_and_force(z)
    later = problem.normal(z, step + 1)
    mean = tree_map(lambda a, b: 0.5 * (a + b), xi, later)
    return kick(z, force, mean, dt, temperature), later


def resolved(step_size: float | None) -> float:
    """The step size of a resolved sampler.

    Raises:
        InvalidInput: it is still automatic.
    """
    if step_size is None:
        raise InvalidInput("this sampler's step size is still automatic; call resolve(...) first")
    return step_size


def check_settings(sampler: Overdamped) -> None:
    """Refuse a step size, temperature or product precision that cannot be used.

    Raises:
        InvalidInput: the sentence says which.
    """
    check_step_size(sampler.step_size)
    check_sampler_temperature(sampler.temperature)
    if sampler.matmul not in ("float32", "bfloat16"):
        raise InvalidInput(f"matmul must be 'float32' or 'bfloat16', got {sampler.matmul!r}")


def automatic_step(sampler: Overdamped, problem: Problem, z: State) -> float:
    """The sampler's own step size, or its fraction of 1 / lambda_max at `z`."""
    if sampler.step_size is not None:
        return sampler.step_size
    return sampler.fraction / largest_curvature(problem.law, z, problem.x)
