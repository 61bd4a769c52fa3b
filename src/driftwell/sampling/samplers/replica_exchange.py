"""Replica exchange (parallel tempering) in temperature."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose
from driftwell.core.papers import Paper
from driftwell.core.state import State, tree_map, where
from driftwell.sampling.samplers.mala import (
    Metropolis,
    langevin_proposal,
    log_acceptance,
    mean_acceptance,
    metropolis_choice,
    metropolis_init,
)
from driftwell.sampling.samplers.overdamped import resolved
from driftwell.sampling.samplers.sampler import Problem, Sampler, check_step_size
from driftwell.sampling.step_size import largest_curvature

HUKUSHIMA_NEMOTO = Paper(
    key="hukushima1996exchange",
    title="Exchange Monte Carlo method and application to spin glass simulations",
    authors="Hukushima, Koji and Nemoto, Koji",
    year=1996,
    arxiv="cond-mat/9512035",
    venue="Journal of the Physical Society of Japan 65, 1604-1608",
)


@dataclass(frozen=True)
class Replicas:
    """Carry of replica exchange: the hot replicas, every replica's tally, and the swaps' tally.

    Attributes:
        hot: states of the replicas above the target temperature, coldest first.
        tallies: energy, force and acceptance of every replica, the target's first.
        swaps: sum of swap probabilities of each neighbouring pair, float64 (R-1,).
        tried: number of swaps tried of each pair, float64 (R-1,).
    """

    hot: tuple[State, ...]
    tallies: tuple[Metropolis, ...]
    swaps: Tensor
    tried: Tensor


@final
@dataclass(frozen=True)
class ReplicaExchange(Sampler):
    """Replica exchange in temperature, from Hukushima and Nemoto, *Exchange Monte Carlo method
    and application to spin glass simulations*, 1996, arXiv:cond-mat/9512035.

    Every chain is accompanied by replicas at the temperatures `ladder` times the target's; each
    moves by MALA, and every `swap_every` steps neighbours i, j swap states with probability
    min(1, exp((1/T_i - 1/T_j)(E_i - E_j))), even and odd pairs in turn: exact at any dt. The
    chain returned is the one at the target temperature (ladder[0] = 1).

    Args:
        ladder: temperatures relative to the target, increasing from 1.
        swap_every: steps between swaps.
        step_size: dt at the target temperature; None: n^(-1/3) / lambda_max. Hotter replicas use
            the same dt.
        temperature: target T in the law's units; None inherits the law's.

    Raises:
        InvalidInput: a ladder that does not rise from 1, fewer than two rungs, swap_every < 1.

    Example:
        >>> import torch, driftwell as dw
        >>> well = lambda z: 0.5 * (z**2).sum(dim=1)
        >>> sampler = dw.ReplicaExchange((1.0, 2.0), step_size=0.5)
        >>> chains = dw.sample(well, torch.zeros(8, 2), steps=20, sampler=sampler, seed=0)
        >>> chains.z.shape
        torch.Size([8, 2])
    """

    papers = (HUKUSHIMA_NEMOTO,)
    ladder: tuple[float, ...] = (1.0, 1.6, 2.5, 4.0)
    swap_every: int = 10
    step_size: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        rising = all(a < b for a, b in zip(self.ladder, self.ladder[1:], strict=False))
        if len(self.ladder) < 2 or self.ladder[0] != 1.0 or not rising:
            raise InvalidInput(
                "ReplicaExchange needs a ladder of at least two temperatures that rises from 1.0, "
                f"got {self.ladder}"
            )
        if self.swap_every < 1:
            raise InvalidInput(f"ReplicaExchange needs swap_every >= 1, got {self.swap_every}")

    def resolve(self, problem: Problem, z: State) -> ReplicaExchange:
        """With a number for `step_size`."""
        if self.step_size is not None:
            return self
        scale = float(problem.dimension(z).max().clamp_min(1.0)) ** (-1.0 / 3.0)
        return replace(self, step_size=scale / largest_curvature(problem.law, z, problem.x))

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> Replicas:
        """Hot replicas as kept, or all starting at z."""
        pairs = len(self.ladder) - 1
        hot = stored if isinstance(stored, tuple) else (z,) * pairs
        tallies = tuple(metropolis_init(problem, replica) for replica in (z, *hot))
        zero = torch.zeros(pairs, dtype=torch.float64, device=problem.chains.device)
        return Replicas(tuple(hot), tallies, zero, zero)

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One MALA step of every replica, then perhaps a swap."""
        states, tallies = [z, *carry.hot], list(carry.tallies)
        for r, factor in enumerate(self.ladder):
            states[r], tallies[r] = self._move(
                problem, states[r], tallies[r], problem.temperature * factor, step, r
            )
        swaps, tried = carry.swaps.clone(), carry.tried.clone()
        if (step + 1) % self.swap_every == 0:
            parity = (step + 1) // self.swap_every % 2
            for i in range(parity, len(states) - 1, 2):
                swaps[i] += self._swap(problem, states, tallies, i, step)
                tried[i] += 1
        return states[0], Replicas(tuple(states[1:]), tuple(tallies), swaps, tried)

    def _move(
        self, problem: Problem, z: State, tally: Metropolis, T: float, step: int, r: int
    ) -> tuple[State, Metropolis]:
        dt = resolved(self.step_size)
        xi = problem.normal(z, step, copy=r)
        z_new = langevin_proposal(z, tally.force, xi, dt, T)
        energy, force = problem.energy_and_force(z_new)
        log_ratio = log_acceptance(z, tally.energy, tally.force, z_new, energy, force, dt, T)
        log_u = problem.log_uniform(step, Purpose.ACCEPT, leaf=r)
        return metropolis_choice(z, tally, z_new, energy, force, log_ratio, log_u)

    def _swap(
        self, problem: Problem, states: list[State], tallies: list[Metropolis], i: int, step: int
    ) -> Tensor:
        T = problem.temperature
        gap = 1.0 / (T * self.ladder[i]) - 1.0 / (T * self.ladder[i + 1])
        a, b = tallies[i], tallies[i + 1]
        log_ratio = gap * (a.energy - b.energy).double()
        swap = problem.log_uniform(step, Purpose.SWAP, leaf=i) < log_ratio
        states[i], states[i + 1] = (
            where(swap, states[i + 1], states[i]),
            where(swap, states[i], states[i + 1]),
        )
        energies = torch.where(swap, b.energy, a.energy), torch.where(swap, a.energy, b.energy)
        forces = where(swap, b.force, a.force), where(swap, a.force, b.force)
        tallies[i] = replace(a, energy=energies[0], force=forces[0])
        tallies[i + 1] = replace(b, energy=energies[1], force=forces[1])
        return log_ratio.clamp_max(0.0).exp().mean()

    def store(self, carry: Any) -> State | None:
        """The hot replicas."""
        return tuple(tree_map(Tensor.detach, replica) for replica in carry.hot)

    def acceptance(self, carry: Any) -> Tensor | None:
        """Mean MALA acceptance of the target replica, per chain."""
        return mean_acceptance(carry.tallies[0])

    def swap_acceptance(self, carry: Replicas) -> Tensor:
        """Mean swap probability of each neighbouring pair, (R-1,)."""
        return carry.swaps / carry.tried.clamp_min(1.0)
