"""Log-partition function by annealed importance sampling."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose
from driftwell.core.papers import Paper
from driftwell.core.state import State
from driftwell.dynamics import Energy
from driftwell.sampling.samplers.mala import (
    langevin_proposal,
    log_acceptance,
    metropolis_choice,
    metropolis_init,
)
from driftwell.sampling.samplers.sampler import Problem
from driftwell.sampling.step_size import largest_curvature

NEAL = Paper(
    key="neal2001annealed",
    title="Annealed importance sampling",
    authors="Neal, Radford M.",
    year=2001,
    arxiv="physics/9803008",
    venue="Statistics and Computing 11, 125-139",
)


class AnnealingPath(ABC):
    """Laws from a solvable one (s = 0) to the one asked about (s = 1), at one temperature."""

    @abstractmethod
    def law(self, s: float) -> Energy:
        """Energy at s in [0, 1]."""

    @abstractmethod
    def start(self, chains: int, seed: int) -> State:
        """Independent samples of the law at s = 0, (chains, ...)."""

    @abstractmethod
    def log_partition_start(self) -> float:
        """log Z at s = 0, in nats."""


@dataclass(frozen=True)
class LogPartition:
    """Estimate of log Z = log integral exp(-E/T) dz, in nats.

    Attributes:
        value: the estimate; exp(value) is unbiased for Z, so `value` is low on average.
        standard_error: of `value`, by the delta method over chains.
        effective_chains: (sum w)^2 / sum w^2 of the importance weights; below ~10 the error bar
            itself cannot be trusted.
        acceptance: mean MALA acceptance along the way.
    """

    value: float
    standard_error: float
    effective_chains: float
    acceptance: float


def log_partition(
    path: AnnealingPath,
    *,
    chains: int = 256,
    levels: int = 500,
    seed: int = 0,
    step_fraction: float = 2.0,
    progress: Callable[[int, int], None] | None = None,
) -> LogPartition:
    """Log-partition function by annealed importance sampling, from Neal, *Annealed importance
    sampling*, 2001, arXiv:physics/9803008.

    Chains start in the law at s = 0 and meet `levels` laws on the way to s = 1; between them one
    MALA step leaves each law exactly invariant. With w = prod exp(-(E_{k+1} - E_k)(z_k) / T),
    Z_1 / Z_0 = <w>.

    Args:
        path: the laws; a model offers one as `annealing_path()`.
        chains: number of chains, at least 2.
        levels: number of steps in s, at least 1.
        seed: seed of the keyed noise.
        step_fraction: MALA's dt as a multiple of n^(-1/3) / lambda_max of each law.
        progress: called as progress(done, levels).

    Raises:
        InvalidInput: fewer than two chains, fewer than one level.

    Example:
        >>> from driftwell.models.langevin import NeuralLangevinMachine
        >>> import math
        >>> free = NeuralLangevinMachine(2, gain=0.0, seed=0)
        >>> estimate = log_partition(free.annealing_path(), chains=8, levels=2)
        >>> round(estimate.value - math.log(2 * math.pi), 6)
        0.0
    """
    if chains < 2 or levels < 1:
        raise InvalidInput(
            f"log_partition needs chains >= 2 and levels >= 1, got {chains} and {levels}"
        )
    z = path.start(chains, seed)
    log_w = torch.zeros(chains, dtype=torch.float64)
    law, accepted, bound = path.law(0.0), 0.0, 0.0
    for k in range(levels):
        following = path.law((k + 1) / levels)
        T = following.temperature
        with torch.no_grad():
            log_w -= (following.energy(z) - law.energy(z)).double().cpu() / T
        law = following
        if k % max(1, levels // 20) == 0 or k == levels - 1:
            bound = largest_curvature(law, z)
        problem = Problem(law, None, T, None, seed, torch.arange(chains))
        z, accept = _mala_step(problem, z, step_fraction, bound, k)
        accepted += accept / levels
        if progress:
            progress(k + 1, levels)
    return _estimate(log_w, path.log_partition_start(), accepted)


def _mala_step(
    problem: Problem, z: State, fraction: float, bound: float, step: int
) -> tuple[State, float]:
    dt = fraction * float(problem.dimension(z).max()) ** (-1 / 3) / bound
    tally = metropolis_init(problem, z)
    z_new = langevin_proposal(z, tally.force, problem.normal(z, step), dt, problem.temperature)
    energy, force = problem.energy_and_force(z_new)
    log_ratio = log_acceptance(
        z, tally.energy, tally.force, z_new, energy, force, dt, problem.temperature
    )
    log_u = problem.log_uniform(step, Purpose.ACCEPT)
    z, tally = metropolis_choice(z, tally, z_new, energy, force, log_ratio, log_u)
    return z, float(tally.accepted.mean())


def _estimate(log_w: Tensor, log_start: float, acceptance: float) -> LogPartition:
    top = log_w.max()
    w = (log_w - top).exp()
    mean, n = w.mean(), len(w)
    return LogPartition(
        value=log_start + float(top + mean.log()),
        standard_error=float(w.std() / mean / math.sqrt(n)),
        effective_chains=float(w.sum() ** 2 / (w**2).sum()),
        acceptance=acceptance,
    )
