"""Held-out log-likelihood of a machine, with its error bar."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.models.langevin import NeuralLangevinMachine
from driftwell.sampling import log_partition

TRUSTED_CHAINS = 30.0
"""Effective number of chains above which the error bar of log Z means what it says."""


@final
@dataclass(frozen=True)
class Likelihood:
    """Mean log-density of held-out states, in nats per image.

    Densities are over states x, not pixels: compare machines of the same scaling only.

    Attributes:
        value: mean over held-out images of -E(x)/T - log Z.
        standard_error: of `value`: spread over images, and the error of log Z.
        train: the same mean over training images; far above `value` it means overfitting.
        log_partition: log Z, by annealed importance sampling.
        log_partition_error: its standard error over chains.
        effective_chains: of the importance weights; below ~30 the error bar cannot be trusted.
        acceptance: of the MALA steps on the way.
        noise: mean log-density of the same images under N(mean of the training states, T I),
            what a machine without couplings reaches.
        images: number of held-out images.
    """

    value: float
    standard_error: float
    train: float
    log_partition: float
    log_partition_error: float
    effective_chains: float
    acceptance: float
    noise: float
    images: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def held_out_likelihood(
    machine: NeuralLangevinMachine,
    train: Tensor,
    held_out: Tensor,
    *,
    chains: int = 256,
    levels: tuple[int, ...] = (1000, 4000),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Likelihood:
    """Log-likelihood of held-out states by annealed importance sampling of log Z.

        log P(x) = -E(x)/T - log Z

    The estimate of log Z is low on average, so the likelihood is high on average, by about half
    the variance of log Z. Where the importance weights rest on fewer than 30 chains, the annealing
    is done again with the next number of levels.

    Args:
        machine: the trained machine.
        train: states it was trained on, (m, N).
        held_out: states it was not, (k, N), k >= 2.
        chains: of the annealing.
        levels: of the annealing, tried one after the other.
        seed: of the annealing's noise.
        progress: called as progress(done, levels).

    Raises:
        InvalidInput: fewer than two held-out states, no levels, or states of another size.

    Example:
        >>> free = NeuralLangevinMachine(2, gain=0.0, seed=0)
        >>> x = torch.zeros(5, 2)
        >>> found = held_out_likelihood(free, x, x, chains=8, levels=(2,))
        >>> round(found.value + math.log(2 * math.pi), 6)
        0.0
    """
    if len(held_out) < 2:
        raise InvalidInput(f"a likelihood needs two or more held-out states, not {len(held_out)}")
    if not levels:
        raise InvalidInput("the annealing needs a number of levels, such as levels=(1000,)")
    for count in levels:
        # A share of a level's stability bound at which MALA still accepts ~70 %.
        estimate = log_partition(
            machine.annealing_path(), chains=chains, levels=count, seed=seed, step_fraction=2.0,
            progress=progress,
        )  # fmt: skip
        if estimate.effective_chains >= TRUSTED_CHAINS:
            break
    T = machine.temperature
    with torch.no_grad():
        log_p = -machine.energy(held_out).double() / T - estimate.value
        log_p_train = -machine.energy(train).double() / T - estimate.value
    spread = float(log_p.std()) / math.sqrt(len(log_p))
    distance = (held_out.double() - train.double().mean(0)).square().sum(1).mean()
    return Likelihood(
        value=float(log_p.mean()),
        standard_error=math.hypot(spread, estimate.standard_error),
        train=float(log_p_train.mean()),
        log_partition=estimate.value,
        log_partition_error=estimate.standard_error,
        effective_chains=estimate.effective_chains,
        acceptance=estimate.acceptance,
        noise=-float(distance) / (2.0 * T) - 0.5 * machine.n * math.log(2.0 * math.pi * T),
        images=len(held_out),
    )
