"""`load_run`: a trained machine, and all that is needed to use it, from a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput, RunFolderError
from driftwell.data import ImageSet, Transform
from driftwell.models.langevin.generation import build_transform
from driftwell.models.langevin.kinds import Machine, machine_from
from driftwell.models.langevin.machine import StartedEnergy
from driftwell.models.langevin.presets import Recipe
from driftwell.models.langevin.trainer import Layout, label_code
from driftwell.training.config import RunConfig
from driftwell.training.kinds.nlm import TRANSFORM
from driftwell.training.quantized_run import NOTED
from driftwell.training.run_folder import RunFolder
from driftwell.training.session import Trained, device_of, train_run

if TYPE_CHECKING:
    from driftwell.training.quantized_machine import QuantizedAny

__all__ = ["Run", "Trained", "load_run", "train_run"]


@final
@dataclass(frozen=True)
class Run:
    """A trained machine with what is needed to use it.

    Attributes:
        path: the run folder.
        config: the settings.
        machine: the machine of the newest checkpoint; of a quantized one that of the decoded
            couplings, whose law is the same.
        transform: between images and visible states.
        layout: which neurons are visible, label and hidden ones.
        height: of an image.
        width: of an image.
        update: number of updates done.
        seconds: time spent on them.
        meta: the checkpoint's JSON.
        tensors: the checkpoint's tensors (chains and optimizer moments too).
        warning: a sentence if a damaged checkpoint was skipped.
        quantized: the machine with packed couplings, of a quantized run.
    """

    path: Path
    config: RunConfig
    machine: Machine
    transform: Transform
    layout: Layout
    height: int
    width: int
    update: int
    seconds: float
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    warning: str | None = None
    quantized: QuantizedAny | None = None

    @property
    def sampled(self) -> Machine | StartedEnergy:
        """What chains run on: the machine, or where it is faster the quantized one."""
        if isinstance(self.quantized, StartedEnergy):
            return self.quantized
        return self.machine

    @property
    def recipe(self) -> Recipe:
        """All training settings."""
        recipe: Recipe = self.config.recipe
        return recipe

    @property
    def classes(self) -> tuple[int, ...]:
        """Labels of the training images, ascending; label neuron i stands for the i-th."""
        return tuple(int(label) for label in self.meta["data"]["classes"])

    @property
    def label_neurons(self) -> int:
        """How many neurons hold the class, clamped or part of the state; 0 for none."""
        inner = getattr(self.machine, "labels", 0)
        return self.layout.labels or int(inner)

    def images(self, states: Tensor) -> Tensor:
        """States (n, N) as images (n, height, width) in [0, 1]."""
        visible = states[:, : self.layout.visible]
        return self.transform.inverse(visible).reshape(-1, self.height, self.width)

    def states(self, images: ImageSet) -> Tensor:
        """Images as states (n, N), classes in the label neurons and hidden neurons at zero.

        Raises:
            InvalidInput: no labels for label neurons, or a class that was not learned.
        """
        layout, like = self.layout, next(self.machine.parameters())
        parts = [self.transform.forward(images.images.to(like))]
        if layout.labels:
            wrong = sorted(set(images.classes) - set(self.classes))
            if images.labels is None or wrong:
                raise InvalidInput(
                    f"label neurons stand for the classes {self.classes}: {images.name} has "
                    f"{wrong or 'no labels'}"
                )
            index = torch.searchsorted(torch.tensor(self.classes), images.labels.cpu())
            parts.append(label_code(index, self.recipe.label_scale, layout.labels).to(like))
        parts.append(like.new_zeros(len(images), layout.hidden))
        return torch.cat(parts, dim=1).detach()

    def metrics(self) -> list[dict[str, float]]:
        """Lines of metrics.jsonl."""
        return RunFolder(self.path, self.config).metrics()


def load_run(path: Path, device: str | None = None) -> Run:
    """The machine and settings of a run folder; its data are not needed.

    Args:
        path: the run folder.
        device: where tensors go; None: the run's own device.

    Raises:
        RunFolderError: no run folder, a run of another kind, or no checkpoint that can be read.
    """
    folder = RunFolder.open(path)
    folder.check_kind("nlm")
    found = folder.latest_good_checkpoint()
    place = device_of(device or folder.config.device)
    try:
        height, width = (int(found.meta["data"][key]) for key in ("height", "width"))
        blank = torch.zeros(2, height, width, device=place)
        transform = _refill(build_transform(folder.config.recipe, blank), found.tensors)
        quantized: QuantizedAny | None = None
        if NOTED in found.meta:
            from driftwell.training.quantized_machine import restored_machine

            machine, quantized = restored_machine(folder.config.recipe, found)
            quantized.to(place)
        else:
            machine = machine_from(folder.config.recipe, found.tensors)
        machine = machine.to(place)
        layout = _layout(folder.config.recipe, machine.n, transform.forward(blank).shape[1])
    except (KeyError, TypeError, RuntimeError, InvalidInput) as error:
        raise RunFolderError(
            f"the checkpoint of update {found.update} in {path} does not hold this kind of model "
            f"({error}): was it made by another program?"
        ) from error
    return Run(
        path, folder.config, machine, transform, layout, height, width, found.update,
        float(found.meta.get("elapsed_seconds", 0.0)), found.meta, found.tensors, found.warning,
        quantized,
    )  # fmt: skip


def _layout(recipe: Recipe, n: int, visible: int) -> Layout:
    if recipe.learning != "contrastive":  # hidden and label neurons are no part of the state
        return Layout(n)
    labels = n - visible - recipe.hidden
    if labels < 0:
        raise InvalidInput(f"{n} neurons for {visible} visible and {recipe.hidden} hidden ones")
    return Layout(visible, labels, recipe.hidden)


def _refill(transform: Transform, tensors: dict[str, Tensor]) -> Transform:
    """A transform of the right sizes with the tensors it was saved with."""
    if isinstance(transform, nn.Module):
        n = len(TRANSFORM)
        transform.load_state_dict({k[n:]: t for k, t in tensors.items() if k.startswith(TRANSFORM)})
    return transform
