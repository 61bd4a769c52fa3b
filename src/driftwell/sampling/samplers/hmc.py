"""Hamiltonian (hybrid) Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose
from driftwell.core.papers import Paper
from driftwell.core.state import State, inner, tree_map
from driftwell.sampling.samplers.mala import (
    Metropolis,
    mean_acceptance,
    metropolis_choice,
    metropolis_init,
)
from driftwell.sampling.samplers.overdamped import resolved
from driftwell.sampling.samplers.sampler import (
    Problem,
    Sampler,
    check_sampler_temperature,
    check_step_size,
)
from driftwell.sampling.step_size import largest_curvature

DUANE = Paper(
    key="duane1987hybrid",
    title="Hybrid Monte Carlo",
    authors="Duane, Simon and Kennedy, A. D. and Pendleton, Brian J. and Roweth, Duncan",
    year=1987,
    venue="Physics Letters B 195, 216-222",
)


@final
@dataclass(frozen=True)
class HMC(Sampler):
    """Hamiltonian Monte Carlo, from Duane, Kennedy, Pendleton and Roweth, *Hybrid Monte Carlo*,
    1987.

    Momenta p ~ N(0, T), `leapfrog` steps of size dt of the Hamiltonian E(z) + |p|^2 / 2, accepted
    with probability min(1, exp(-dH / T)): exact at any dt. One step costs `leapfrog` forces.

    Args:
        step_size: leapfrog dt in integration units; None: n^(-1/4) / sqrt(lambda_max).
        leapfrog: leapfrog steps per proposal, at least 1.
        temperature: T in the law's units; None inherits the law's.

    Raises:
        InvalidInput: a step size or temperature that is not positive, or leapfrog < 1.

    Example:
        >>> import torch, driftwell as dw
        >>> well = lambda z: 0.5 * (z**2).sum(dim=1)
        >>> sampler = dw.HMC(0.3)
        >>> chains = dw.sample(well, torch.zeros(8, 2), steps=20, sampler=sampler, seed=0)
        >>> chains.z.shape
        torch.Size([8, 2])
    """

    papers = (DUANE,)
    step_size: float | None = None
    leapfrog: int = 10
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        check_sampler_temperature(self.temperature)
        if self.leapfrog < 1:
            raise InvalidInput(f"HMC needs leapfrog >= 1, got {self.leapfrog}")

    def resolve(self, problem: Problem, z: State) -> HMC:
        """With a number for `step_size`."""
        if self.step_size is not None:
            return self
        scale = float(problem.dimension(z).max().clamp_min(1.0)) ** -0.25
        bound = largest_curvature(problem.law, z, problem.x)
        return replace(self, step_size=scale / bound**0.5)

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> Metropolis:
        """Energy and force at z."""
        return metropolis_init(problem, z)

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One trajectory and its acceptance."""
        dt, T = resolved(self.step_size), problem.temperature
        root = T**0.5
        p = tree_map(lambda n: root * n, problem.normal(z, step, Purpose.MOMENTUM))
        start = carry.energy.double() + 0.5 * inner(p, p).double()
        q, force, energy = z, carry.force, carry.energy
        for _ in range(self.leapfrog):
            p = tree_map(lambda u, f: u + 0.5 * dt * f, p, force)
            q = tree_map(lambda u, v: u + dt * v, q, p)
            energy, force = problem.energy_and_force(q)
            p = tree_map(lambda u, f: u + 0.5 * dt * f, p, force)
        end = energy.double() + 0.5 * inner(p, p).double()
        log_ratio = torch.nan_to_num((start - end) / T, nan=-torch.inf)
        log_u = problem.log_uniform(step, Purpose.ACCEPT)
        return metropolis_choice(z, carry, q, energy, force, log_ratio, log_u)

    def store(self, carry: Any) -> State | None:
        """Nothing: energy and force are functions of z."""
        return None

    def proposal_step(self) -> float:
        """dt^2 / 2, the overdamped step of one leapfrog step."""
        return 0.5 * resolved(self.step_size) ** 2

    def acceptance(self, carry: Any) -> Tensor | None:
        """Mean acceptance probability per chain."""
        return mean_acceptance(carry)
