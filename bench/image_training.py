"""The two contestants of the image benchmark: how each trains against the clock and samples."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from driftwell.data import ImageSet, Transform
from driftwell.models.langevin.annealing import annealed_sample
from driftwell.models.langevin.generation import build_transform, generate
from driftwell.models.langevin.kinds import Trainer, make_trainer
from driftwell.models.langevin.machine import NeuralLangevinMachine
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe

GENERATION_SEED = 1000
RATE_SECONDS = 4.0


@dataclass(frozen=True, eq=False)
class Trained:
    """A machine at some time of its training.

    Attributes:
        seconds: wall-clock of its set-up and training.
        updates: done.
        recipe: how it was trained.
        machine: the machine; paper mode's goes on learning after this is yielded.
        transform: between images and its states.
    """

    seconds: float
    updates: int
    recipe: Recipe
    machine: NeuralLangevinMachine | NoiseConditionalMachine
    transform: Transform


class Clock:
    """Seconds of training; it stands still outside of `with clock`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> Clock:
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.began

    def now(self) -> float:
        """Seconds, while it runs."""
        return self.seconds + time.perf_counter() - self.began


# ---------------------------------------------------------------- paper mode: one long run


def one_run(recipe: Recipe, images: ImageSet, times: list[float]) -> Iterator[Trained]:
    """One continuous training, looked at after each of the rising `times` in seconds."""
    clock, done = Clock(), 0
    with clock:
        trainer, transform = _begin(recipe, images)
    for stop in times:
        with clock:
            while clock.now() < stop:
                trainer.update(done)
                done += 1
        yield Trained(clock.seconds, done, recipe, trainer.machine, transform)


# ---------------------------------------------------------------- default: a run per budget


def run_per_budget(recipe: Recipe, images: ImageSet, budgets: list[float]) -> Iterator[Trained]:
    """A training from scratch for each budget in seconds, its decaying rate fitted to it."""
    rate, set_up = _updates_per_second(recipe, images)
    for budget in budgets:
        updates = max(10, round(rate * max(budget - set_up, 0.1 * budget)))
        fitted, clock = replace(recipe, updates=updates), Clock()
        with clock:
            trainer, transform = _begin(fitted, images)
            for index in range(updates):
                trainer.update(index)
        yield Trained(clock.seconds, updates, fitted, trainer.machine, transform)


def _updates_per_second(recipe: Recipe, images: ImageSet) -> tuple[float, float]:
    """Rate of updates, and seconds of set-up, both as measured here and now."""
    warm, _ = _begin(recipe, images)  # kernels are built and memory is touched
    for index in range(5):
        warm.update(index)
    clock = Clock()
    with clock:
        trainer, _ = _begin(recipe, images)
    set_up, done, clock = clock.seconds, 0, Clock()
    with clock:
        while clock.now() < RATE_SECONDS:
            trainer.update(done)
            done += 1
    return done / clock.seconds, set_up


# ---------------------------------------------------------------- both


def _begin(recipe: Recipe, images: ImageSet) -> tuple[Trainer, Transform]:
    if recipe.data_limit:
        images = images.take(min(recipe.data_limit, len(images)))
    transform = build_transform(recipe, images.images)
    labels = None
    if recipe.label_scale and images.labels is not None:
        labels = torch.searchsorted(torch.tensor(images.classes), images.labels)
    states = transform.forward(images.images).detach()
    return make_trainer(recipe, transform, states, seed=0, labels=labels), transform


def from_noise(trained: Trained, count: int, steps: int | None = None) -> Tensor:
    """States of `count` chains from fresh noise, by the machine's own sampler."""
    machine, recipe = trained.machine, trained.recipe
    if isinstance(machine, NoiseConditionalMachine):
        return annealed_sample(machine, recipe, count, GENERATION_SEED)
    return generate(machine, recipe, count, GENERATION_SEED, steps=steps)


def of_label(trained: Trained, place: int, count: int) -> Tensor | None:
    """States with one label's neuron clamped; None of a machine without label neurons."""
    machine = trained.machine
    if not isinstance(machine, NoiseConditionalMachine) or not machine.labels:
        return None
    labels = torch.full((count,), place)
    return annealed_sample(
        machine, trained.recipe, count, GENERATION_SEED + 1, labels=labels,
        first_chain=place * count,
    )  # fmt: skip
