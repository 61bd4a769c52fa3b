"""Runs of Neural Langevin Machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from driftwell.training.images import (
    class_indices,
    describe,
    held_out_images,
    training_images,
)
from driftwell.training.kinds.kind import Kind, Task
from driftwell.training.session import device_of

if TYPE_CHECKING:
    from driftwell.training.config import RunConfig
    from driftwell.training.exporting import ExportWish, Shipped
    from driftwell.training.generate import Wish
    from driftwell.training.quantization_plan import QuantizationPlan
    from driftwell.training.quantized_run import QuantizedWeights
    from driftwell.training.run import Run

TRANSFORM = "transform."
MOST, SCORED = 1000, 1
"""Images that are scored at most, and the seed of the noise they come from."""


@final
class LangevinKind(Kind):
    """A Langevin machine that learns images, by contrast or by denoising."""

    name = "nlm"
    title = "Neural Langevin Machine"
    recipe = Recipe
    presets = PRESETS
    activations = "int8"

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

    def quantized(self, run: Run, plan: QuantizationPlan) -> QuantizedWeights:
        """All couplings, calibrated on the states that the machine's own chains visit."""
        from driftwell.training.quantized_machine import quantized_machine

        kept = {name: t for name, t in run.tensors.items() if name.startswith(TRANSFORM)}
        return quantized_machine(run, plan, kept)

    def exported(self, run: Run, wish: ExportWish) -> Shipped:
        """The machine that samples images."""
        from driftwell.training.shipping import ship_machine

        return ship_machine(run, wish)

    def scores(self, run: Run, weights: QuantizedWeights | None) -> dict[str, float]:
        """AAI and E2 of generated images against held-out ones, 0 and the data's own at best."""
        from driftwell.measures import aai, covariance_error
        from driftwell.training.generate import Wish, generate_images

        held_out = held_out_images(run.config).flat()
        shown = self._with(run, weights)
        made = generate_images(shown, Wish(len(held_out[:MOST]), SCORED)).flatten(1)
        real, ours = 2.0 * held_out[:MOST].to(made) - 1.0, 2.0 * made - 1.0
        likeness, second = aai(real, ours), covariance_error(real, ours)
        return {
            "aai": likeness.value, "aai_error": likeness.standard_error, "e2": second.value,
            "e2_error": second.standard_error,
        }  # fmt: skip

    def previews(self, run: Run, weights: QuantizedWeights | None, count: int) -> Tensor:
        """Images from noise."""
        from driftwell.training.generate import Wish, generate_images

        return generate_images(self._with(run, weights), Wish(count, 0))

    def _with(self, run: Run, weights: QuantizedWeights | None) -> Run:
        if weights is None:
            return run
        return replace(run, machine=weights.model.decoded(), quantized=weights.model)

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
