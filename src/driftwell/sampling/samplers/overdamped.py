"""Overdamped Langevin steps: Leimkuhler-Matthews, Euler-Maruyama, and descent at T = 0."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
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

LEIMKUHLER_MATTHEWS = Paper(
    key="leimkuhler2013rational",
    title="Rational construction of stochastic numerical methods for molecular sampling",
    authors="Leimkuhler, Benedict and Matthews, Charles",
    year=2013,
    arxiv="1203.5428",
    venue="Applied Mathematics Research eXpress 2013, 34-56",
)
ROBERTS_TWEEDIE = Paper(
    key="roberts1996exponential",
    title="Exponential convergence of Langevin distributions and their discrete approximations",
    authors="Roberts, Gareth O. and Tweedie, Richard L.",
    year=1996,
    venue="Bernoulli 2, 341-363",
)


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


@final
@dataclass(frozen=True)
class Langevin(Overdamped):
    """Leimkuhler-Matthews Langevin sampler, from Leimkuhler and Matthews, *Rational construction
    of stochastic numerical methods for molecular sampling*, 2013, arXiv:1203.5428.

    z <- z + dt F + sqrt(2 T dt) (xi_n + xi_{n+1}) / 2, with xi_n the keyed normal of step n.
    One force a step as in Euler-Maruyama, but the sampling bias is O(dt^2) and vanishes for a
    quadratic energy at every stable dt < 2 / lambda_max.

    Args:
        step_size: dt in integration units; None: 0.5 / lambda_max by power iteration.
        temperature: T in the law's units; None inherits the law's.
        matmul: precision of fused matrix products, ``"float32"`` or ``"bfloat16"``.

    Raises:
        InvalidInput: a step size or temperature that is not positive and finite.

    Example:
        >>> Langevin(step_size=0.05)
        Langevin(step_size=0.05, temperature=None, matmul='float32')
    """

    papers = (LEIMKUHLER_MATTHEWS,)
    step_size: float | None = None
    temperature: float | None = None
    matmul: Matmul = "float32"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def scheme(self) -> Scheme:
        """``"lm"``."""
        return "lm"

    @property
    def fraction(self) -> float:
        """0.5."""
        return 0.5

    def resolve(self, problem: Problem, z: State) -> Langevin:
        """With a number for `step_size`."""
        return replace(self, step_size=_automatic(self, problem, z))

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> State:
        """Noise xi_n of the coming step."""
        return problem.normal(z, step)

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One Leimkuhler-Matthews step."""
        _, force = problem.energy_and_force(z)
        later = problem.normal(z, step + 1)
        xi = tree_map(lambda a, b: 0.5 * (a + b), carry, later)
        temperature = self.temperature_at(problem, step)
        return kick(z, force, xi, resolved(self.step_size), temperature), later


@final
@dataclass(frozen=True)
class UnadjustedLangevin(Overdamped):
    """Unadjusted Langevin algorithm (Euler-Maruyama), from Roberts and Tweedie, *Exponential
    convergence of Langevin distributions and their discrete approximations*, 1996.

    z <- z + dt F + sqrt(2 T dt) xi_n. The papers' scheme: in a harmonic mode of curvature lambda
    its variance is too large by the factor 1 / (1 - dt lambda / 2).

    Args:
        step_size: dt in integration units; None: 0.1 / lambda_max by power iteration.
        temperature: T in the law's units; None inherits the law's.
        matmul: precision of fused matrix products, ``"float32"`` or ``"bfloat16"``.

    Raises:
        InvalidInput: a step size or temperature that is not positive and finite.

    Example:
        >>> import torch, driftwell as dw
        >>> well = lambda z: 0.5 * (z**2).sum(dim=1)
        >>> sampler = dw.UnadjustedLangevin(0.1)
        >>> chains = dw.sample(well, torch.zeros(8, 2), steps=20, sampler=sampler, seed=0)
        >>> chains.z.shape
        torch.Size([8, 2])
    """

    papers = (ROBERTS_TWEEDIE,)
    step_size: float | None = None
    temperature: float | None = None
    matmul: Matmul = "float32"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def scheme(self) -> Scheme:
        """``"em"``."""
        return "em"

    @property
    def fraction(self) -> float:
        """0.1: the bias is first order in dt."""
        return 0.1

    def resolve(self, problem: Problem, z: State) -> UnadjustedLangevin:
        """With a number for `step_size`."""
        return replace(self, step_size=_automatic(self, problem, z))

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> None:
        """Nothing to carry."""

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One Euler-Maruyama step."""
        _, force = problem.energy_and_force(z)
        xi = problem.normal(z, step)
        return kick(z, force, xi, resolved(self.step_size), problem.temperature), None


@final
@dataclass(frozen=True)
class AnnealedLangevin(Overdamped):
    """Leimkuhler-Matthews Langevin with a falling temperature (simulated annealing).

    The temperature goes geometrically from `start` to the target over the first `over` steps of
    the chain (absolute steps, so that a continued run goes on with its schedule), held constant
    for `hold` steps at a time, and stays at the target afterwards.

    Args:
        start: first temperature, in the law's units.
        over: number of steps to the target.
        hold: steps of equal temperature.
        step_size: dt in integration units; None: 0.5 / lambda_max.
        temperature: target T; None inherits the law's.
        matmul: precision of fused matrix products.

    Raises:
        InvalidInput: a temperature or step size that is not positive, `over` or `hold` < 1.

    Example:
        >>> import torch, driftwell as dw
        >>> well = lambda z: 0.5 * (z**2).sum(dim=1)
        >>> sampler = dw.AnnealedLangevin(start=4.0, over=10, step_size=0.1)
        >>> chains = dw.sample(well, torch.zeros(8, 2), steps=20, sampler=sampler, seed=0)
        >>> chains.z.shape
        torch.Size([8, 2])
    """

    papers = (LEIMKUHLER_MATTHEWS,)
    start: float = 4.0
    over: int = 1000
    hold: int = 10
    step_size: float | None = None
    temperature: float | None = None
    matmul: Matmul = "float32"

    def __post_init__(self) -> None:
        _check(self)
        check_sampler_temperature(self.start)
        if self.over < 1 or self.hold < 1:
            raise InvalidInput(
                f"AnnealedLangevin needs over >= 1 and hold >= 1, got {self.over} and {self.hold}"
            )

    @property
    def scheme(self) -> Scheme:
        """``"lm"``."""
        return "lm"

    @property
    def fraction(self) -> float:
        """0.5."""
        return 0.5

    def temperature_at(self, problem: Problem, step: int) -> float:
        """T(n) = T (start / T)^(1 - n / over) for n < over, with n rounded down to `hold`."""
        held = step - step % self.hold
        if held >= self.over:
            return problem.temperature
        return float(
            problem.temperature * (self.start / problem.temperature) ** (1 - held / self.over)
        )

    def block(self, step: int, steps: int) -> int:
        """Steps up to the next change of temperature."""
        if step - step % self.hold >= self.over:
            return steps
        return min(steps, self.hold - step % self.hold)

    def resolve(self, problem: Problem, z: State) -> AnnealedLangevin:
        """With a number for `step_size`."""
        return replace(self, step_size=_automatic(self, problem, z))

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> State:
        """Noise xi_n of the coming step."""
        return problem.normal(z, step)

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One Leimkuhler-Matthews step at the temperature of this step."""
        _, force = problem.energy_and_force(z)
        later = problem.normal(z, step + 1)
        xi = tree_map(lambda a, b: 0.5 * (a + b), carry, later)
        temperature = self.temperature_at(problem, step)
        return kick(z, force, xi, resolved(self.step_size), temperature), later


