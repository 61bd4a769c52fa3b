"""Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.noise import Purpose
from driftwell.core.state import State, inner, tree_map, where
from driftwell.sampling.samplers.langevin import ROBERTS_TWEEDIE
from driftwell.sampling.samplers.overdamped import resolved
from driftwell.sampling.samplers.sampler import (
    Problem,
    Sampler,
    check_sampler_temperature,
    check_step_size,
)
from driftwell.sampling.step_size import largest_curvature


@dataclass(frozen=True)
class Metropolis:
    """Carry of a sampler with an accept step: energy and force at z, and its tally.

    Attributes:
        energy: E(z), (B,).
        force: F(z), a tree like z.
        accepted: sum of acceptance probabilities so far, float64 (B,).
        proposals: number of proposals so far.
    """

    energy: Tensor
    force: State
    accepted: Tensor
    proposals: int


def metropolis_init(problem: Problem, z: State) -> Metropolis:
    """Carry at z with an empty tally."""
    energy, force = problem.energy_and_force(z)
    return Metropolis(energy, force, torch.zeros_like(energy, dtype=torch.float64), 0)


def langevin_proposal(
    z: State, force: State, xi: State, dt: float, temperature: Tensor | float
) -> State:
    """z' = z + dt F + sqrt(2 T dt) xi, with T a number or one per sample (B,)."""

    def move(u: Tensor, f: Tensor, n: Tensor) -> Tensor:
        return u + dt * f + _column((2.0 * _as(temperature, u) * dt) ** 0.5, u) * n

    return tree_map(move, z, force, xi)


def log_acceptance(
    z: State, energy: Tensor, force: State,
    z_new: State, energy_new: Tensor, force_new: State,
    dt: float, temperature: Tensor | float,
) -> Tensor:  # fmt: skip
    """Log Metropolis-Hastings ratio of a Langevin proposal, float64 (B,); NaN counts as -inf.

    log a = (E - E') / T + (||z' - z - dt F||^2 - ||z - z' - dt F'||^2) / (4 T dt).
    """
    there = tree_map(lambda a, b, f: b - a - dt * f, z, z_new, force)
    back = tree_map(lambda a, b, f: a - b - dt * f, z, z_new, force_new)
    T = _as(temperature, energy).double()
    log_ratio = (energy - energy_new).double() / T
    log_ratio = log_ratio + (inner(there, there) - inner(back, back)).double() / (4 * T * dt)
    return torch.nan_to_num(log_ratio, nan=-torch.inf)


@final
@dataclass(frozen=True)
class MALA(Sampler):
    """Metropolis-adjusted Langevin algorithm, from Roberts and Tweedie, *Exponential convergence
    of Langevin distributions and their discrete approximations*, 1996.

    Proposal z' = z + dt F + sqrt(2 T dt) xi, accepted with probability
    min(1, exp(-(E' - E)/T) q(z | z') / q(z' | z)): exact at any dt. An acceptance near 0.57 is
    the efficient one in many dimensions.

    Args:
        step_size: dt in integration units; None: n^(-1/3) / lambda_max with n free coordinates.
        temperature: T in the law's units; None inherits the law's.

    Raises:
        InvalidInput: a step size or temperature that is not positive and finite.

    Example:
        >>> import torch, driftwell as dw
        >>> well = lambda z: 0.5 * (z**2).sum(dim=1)
        >>> sampler = dw.MALA(0.5)
        >>> chains = dw.sample(well, torch.zeros(8, 2), steps=20, sampler=sampler, seed=0)
        >>> chains.z.shape
        torch.Size([8, 2])
    """

    papers = (ROBERTS_TWEEDIE,)
    step_size: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        check_sampler_temperature(self.temperature)

    def resolve(self, problem: Problem, z: State) -> MALA:
        """With a number for `step_size`."""
        if self.step_size is not None:
            return self
        scale = float(problem.dimension(z).max().clamp_min(1.0)) ** (-1.0 / 3.0)
        return replace(self, step_size=scale / largest_curvature(problem.law, z, problem.x))

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> Metropolis:
        """Energy and force at z."""
        return metropolis_init(problem, z)

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One proposal and its acceptance."""
        dt, T = resolved(self.step_size), problem.temperature
        xi = problem.normal(z, step)
        z_new = langevin_proposal(z, carry.force, xi, dt, T)
        energy_new, force_new = problem.energy_and_force(z_new)
        log_ratio = log_acceptance(
            z, carry.energy, carry.force, z_new, energy_new, force_new, dt, T
        )
        return metropolis_choice(
            z, carry, z_new, energy_new, force_new, log_ratio,
            problem.log_uniform(step, Purpose.ACCEPT),
        )  # fmt: skip

    def store(self, carry: Any) -> State | None:
        """Nothing: energy and force are functions of z."""
        return None

    def acceptance(self, carry: Any) -> Tensor | None:
        """Mean acceptance probability per chain."""
        return mean_acceptance(carry)


def metropolis_choice(
    z: State, carry: Metropolis, z_new: State, energy_new: Tensor, force_new: State,
    log_ratio: Tensor, log_u: Tensor,
) -> tuple[State, Metropolis]:  # fmt: skip
    """Keep z_new where log u < log ratio, and tally min(1, ratio)."""
    accept = log_u < log_ratio
    tally = Metropolis(
        torch.where(accept, energy_new, carry.energy),
        where(accept, force_new, carry.force),
        carry.accepted + log_ratio.clamp_max(0.0).exp(),
        carry.proposals + 1,
    )
    return where(accept, z_new, z), tally


def mean_acceptance(carry: Metropolis) -> Tensor | None:
    """Mean acceptance probability per chain, (B,), or None before the first proposal."""
    return carry.accepted / carry.proposals if carry.proposals else None


def _as(temperature: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(temperature, dtype=like.dtype, device=like.device)


def _column(value: Tensor, leaf: Tensor) -> Tensor:
    return value.reshape(-1, *([1] * (leaf.ndim - 1))) if value.ndim else value
