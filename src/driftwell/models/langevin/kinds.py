"""The two kinds of Langevin machine behind one door: trainers, and machines from checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.world import World
from driftwell.data import Transform, Whitening
from driftwell.models.langevin.denoising import SAMPLED, DenoisingTrainer
from driftwell.models.langevin.machine import NeuralLangevinMachine
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.models.langevin.trainer import MachineTrainer

Machine: TypeAlias = NeuralLangevinMachine | NoiseConditionalMachine
Trainer: TypeAlias = MachineTrainer | DenoisingTrainer


def make_trainer(
    recipe: Recipe,
    transform: Transform,
    states: Tensor,
    seed: int,
    labels: Tensor | None = None,
    world: World | None = None,
) -> Trainer:
    """The trainer that `recipe.learning` asks for.

    Args:
        recipe: the settings.
        transform: that made the states; its principal axes start hidden pixel detectors.
        states: training data as states, (n_data, visible).
        seed: of everything random.
        labels: class index of each datum, int64 (n_data,), or None.
        world: processes that train together.
    """
    if recipe.learning == "contrastive":
        return MachineTrainer(recipe, states, seed, labels, world)
    axes = transform if isinstance(transform, Whitening) else None
    return DenoisingTrainer(recipe, states, seed, labels, world, axes)


def machine_from(recipe: Recipe, tensors: Mapping[str, Tensor]) -> Machine:
    """The machine that a trainer's `tensors()` hold, ready to be sampled from.

    Raises:
        InvalidInput: they do not hold the kind of machine the recipe makes.
    """
    kept = {k.removeprefix(SAMPLED): v for k, v in tensors.items() if k.startswith(SAMPLED)}
    try:
        machine = _empty(recipe, kept)
        machine.load_state_dict(kept, strict=True)
    except (KeyError, RuntimeError) as error:
        raise InvalidInput(
            f"the checkpoint does not hold a machine of {recipe.learning} learning: {error}"
        ) from error
    return machine


def _empty(recipe: Recipe, kept: Mapping[str, Tensor]) -> Machine:
    if recipe.learning == "contrastive":
        J = kept["J"]
        return NeuralLangevinMachine(
            len(J), recipe.temperature, recipe.bias, 0.0, recipe.zero_diagonal, dtype=J.dtype
        )
    levels = kept["levels"].tolist()
    return NoiseConditionalMachine(
        kept["variance"], len(kept["c"]), len(kept["frequency"]), levels[0], levels[1]
    ).requires_grad_(False)
