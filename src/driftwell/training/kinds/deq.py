"""Runs of deep equilibrium classifiers."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.world import World
from driftwell.data import ImageSet
from driftwell.models.equilibrium.classifier import ACTIVATIONS, DEQClassifier
from driftwell.models.langevin.batches import Batches
from driftwell.training.checkpoint import Checkpoint
from driftwell.training.gradient_trainer import GradientTrainer, decayed
from driftwell.training.images import (
    class_indices,
    describe,
    held_out_images,
    training_images,
)
from driftwell.training.kinds.kind import Kind, Task
from driftwell.training.kinds.settings import (
    DECAYS,
    check_above,
    check_choice,
    check_not_negative,
    check_whole,
    gradient_of,
    solver_of,
)
from driftwell.training.model_run import ModelRun, load_model_run
from driftwell.training.session import device_of

if TYPE_CHECKING:
    from driftwell.training.config import RunConfig
    from driftwell.training.exporting import ExportWish, Shipped
    from driftwell.training.quantization_plan import QuantizationPlan
    from driftwell.training.quantized_run import QuantizedWeights

PORTION = 256
"""Images that calibrate in one solve."""
RECENT = 100
"""Updates over which solves that did not converge are counted."""


@final
@dataclass(frozen=True)
class DEQRecipe:
    """All that decides how an equilibrium classifier is trained.

    Attributes:
        width: entries of the state.
        activation: ``"tanh"`` or ``"relu"``.
        bound: largest spectral norm of W, in (0, 1); 0 leaves W free.
        solver: ``"anderson"``, ``"broyden"``, ``"newton-krylov"`` or ``"picard"``.
        tol: relative tolerance of the solve, per sample.
        max_steps: evaluations of the layer that are allowed.
        gradient: ``"implicit"``, ``"one-step"``, ``"phantom"``, or ``"unrolled"`` through the
            steps of the solver.
        adjoint_tol: tolerance of the implicit gradient's own solve.
        jacobian: weight of the Jacobian penalty, 0 for none.
        noise: standard deviation of the noise on training inputs, in units of the data's
            root-mean-square distance from their mean.
        batch: data per update.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        decay: ``"constant"`` or ``"cosine"``, the learning rate over `updates`.
        updates: length of a whole training.
        data_limit: how many images are used (first in file order), 0 for all.
    """

    width: int = 128
    activation: str = "relu"
    bound: float = 0.9
    solver: str = "anderson"
    tol: float = 1e-4
    max_steps: int = 60
    gradient: str = "implicit"
    adjoint_tol: float = 1e-5
    jacobian: float = 0.0
    noise: float = 0.3
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    decay: str = "cosine"
    updates: int = 1500
    data_limit: int = 0

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("decay", self.decay, DECAYS)
        for name in ("width", "max_steps", "batch", "updates"):
            check_whole(name, getattr(self, name))
        for name in ("tol", "adjoint_tol", "jacobian", "noise", "weight_decay", "data_limit"):
            check_not_negative(name, getattr(self, name))
        check_above("learning_rate", self.learning_rate)
        if not 0.0 <= self.bound < 1.0:
            raise InvalidInput(
                f"recipe: bound must lie below 1 for a contraction, or be 0 to leave W free, "
                f"got {self.bound}"
            )
        solver_of(self.solver)
        gradient_of(self.gradient, self.adjoint_tol)

    def build(self, inputs: int, classes: int, seed: int) -> DEQClassifier:
        """The untrained classifier."""
        return DEQClassifier(
            inputs, self.width, classes, activation=self.activation, bound=self.bound or None,
            solver=solver_of(self.solver), gradient=gradient_of(self.gradient, self.adjoint_tol),
            tol=self.tol, max_steps=self.max_steps, seed=seed,
        )  # fmt: skip


@final
class ClassificationObjective:
    """Cross entropy of a classifier's logits on keyed batches, with keyed noise on the inputs.

    Args:
        model: the classifier.
        inputs: standardised inputs, (n, inputs).
        classes: place of each one's class, int64 (n,).
        recipe: the settings.
        seed: of the order of data and of all noise.
        world: processes that share a batch.
    """

    def __init__(
        self, model: DEQClassifier, inputs: Tensor, classes: Tensor, recipe: DEQRecipe, seed: int,
        world: World,
    ) -> None:  # fmt: skip
        self.model, self.inputs, self.classes = model, inputs, classes
        self.recipe, self.seed, self.world = recipe, seed, world
        self.batches = Batches(len(inputs), recipe.batch, seed, inputs.device)
        self.unsolved: deque[tuple[int, int]] = deque(maxlen=RECENT)

    def loss(self, index: int) -> tuple[Tensor, dict[str, float], int]:
        """Mean cross entropy over this process's rows, with the solve's figures."""
        whole = self.batches.rows(index)
        mine = self.world.slice(len(whole))
        rows = whole[mine]
        x, y = self.inputs[rows], self.classes[rows]
        ids = torch.arange(mine.start, mine.stop, device=x.device)
        if self.recipe.noise:
            x = x + self.recipe.noise * self._noise(ids, index, x.shape[1]).to(x)
        logits, found = self.model(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        if self.recipe.jacobian:
            loss = loss + self.recipe.jacobian * self.model.jacobian_penalty(
                x, found.z, seed=self.seed, step=index, samples=ids
            )
        unsolved = int((found.status != 0).sum())
        self.unsolved.append((unsolved, len(rows)))
        return loss, {
            "accuracy": float((logits.argmax(1) == y).double().mean()),
            "steps": float(found.steps.double().mean()),
            "unsolved": unsolved / max(len(rows), 1),
        }, len(rows)  # fmt: skip

    def _noise(self, ids: Tensor, index: int, width: int) -> Tensor:
        return normal(
            (len(ids), width), seed=self.seed, purpose=Purpose.DATA, chains=ids, step=index,
            leaf=1,
        )  # fmt: skip

    def constrain(self) -> None:
        """Nothing: the layer bounds its own weights."""

    def warnings(self) -> list[str]:
        """How many of the last solves did not converge."""
        bad, of = (sum(pair) for pair in zip(*self.unsolved, strict=True)) if self.unsolved else (
            0, 0)  # fmt: skip
        if not bad:
            return []
        return [
            f"{bad} of the last {of} solves did not reach their tolerance; give them more "
            "max_steps, a bound below 1, or a jacobian penalty"
        ]


@final
class DEQKind(Kind):
    """A deep equilibrium classifier of labelled images."""

    name = "deq"
    title = "Deep equilibrium classifier"
    recipe = DEQRecipe
    presets: ClassVar[Mapping[str, DEQRecipe]] = {
        "default": DEQRecipe(),
        "tanh": DEQRecipe(activation="tanh"),
        "free": DEQRecipe(bound=0.0, activation="tanh", jacobian=1.0, max_steps=100),
    }

    def task(self, config: RunConfig, world: World) -> Task:
        """Labelled images, standardised by their mean image and one scale."""
        recipe: DEQRecipe = config.recipe
        images = training_images(config)
        classes = labels_of(images)
        x = images.flat().to(device_of(config.device))
        mean = x.mean(0)
        scale = (x - mean).square().mean().sqrt().clamp(min=1e-6)
        model = recipe.build(x.shape[1], len(images.classes), config.seed).to(x.device)
        objective = ClassificationObjective(
            model, (x - mean) / scale, classes.to(x.device), recipe, config.seed, world
        )
        trainer = GradientTrainer(
            model, objective, weight_decay=recipe.weight_decay, world=world,
            rate=decayed(recipe.learning_rate, recipe.decay, recipe.updates),
        )  # fmt: skip
        constants = {"inputs.mean": mean, "inputs.scale": scale.reshape(1)}
        return Task(
            trainer, describe(images), "images", {}, constants, lambda kept: _advice(recipe)
        )

    def load(self, path: Path, device: str | None = None) -> ModelRun:
        """The classifier of a run folder; its data are not needed."""
        return load_model_run(path, self.name, _build, device)

    def quantized(self, run: ModelRun, plan: QuantizationPlan) -> QuantizedWeights:
        """All three matrices, calibrated on the iterates of solves for training images."""
        from driftwell.quantization.post_training import Inputs
        from driftwell.training.quantized_model import quantized_model, some

        images = training_images(run.config)
        x = standardised(run, images)[some(plan.samples, len(images), plan.seed)]
        return quantized_model(run, Inputs(x.split(PORTION)), plan)

    def exported(self, run: ModelRun, wish: ExportWish) -> Shipped:
        """The classifier of pixels to scores, with its solve inside."""
        from driftwell.training.shipping import ship_classifier

        images = training_images(run.config)
        return ship_classifier(run, wish, standardised(run, images), images)

    def scores(self, run: ModelRun, weights: QuantizedWeights | None) -> dict[str, float]:
        """Accuracy on held-out images, and how many evaluations a solve takes."""
        images = held_out_images(run.config)
        model = run.model if weights is None else weights.model
        with torch.no_grad():
            logits, found = model(standardised(run, images))
        right = (logits.argmax(1).cpu() == labels_of(images)).double()
        return {
            "accuracy": float(right.mean()),
            "accuracy_error": float(right.std() / len(right) ** 0.5),
            "steps": float(found.steps.double().mean()),
        }


def labels_of(images: ImageSet) -> Tensor:
    """Place of each image's class among those that occur, int64 (n,).

    Raises:
        InvalidInput: no labels, or one class only.
    """
    classes = class_indices(images)
    if classes is None:
        raise InvalidInput(
            f"{images.name} has no labels, and a classifier learns from them: give --labels FILE, "
            "or data with a folder a class"
        )
    if len(images.classes) < 2:
        raise InvalidInput(
            f"a classifier needs at least two classes, and {images.name} has "
            f"{', '.join(map(str, images.classes))} only"
        )
    return classes


def standardised(run: ModelRun, images: ImageSet) -> Tensor:
    """Images as the run's model takes them, (n, inputs).

    Raises:
        InvalidInput: images of another size than those it was trained on.
    """
    size = tuple(int(run.meta["data"][key]) for key in ("height", "width"))
    if (images.height, images.width) != size:
        raise InvalidInput(
            f"{images.name} has images of {images.height}x{images.width}, this run was trained on "
            f"{size[0]}x{size[1]}: bring the run's data back"
        )
    like = next(run.model.parameters())
    mean, scale = (run.tensors[f"inputs.{name}"].to(like) for name in ("mean", "scale"))
    return (images.flat().to(like) - mean) / scale


def _build(config: RunConfig, found: Checkpoint) -> DEQClassifier:
    recipe: DEQRecipe = config.recipe
    return recipe.build(
        len(found.tensors["inputs.mean"]), len(found.meta["data"]["classes"]), config.seed
    )


def _advice(recipe: DEQRecipe) -> str:
    text = f"lower learning_rate ({recipe.learning_rate:g})"
    return text if recipe.bound else f"{text}, or set a bound below 1 on the layer"


KIND = DEQKind()
