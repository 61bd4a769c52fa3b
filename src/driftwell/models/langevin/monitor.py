"""A monitor that tells when persistent chains no longer represent the model.

Persistent contrastive divergence fails silently when parameters move faster than the chains
mix: the gradient stays small because data and persistent chains agree, while chains started
afresh from the same parameters go elsewhere. Only fresh chains can tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from driftwell.core.state import leaves
from driftwell.models.langevin.machine import NeuralLangevinMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.sampling import sample

WARN_AT = 0.2
FRESH_SEED_OFFSET = 0x5EED


@dataclass(frozen=True)
class ChainGap:
    """Persistent chains against chains started afresh from the same parameters.

    Attributes:
        distance: sqrt(2 D) with D the energy distance of the two sets of states, relative to the
            mean distance between persistent chains (0: same law; 1: as far as they are wide).
        floor: the same between the two halves of the persistent chains (Monte-Carlo level).
        energy_gap: (<E>_fresh - <E>_persistent) / N.
        update: parameter update it was measured at.
    """

    distance: float
    floor: float
    energy_gap: float
    update: int

    @property
    def warns(self) -> bool:
        """Whether the gap exceeds both its floor and `WARN_AT`."""
        return self.distance > WARN_AT and self.distance > 3 * self.floor

    def sentence(self) -> str:
        """What to tell the user."""
        return (
            f"at update {self.update} the persistent chains do not represent the model: their "
            f"distance to fresh chains is {self.distance:.2f} (Monte-Carlo floor "
            f"{self.floor:.2f}); lower learning_rate or raise langevin_steps"
        )


def chain_gap(
    machine: NeuralLangevinMachine, recipe: Recipe, persistent: Tensor, seed: int, update: int
) -> ChainGap:
    """Measure the gap between `persistent` chains (M, N) and as many fresh ones."""
    m = len(persistent)
    fresh_seed = (seed + FRESH_SEED_OFFSET) % 2**64
    fresh = sample(
        machine, machine.initial_state(m, fresh_seed, first_chain=0), steps=recipe.sample_steps,
        sampler=recipe.make_sampler(), seed=fresh_seed, diagnostics=False, throw=False,
    ).z  # fmt: skip
    a, b = torch.tanh(persistent), torch.tanh(leaves(fresh)[0])
    with torch.no_grad():
        gap = machine.energy(fresh).mean() - machine.energy(persistent).mean()
    half = m // 2
    return ChainGap(
        distance=_relative_distance(a, b),
        floor=_relative_distance(a[:half], a[half : 2 * half]),
        energy_gap=float(gap) / machine.n,
        update=update,
    )


def _relative_distance(a: Tensor, b: Tensor) -> float:
    """sqrt((2<|a-b|> - <|a-a'|> - <|b-b'|>) / <|a-a'|>), clipped at zero."""
    within = _mean_distance(a)
    squared = 2 * float(torch.cdist(a, b).mean()) - within - _mean_distance(b)
    if squared != squared:
        return float("inf")
    return math.sqrt(max(squared, 0.0) / max(within, 1e-12))


def _mean_distance(a: Tensor) -> float:
    n = len(a)
    return float(torch.cdist(a, a).sum()) / (n * (n - 1))
