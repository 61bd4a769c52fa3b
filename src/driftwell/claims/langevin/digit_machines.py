"""What several claims share: digits for training, trained machines, and what they generate."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.results import Chains
from driftwell.core.state import State
from driftwell.data import AtanhScaling, load
from driftwell.measures import aai
from driftwell.models.langevin import NeuralLangevinMachine
from driftwell.models.langevin.presets import Recipe, preset
from driftwell.models.langevin.trainer import MachineTrainer
from driftwell.sampling import Sampler, sample

CARD_CLASSES = (1, 3, 6)
# Noise of what is generated must not be the noise that trained: another seed.
_GENERATION = 0x6E6E
# States are kept at t_gen = round(5 * 1.5^i); i = 18 is 7389 steps.
GENERATION_TIMES = tuple(round(5 * 1.5**i) for i in range(19))


@dataclass(frozen=True)
class Digits:
    """Digits as states, two disjoint parts.

    Attributes:
        train: (n, 64), with `labels` (n,).
        labels: of `train`.
        held_out: (k, 64).
    """

    train: Tensor
    labels: Tensor
    held_out: Tensor


@dataclass(frozen=True, eq=False)
class Trained:
    """A machine after its training.

    Attributes:
        machine: the machine, not to be changed.
        chains: persistent chains at the end, (M, 64).
        recipe: how it was trained.
        gradient: the paper's monitor, mean square entry of J's gradient, over the last tenth.
    """

    machine: NeuralLangevinMachine
    chains: Tensor
    recipe: Recipe
    gradient: float


@lru_cache(maxsize=32)
def digits(classes: tuple[int, ...], count: int, seed: int) -> Digits:
    """The bundled 8x8 digits of some classes, halved by a keyed split; states atanh(2p - 1).

    Args:
        classes: which digits.
        count: training images, the first of their half; 0 takes the whole half.
        seed: of the split.
    """
    train, held_out = load("digits", "all").select(classes).split(0.5, seed)
    train = train.take(count) if count else train
    if train.labels is None:
        raise InvalidInput("the bundled digits must carry their labels")
    scaling = AtanhScaling()
    return Digits(scaling.forward(train.images), train.labels, scaling.forward(held_out.images))


def card_recipe(learning_rate: float, updates: int) -> Recipe:
    """The paper's recipe (PCD, k = 10, Euler steps, Adam) at the reduced scale of the claims."""
    return replace(
        preset("yu2025-pcd"), learning_rate=learning_rate, updates=updates, chains=500,
        batch=250, sample_steps=GENERATION_TIMES[-1],
    )  # fmt: skip


@lru_cache(maxsize=32)
def trained(recipe: Recipe, classes: tuple[int, ...], count: int, seed: int) -> Trained:
    """A machine trained by `recipe` on `digits(classes, count, seed)`, for its whole length.

    Kept, so that a claim and its control judge the same machine.
    """
    trainer = MachineTrainer(recipe, digits(classes, count, seed).train, seed)
    tail = max(1, recipe.updates // 10)
    monitored = [trainer.update(index)["gradient"] for index in range(recipe.updates)][-tail:]
    return Trained(trainer.machine, trainer.chains, recipe, sum(monitored) / tail)


def card_machine(seed: int) -> Trained:
    """The card's quick machine: digits 1, 3, 6, 270 images, PCD at 2e-3 for 300 updates."""
    return trained(card_recipe(2e-3, 300), CARD_CLASSES, 270, seed)


def generated_states(made: Trained, count: int, seed: int, times: tuple[int, ...]) -> list[Tensor]:
    """States of `count` chains from noise after each of the rising numbers of steps `times`."""
    key = seed ^ _GENERATION
    start = made.machine.initial_state(count, key)
    sampler = made.recipe.make_sampler()
    chains = sample(
        made.machine, start, steps=times[0], sampler=sampler, seed=key, diagnostics=False
    )
    found = [tensor(chains.z)]
    for before, after in itertools.pairwise(times):
        chains = sample(made.machine, chains, steps=after - before, diagnostics=False)
        found.append(tensor(chains.z))
    return found


@lru_cache(maxsize=32)
def generated(made: Trained, count: int, seed: int) -> Tensor:
    """States of `count` chains from noise after the recipe's number of steps."""
    return generated_states(made, count, seed, (made.recipe.sample_steps,))[0]


@dataclass(frozen=True)
class Accuracies:
    """Nearest-neighbour accuracies, means over groups of generated samples.

    Attributes:
        real: Acc_S.
        generated: Acc_T.
        error: standard error of `generated` over the groups (binomial for one group).
    """

    real: float
    generated: float
    error: float

    @property
    def value(self) -> float:
        """E_AAI = 1/2 [(Acc_S - 1/2)^2 + (Acc_T - 1/2)^2]."""
        return 0.5 * ((self.real - 0.5) ** 2 + (self.generated - 0.5) ** 2)


def accuracies(real: Tensor, made: Tensor) -> Accuracies:
    """Accuracies of states `real` (n, N) against groups of n states of `made`, in image space.

    Averaging over groups takes out the noise of the generated samples, most of it at small n.
    """
    n = len(real)
    groups = len(made) // n
    if groups < 1:
        raise InvalidInput(f"{n} real samples need as many generated ones, got {len(made)}")
    image = real.tanh()
    scores = [aai(image, made[g * n : (g + 1) * n].tanh()) for g in range(groups)]
    left = torch.tensor([each.accuracy_real for each in scores], dtype=torch.float64)
    right = torch.tensor([each.accuracy_generated for each in scores], dtype=torch.float64)
    error = scores[0].error_generated
    if groups > 1:
        error = float(right.std()) / math.sqrt(groups)
    return Accuracies(float(left.mean()), float(right.mean()), error)


def chain_mean(values: Tensor) -> tuple[float, float]:
    """Mean and standard error of records (K, B) of independent chains.

    The records of a chain are correlated and the chains are not: the error is that of B means.
    """
    means = values.double().mean(dim=0)
    return float(means.mean()), float(means.std()) / math.sqrt(len(means))


def run_chains(
    machine: NeuralLangevinMachine, start: Tensor, sampler: Sampler, steps: int, warmup: int,
    keep: int, seed: int,
) -> Tensor:  # fmt: skip
    """Kept states (K, B, N) of a run."""
    chains: Chains = sample(
        machine, start, steps=steps, sampler=sampler, seed=seed, warmup=warmup, keep=keep,
        diagnostics=False,
    )  # fmt: skip
    if chains.kept is None:
        raise InvalidInput(f"{steps} steps with keep={keep} keep no state")
    return tensor(chains.kept)


def energy_of(machine: NeuralLangevinMachine, kept: Tensor) -> Tensor:
    """Energies (K, B) of states (K, B, N)."""
    with torch.no_grad():
        return machine.energy(kept.flatten(0, 1)).reshape(kept.shape[:2])


def virial_of(machine: NeuralLangevinMachine, kept: Tensor) -> Tensor:
    """<x . grad E> / (N T), (K, B), of states (K, B, N); its mean is 1 at equilibrium."""
    flat = kept.flatten(0, 1)
    force = tensor(machine.energy_and_force(flat)[1])
    work = -(flat * force).sum(dim=1) / (machine.n * machine.temperature)
    return work.reshape(kept.shape[:2])


def tensor(state: State) -> Tensor:
    """A machine's state, which is one tensor."""
    if not isinstance(state, Tensor):
        raise InvalidInput("a machine's state is one tensor")
    return state
