"""Underdamped Langevin dynamics by the BAOAB splitting."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, final

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose
from driftwell.core.state import State, tree_map
from driftwell.sampling.samplers.langevin import LEIMKUHLER_MATTHEWS
from driftwell.sampling.samplers.overdamped import resolved
from driftwell.sampling.samplers.sampler import (
    Problem,
    Sampler,
    check_sampler_temperature,
    check_step_size,
)
from driftwell.sampling.step_size import largest_curvature


@final
@dataclass(frozen=True)
class BAOAB(Sampler):
    """Underdamped Langevin sampler (BAOAB splitting), from Leimkuhler and Matthews, *Rational
    construction of stochastic numerical methods for molecular sampling*, 2013, arXiv:1203.5428.

    dz = p dt, dp = F dt - friction p dt + sqrt(2 friction T) dW, unit mass, split as half kick,
    half drift, exact Ornstein-Uhlenbeck, half drift, half kick. Configurations are exact for a
    quadratic energy at any stable dt < 2 / sqrt(lambda_max).

    Args:
        step_size: dt in integration units; None: 0.5 / sqrt(lambda_max).
        friction: gamma, per integration unit.
        temperature: T in the law's units; None inherits the law's.

    Raises:
        InvalidInput: a step size, friction or temperature that is not positive and finite.

    Example:
        >>> import torch, driftwell as dw
        >>> well = lambda z: 0.5 * (z**2).sum(dim=1)
        >>> sampler = dw.BAOAB(0.3)
        >>> chains = dw.sample(well, torch.zeros(8, 2), steps=20, sampler=sampler, seed=0)
        >>> chains.z.shape
        torch.Size([8, 2])
    """

    papers = (LEIMKUHLER_MATTHEWS,)
    step_size: float | None = None
    friction: float = 1.0
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        check_sampler_temperature(self.temperature)
        if not 0.0 < self.friction < float("inf"):
            raise InvalidInput(f"BAOAB needs a positive, finite friction, got {self.friction}")

    def resolve(self, problem: Problem, z: State) -> BAOAB:
        """With a number for `step_size`."""
        if self.step_size is not None:
            return self
        bound = largest_curvature(problem.law, z, problem.x)
        return replace(self, step_size=0.5 / bound**0.5)

    def init(
        self, problem: Problem, z: State, step: int, stored: State | None
    ) -> tuple[State, State]:
        """Momenta (kept, or drawn from N(0, T)) and the force at z."""
        root = problem.temperature**0.5
        if stored is None:
            stored = tree_map(lambda n: root * n, problem.normal(z, step, Purpose.MOMENTUM))
        return stored, problem.energy_and_force(z)[1]

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One BAOAB step."""
        p, force = carry
        dt = resolved(self.step_size)
        decay = math.exp(-self.friction * dt)
        amplitude = math.sqrt(problem.temperature * (1.0 - decay**2))
        p = tree_map(lambda u, f: u + 0.5 * dt * f, p, force)
        z = tree_map(lambda u, v: u + 0.5 * dt * v, z, p)
        p = tree_map(lambda u, n: decay * u + amplitude * n, p, problem.normal(z, step))
        z = tree_map(lambda u, v: u + 0.5 * dt * v, z, p)
        _, force = problem.energy_and_force(z)
        return z, (tree_map(lambda u, f: u + 0.5 * dt * f, p, force), force)

    def store(self, carry: Any) -> State | None:
        """The momenta."""
        momenta: State = carry[0]
        return momenta

    def proposal_step(self) -> float:
        """dt^2 / 2, the overdamped step of one kick and drift."""
        return 0.5 * resolved(self.step_size) ** 2