@final
@dataclass(frozen=True)
class Descent(Overdamped):
    """Gradient descent, the T = 0 limit of Langevin dynamics: z <- z + dt F.

    The energy falls monotonically for dt < 2 / lambda_max; used for retrieval and denoising.

    Args:
        step_size: dt in integration units; None: 0.5 / lambda_max.
        matmul: precision of fused matrix products.

    Raises:
        InvalidInput: a step size that is not positive and finite.

    Example:
        >>> import torch, driftwell as dw
        >>> well = lambda z: 0.5 * (z**2).sum(dim=1)
        >>> sampler = dw.Descent(0.1)
        >>> chains = dw.sample(well, torch.zeros(8, 2), steps=20, sampler=sampler, seed=0)
        >>> chains.z.shape
        torch.Size([8, 2])
    """

    step_size: float | None = None
    matmul: Matmul = "float32"
    temperature: float | None = None

    def __post_init__(self) -> None:
        _check(self)
        if self.temperature is not None:
            raise InvalidInput("Descent is the zero-temperature limit and takes no temperature")

    @property
    def scheme(self) -> Scheme:
        """``"none"``."""
        return "none"

    @property
    def fraction(self) -> float:
        """0.5."""
        return 0.5

    def temperature_at(self, problem: Problem, step: int) -> float:
        """Zero."""
        return 0.0

    def resolve(self, problem: Problem, z: State) -> Descent:
        """With a number for `step_size`."""
        return replace(self, step_size=_automatic(self, problem, z))

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> None:
        """Nothing to carry."""

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One descent step."""
        _, force = problem.energy_and_force(z)
        dt = resolved(self.step_size)
        return tree_map(lambda u, f: u + dt * f, z, force), None


def kick(z: State, force: State, xi: State, dt: float, temperature: float) -> State:
    """z + dt F + sqrt(2 T dt) xi."""
    amplitude = math.sqrt(2.0 * temperature * dt)

    def move(u: Tensor, f: Tensor, n: Tensor) -> Tensor:
        return u + dt * f + amplitude * n

    return tree_map(move, z, force, xi)


def resolved(step_size: float | None) -> float:
    """The step size of a resolved sampler.

    Raises:
        InvalidInput: it is still automatic.
    """
    if step_size is None:
        raise InvalidInput("this sampler's step size is still automatic; call resolve(...) first")
    return step_size


def _check(sampler: Overdamped) -> None:
    check_step_size(sampler.step_size)
    check_sampler_temperature(sampler.temperature)
    if sampler.matmul not in ("float32", "bfloat16"):
        raise InvalidInput(f"matmul must be 'float32' or 'bfloat16', got {sampler.matmul!r}")


def _automatic(sampler: Overdamped, problem: Problem, z: State) -> float:
    if sampler.step_size is not None:
        return sampler.step_size
    return sampler.fraction / largest_curvature(problem.law, z, problem.x)
