"""Runs of learned proximal networks: denoisers of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.world import World
from driftwell.data import read
from driftwell.models.langevin.batches import Batches
from driftwell.models.proximal import LPN, Stage, matching_schedule
from driftwell.training.checkpoint import Checkpoint
from driftwell.training.gradient_trainer import GradientTrainer
from driftwell.training.images import describe, held_out_images, training_images
from driftwell.training.kinds.kind import Kind, Task
from driftwell.training.kinds.settings import (
    check_above,
    check_choice,
    check_not_negative,
    check_whole,
)
from driftwell.training.model_run import ModelRun, load_model_run
from driftwell.training.session import device_of

if TYPE_CHECKING:
    from driftwell.training.config import RunConfig
    from driftwell.training.exporting import ExportWish, Shipped
    from driftwell.training.generate import Wish
    from driftwell.training.quantization_plan import QuantizationPlan
    from driftwell.training.quantized_run import QuantizedWeights

LAYERS = ("dense", "convolution")
PORTION, MOST = 200, 1000
"""Images of one application of the operator, and how many are scored."""


@final
@dataclass(frozen=True)
class LPNRecipe:
    """All that decides how a learned proximal network is trained.

    Attributes:
        layers: ``"dense"`` over the pixels, or ``"convolution"``.
        hidden: width, or channels, of the hidden layers.
        depth: number of hidden layers.
        sharpness: of the softplus, in units 1 / grey level.
        convexity: of a term c/2 |y|^2 in the potential.
        sigma: standard deviation of the noise, grey levels of [0, 1].
        gamma: last width of proximal matching, in units of sigma sqrt(pixels), the noise's norm.
        stages: of proximal matching, gamma halving from each to the next.
        pretrain: share of the updates that go to the l1 loss first.
        batch: data per update.
        learning_rate: of Adam, by l1; a tenth of it after that.
        updates: length of a whole training.
        data_limit: how many images are used (first in file order), 0 for all.
    """

    layers: str = "dense"
    hidden: int = 256
    depth: int = 3
    sharpness: float = 10.0
    convexity: float = 0.01
    sigma: float = 0.25
    gamma: float = 0.4
    stages: int = 3
    pretrain: float = 0.6
    batch: int = 128
    learning_rate: float = 5e-3
    updates: int = 3000
    data_limit: int = 0

    def __post_init__(self) -> None:
        check_choice("layers", self.layers, LAYERS)
        for name in ("hidden", "depth", "stages", "batch", "updates"):
            check_whole(name, getattr(self, name))
        for name in ("sharpness", "sigma", "gamma", "learning_rate"):
            check_above(name, getattr(self, name))
        for name in ("convexity", "data_limit"):
            check_not_negative(name, getattr(self, name))
        if not 0.0 < self.pretrain < 1.0 or self._matching < self.stages:
            raise InvalidInput(
                f"recipe: pretrain must lie in (0, 1) and leave an update to each of the "
                f"{self.stages} stages, got {self.pretrain} of {self.updates} updates"
            )

    @property
    def _matching(self) -> int:
        return self.updates - max(1, round(self.pretrain * self.updates))

    def schedule(self, pixels: int) -> tuple[Stage, ...]:
        """l1, then proximal matching with gamma falling."""
        return matching_schedule(
            self.gamma * self.sigma * pixels**0.5, pretrain=self.updates - self._matching,
            updates=self._matching, stages=self.stages, lr=self.learning_rate,
        )  # fmt: skip

    def build(self, height: int, width: int, seed: int) -> LPN:
        """The untrained network."""
        shape = (height * width,) if self.layers == "dense" else (height, width)
        return LPN(shape, self.hidden, self.depth, self.sharpness, self.convexity, seed)


@final
class DenoisingObjective:
    """A stage's loss of f(x + sigma n) against x, on keyed batches with keyed noise.

    Args:
        model: the network.
        x: clean samples, (n, *shape).
        recipe: the settings.
        seed: of the order of data and of the noise.
        world: processes that share a batch.
    """

    def __init__(self, model: LPN, x: Tensor, recipe: LPNRecipe, seed: int, world: World) -> None:
        self.model, self.x, self.recipe, self.seed, self.world = model, x, recipe, seed, world
        self.batches = Batches(len(x), recipe.batch, seed, x.device)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The schedule."""
        return self.recipe.schedule(self.x[0].numel())

    def stage(self, index: int) -> tuple[Stage, int]:
        """The stage of an update, and the update's index in it; the last goes on for ever."""
        for stage in self.stages[:-1]:
            if index < stage.updates:
                return stage, index
            index -= stage.updates
        return self.stages[-1], index

    def rate(self, index: int) -> float:
        """Learning rate of an update."""
        stage, inner = self.stage(index)
        return stage.lr_at(min(inner, stage.updates - 1))

    def loss(self, index: int) -> tuple[Tensor, dict[str, float], int]:
        """The stage's loss on this process's rows, with the peak signal-to-noise ratio."""
        whole = self.batches.rows(index)
        mine = self.world.slice(len(whole))
        x = self.x[whole[mine]]
        noise = normal(
            tuple(x.shape), seed=self.seed, purpose=Purpose.DATA, step=index, leaf=1,
            chains=torch.arange(mine.start, mine.stop, device=x.device), dtype=x.dtype,
        )  # fmt: skip
        # a leaf that needs a gradient is what `prox` differentiates by
        f = self.model.prox((x + self.recipe.sigma * noise).requires_grad_(True))
        loss = self.stage(index)[0](f, x)
        return loss, {"psnr": float(psnr(f.detach(), x).mean())}, len(x)

    def constrain(self) -> None:
        """Nothing: the network is convex whatever its weights are."""

    def warnings(self) -> list[str]:
        """Nothing to say."""
        return []


