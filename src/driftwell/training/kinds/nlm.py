"""Runs of Neural Langevin Machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import Diverged
from driftwell.core.world import World
from driftwell.data import Transform
from driftwell.models.langevin.generation import build_transform
from driftwell.models.langevin.kinds import machine_from, make_trainer
from driftwell.models.langevin.presets import PRESETS, Recipe
from driftwell.sampling import largest_curvature
from driftwell.training.images import class_indices, describe, training_images
from driftwell.training.kinds.kind import Kind, Task
from driftwell.training.session import device_of

if TYPE_CHECKING:
    from driftwell.training.config import RunConfig
    from driftwell.training.generate import Wish
    from driftwell.training.run import Run

TRANSFORM = "transform."


@final
class LangevinKind(Kind):
    """A Langevin machine that learns images, by contrast or by denoising."""

    name = "nlm"
    title = "Neural Langevin Machine"
    recipe = Recipe
    presets = PRESETS

    def task(self, config: RunConfig, world: World) -> Task:
        """Images through the recipe's transform, and the trainer of its kind of learning."""
        recipe: Recipe = config.recipe
        images = training_images(config)
        pixels = images.images.to(device_of(config.device))
        transform = build_transform(recipe, pixels)
        trainer = make_trainer(
            recipe, transform, transform.forward(pixels), config.seed, class_indices(images), world
        )
        return Task(
            trainer, describe(images), "images", {"transform": transform.to_config()},
            _tensors_of(transform), lambda kept: _advice(recipe, config.seed, kept),
        )  # fmt: skip

    def load(self, path: Path, device: str | None = None) -> Run:
        """The machine and settings of a run folder; its data are not needed."""
        from driftwell.training.run import load_run

        return load_run(path, device)

    def pictures(
        self,
        run: Run,
        wish: Wish,
        *,
        partial: Path | None = None,
        world: World | None = None,
        progress: Callable[[int, int], None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> Tensor:
        """Images from noise, in-painted, of one class, or settled from noisy ones."""
        from driftwell.training.generate import generate_images

        return generate_images(
            run, wish, partial=partial, world=world, progress=progress, note=note
        )

    def changes_for(self, precision: str) -> dict[str, Any]:
        """bfloat16 is the sampler's own mode, and so a setting of the recipe."""
        return {"matmul": "bfloat16"} if precision == "bfloat16" else {}


def _tensors_of(transform: Transform) -> dict[str, Tensor]:
    if not isinstance(transform, nn.Module):
        return {}
    return {f"{TRANSFORM}{name}": t for name, t in transform.state_dict().items()}


def _advice(recipe: Recipe, seed: int, kept: dict[str, Tensor] | None) -> str:
    """The learning rate, or the step size against its bound at the last good checkpoint."""
    otherwise = f"lower learning_rate ({recipe.learning_rate:g})"
    if kept is None or recipe.learning != "contrastive":
        return otherwise
    dt = recipe.step_size
    machine = machine_from(recipe, kept)
    x = torch.cat([machine.initial_state(64, seed), kept["chains"][:64]])
    try:
        bound = 2.0 / largest_curvature(machine, x)
    except Diverged:
        return otherwise
    if dt < bound:
        return f"{otherwise} or step_size ({dt:g}, stability bound 2 / lambda_max = {bound:.3g})"
    return (
        f"step_size {dt:g} breaks the stability bound 2 / lambda_max = {bound:.3g}; "
        f"lower it with --set step_size={bound / 4:.2g}"
    )


KIND = LangevinKind()
