"""Small trained machines that benchmarks sample from: digits 8x8, and MNIST at 14x14."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from driftwell.data import AtanhScaling, ImageSet, load
from driftwell.models.langevin import NeuralLangevinMachine
from driftwell.models.langevin.presets import preset
from driftwell.models.langevin.trainer import MachineTrainer

CLASSES = (1, 3, 6)


@dataclass(frozen=True, eq=False)
class SmallMachine:
    """A machine and what it was trained on, all in image space [-1, 1] but the machine.

    Attributes:
        name: shown in tables.
        machine: trained by persistent chains, as in the paper, at reduced scale.
        train: (m, N).
        held_out: (k, N).
        scaling: between states and images.
    """

    name: str
    machine: NeuralLangevinMachine
    train: Tensor
    held_out: Tensor
    scaling: AtanhScaling


def digits_machine(updates: int) -> SmallMachine:
    """Digits 1, 3 and 6 of 8x8: the setting of many figures in the docs, N = 64."""
    train, held_out = load("digits", "all").select(CLASSES).split(0.5, seed=0)
    return _trained("digits 8x8", train, held_out, updates)


def mnist_machine(updates: int) -> SmallMachine:
    """MNIST {1, 3, 6} at 14x14, N = 196; needs DRIFTWELL_DATA."""
    train, held_out = (
        load("mnist", split).select(CLASSES).take(2000).resize(14, 14)
        for split in ("train", "test")
    )
    return _trained("MNIST 14x14", train, held_out, updates)


def _trained(name: str, train: ImageSet, held_out: ImageSet, updates: int) -> SmallMachine:
    recipe = replace(
        preset("yu2025-pcd"), learning_rate=2e-3, updates=updates, chains=500, batch=250,
        sample_steps=2000,
    )  # fmt: skip
    scaling = AtanhScaling(recipe.clip)
    trainer = MachineTrainer(recipe, scaling.forward(train.images), seed=0)
    for index in range(updates):
        trainer.update(index)
    real = [scaling.to_symmetric(scaling.forward(part.images)) for part in (train, held_out)]
    return SmallMachine(name, trainer.machine, real[0], real[1], scaling)