@final
class ProximalKind(Kind):
    """A learned proximal network that denoises images."""

    name = "lpn"
    title = "Learned proximal network"
    recipe = LPNRecipe
    presets: ClassVar[Mapping[str, LPNRecipe]] = {
        "default": LPNRecipe(),
        "images": LPNRecipe(
            layers="convolution", hidden=32, depth=4, batch=32, learning_rate=1e-2, updates=2000
        ),
    }

    def task(self, config: RunConfig, world: World) -> Task:
        """Images, their labels left aside, and a trainer that adds the noise."""
        recipe: LPNRecipe = config.recipe
        images = training_images(config)
        x = images.images.to(device_of(config.device))
        model = recipe.build(images.height, images.width, config.seed).to(x.device)
        objective = DenoisingObjective(
            model, x.reshape(-1, *model.shape), recipe, config.seed, world
        )
        trainer = GradientTrainer(model, objective, rate=objective.rate, world=world)
        return Task(
            trainer, describe(images), "images", {}, {},
            lambda kept: f"lower learning_rate ({recipe.learning_rate:g})",
        )  # fmt: skip

    def pictures(
        self,
        run: ModelRun,
        wish: Wish,
        *,
        partial: Path | None = None,
        world: World | None = None,
        progress: Callable[[int, int], None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> Tensor:
        """Noisy images after `wish.steps` applications of the operator, one unless said."""
        del partial, world, note
        images = _denoised(run, wish)
        if progress:
            progress(len(images), len(images))
        return images

    def load(self, path: Path, device: str | None = None) -> ModelRun:
        """The network of a run folder; its data are not needed."""
        return load_model_run(path, self.name, _build, device)

    def quantized(self, run: ModelRun, plan: QuantizationPlan) -> QuantizedWeights:
        """All matrices, calibrated on noisy training images."""
        from driftwell.quantization.post_training import Inputs
        from driftwell.training.quantized_model import quantized_model, some

        images = training_images(run.config).images
        rows = some(plan.samples, len(images), plan.seed)
        _, noisy = _noisy(run, _network(run, run.model), images[rows], plan.seed)
        calibration = Inputs(noisy.split(PORTION), lambda model, y: _network(run, model).prox(y))
        return quantized_model(run, calibration, plan)

    def exported(self, run: ModelRun, wish: ExportWish) -> Shipped:
        """Noisy images to denoised ones."""
        from driftwell.training.shipping_onnx import ship_model

        images = training_images(run.config).images[:MOST]
        _, noisy = _noisy(run, _network(run, run.model), images, wish.seed)
        return ship_model(run, wish, noisy)

    def scores(self, run: ModelRun, weights: QuantizedWeights | None) -> dict[str, float]:
        """Peak signal-to-noise ratio of noisy held-out images after the operator, decibels."""
        model = _network(run, run.model if weights is None else weights.model)
        clean, noisy = _noisy(run, model, held_out_images(run.config).images[:MOST], seed=0)
        with torch.no_grad():
            found = torch.cat([psnr(model.prox(y), x) for x, y in zip(
                clean.split(PORTION), noisy.split(PORTION), strict=True)])  # fmt: skip
        return {"psnr": float(found.mean()), "psnr_error": float(found.std() / len(found) ** 0.5)}


def _network(run: ModelRun, model: nn.Module) -> LPN:
    if not isinstance(model, LPN):
        raise InvalidInput(f"{run.path} does not hold a learned proximal network")
    return model


def _noisy(run: ModelRun, network: LPN, images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Images as the network takes them, and with noise of the run's strength."""
    clean = images.to(next(network.parameters())).reshape(-1, *network.shape)
    noise = normal(
        tuple(clean.shape), seed=seed, purpose=Purpose.PROBE, chains=len(clean), step=0
    ).to(clean)
    return clean, clean + run.config.recipe.sigma * noise


def _denoised(run: ModelRun, wish: Wish) -> Tensor:
    """Images of a file after the proximal operator, (n, height, width) in [0, 1]."""
    if wish.denoise is None or wish.clamp is not None or wish.label is not None:
        raise InvalidInput(
            f"{run.path} holds a run of lpn, which denoises: give noisy images with "
            "--denoise IMAGE, and neither --clamp nor --label"
        )
    height, width = (int(run.meta["data"][key]) for key in ("height", "width"))
    noisy = read(wish.denoise).resize(height, width).images
    model = _network(run, run.model)
    rows = torch.arange(wish.n) % len(noisy)
    z = noisy[rows].to(next(model.parameters())).reshape(-1, *model.shape)
    with torch.no_grad():
        for _ in range(wish.steps or 1):
            z = model.prox(z)
    return z.reshape(-1, height, width).clamp(0.0, 1.0).cpu()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair, decibels, at a peak of 1, (B,).

    Example:
        >>> round(float(psnr(torch.zeros(1, 4), torch.full((1, 4), 0.1))), 3)
        20.0
    """
    error = (a - b).flatten(1).square().mean(1)
    return -10.0 * error.clamp(min=1e-12).log10()


def _build(config: RunConfig, found: Checkpoint) -> LPN:
    recipe: LPNRecipe = config.recipe
    return recipe.build(
        int(found.meta["data"]["height"]), int(found.meta["data"]["width"]), config.seed
    )


KIND = ProximalKind()
