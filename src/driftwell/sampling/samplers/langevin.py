"""The Langevin samplers: Leimkuhler-Matthews, and the papers' Euler scheme."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

from driftwell.core.papers import Paper
from driftwell.core.state import State
from driftwell.dynamics.laws import Matmul, Scheme
from driftwell.sampling.samplers.overdamped import (
    Overdamped,
    automatic_step,
    check_settings,
    kick,
    leimkuhler_matthews,
    resolved,
)
from driftwell.sampling.samplers.sampler import Problem

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
        check_settings(self)

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
        return replace(self, step_size=automatic_step(self, problem, z))

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> State:
        """Noise xi_n of the coming step."""
        return problem.normal(z, step)

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One Leimkuhler-Matthews step."""
        dt, temperature = resolved(self.step_size), self.temperature_at(problem, step)
        return leimkuhler_matthews(problem, z, carry, step, dt, temperature)


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
        check_settings(self)

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
        return replace(self, step_size=automatic_step(self, problem, z))

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> None:
        """Nothing to carry."""

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One Euler-Maruyama step."""
        _, force = problem.energy_and_force(z)
        xi = problem.normal(z, step)
        return kick(z, force, xi, resolved(self.step_size), problem.temperature), None
