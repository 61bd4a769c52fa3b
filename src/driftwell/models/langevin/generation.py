"""Images from a trained machine: from noise, conditioned on known pixels, and denoised."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.data import AtanhScaling, PlainScaling, Transform, Whitening
from driftwell.models.langevin.machine import StartedEnergy
from driftwell.models.langevin.presets import Recipe
from driftwell.sampling import Descent, sample

Progress = Callable[[int, int], None]


def build_transform(recipe: Recipe, images: Tensor) -> Transform:
    """The recipe's transform between images in [0, 1] and visible states.

    Args:
        recipe: its `scaling` and `clip` decide.
        images: the training images, (n, height, width), for transforms that are fitted.
    """
    if recipe.scaling == "atanh":
        return AtanhScaling(recipe.clip)
    if recipe.scaling == "components":
        return _components(recipe, images)
    return PlainScaling(-1.0, 1.0, shown_as_rate=recipe.scaling == "raw")


def _components(recipe: Recipe, images: Tensor) -> Transform:
    pixels = images[0].numel()
    return Whitening.fit(
        images, dimensions=min(recipe.components, pixels), scaling=PlainScaling(-1.0, 1.0),
        unit_variance=False,
    )  # fmt: skip


def generate(
    machine: StartedEnergy,
    recipe: Recipe,
    count: int,
    seed: int,
    *,
    steps: int | None = None,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    first_chain: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """States sampled from noise by the recipe's own sampler and number of steps, (count, N).

    Args:
        machine: the trained machine.
        recipe: how it was trained; gives sampler, step size and number of steps.
        count: number of chains.
        seed: of start states and noise.
        steps: Langevin steps instead of the recipe's.
        known: states (N,) or (count, N) whose coordinates are held where `mask` is True
            (in-painting, conditional generation).
        mask: bool (N,), True where `known` is held.
        first_chain: id of the first chain; sample number i is the same whatever the count.
        progress: called as progress(done, steps).

    Raises:
        InvalidInput: count < 1, or a mask without known states.
    """
    if count < 1:
        raise InvalidInput(f"the number of samples must be at least 1, got {count}")
    start = machine.initial_state(count, seed, first_chain)
    if (known is None) != (mask is None):
        raise InvalidInput("conditional generation needs both known states and a mask")
    if known is not None and mask is not None:
        start = torch.where(mask, known.to(start), start)
    chains = sample(
        machine, start, steps=recipe.sample_steps if steps is None else steps,
        sampler=recipe.make_sampler(), seed=seed, clamp=mask, first_chain=first_chain,
        diagnostics=False, progress=progress,
    )  # fmt: skip
    return _tensor(chains.z)


def denoise(machine: StartedEnergy, recipe: Recipe, noisy: Tensor, *, steps: int = 450) -> Tensor:
    """States after descent at T = 0 from noisy ones, (B, N): retrieval of the nearest valley.

    Args:
        machine: the trained machine (the ``yu2025-memory`` preset is made for this).
        recipe: gives the step size.
        noisy: states (B, N).
        steps: descent steps.
    """
    sampler = Descent(recipe.step_size or None)
    chains = sample(machine, noisy, steps=steps, sampler=sampler, seed=0, diagnostics=False)
    return _tensor(chains.z)


def _tensor(z: object) -> Tensor:
    if not isinstance(z, Tensor):
        raise InvalidInput("a machine's state is one tensor")
    return z
