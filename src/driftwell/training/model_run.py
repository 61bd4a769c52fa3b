"""`ModelRun`: a model trained by `GradientTrainer`, read back from a run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from driftwell.core.errors import InvalidInput, RunFolderError
from driftwell.training.checkpoint import Checkpoint
from driftwell.training.config import RunConfig
from driftwell.training.gradient_trainer import load_weights
from driftwell.training.quantized_run import NOTED
from driftwell.training.run_folder import RunFolder
from driftwell.training.session import device_of


@final
@dataclass(frozen=True)
class ModelRun:
    """A trained model with what is needed to use it.

    Attributes:
        path: the run folder.
        config: the settings.
        model: the model of the newest checkpoint, in evaluation mode.
        update: number of updates done.
        seconds: time spent on them.
        meta: the checkpoint's JSON.
        tensors: the checkpoint's tensors.
        warning: a sentence if a damaged checkpoint was skipped.
    """

    path: Path
    config: RunConfig
    model: nn.Module
    update: int
    seconds: float
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    warning: str | None = None

    def metrics(self) -> list[dict[str, float]]:
        """Lines of metrics.jsonl."""
        return RunFolder(self.path, self.config).metrics()


def load_model_run(
    path: Path, name: str, build: Callable[[RunConfig, Checkpoint], nn.Module], device: str | None
) -> ModelRun:
    """The run in a folder.

    Args:
        path: the run folder.
        name: the kind it must be of.
        build: makes the empty model of a checkpoint.
        device: where it goes; None: the run's own device.

    Raises:
        RunFolderError: no run folder, one of another kind, or no checkpoint that can be read.
    """
    folder = RunFolder.open(path)
    folder.check_kind(name)
    found = folder.latest_good_checkpoint()
    place = device_of(device or folder.config.device)
    try:
        model = build(folder.config, found)
        if NOTED in found.meta:
            from driftwell.training.quantized_model import restored_model

            model = restored_model(model, found)
        else:
            load_weights(model, found.tensors)
    except (KeyError, TypeError, IndexError, InvalidInput) as error:
        raise RunFolderError(
            f"the checkpoint of update {found.update} in {path} does not hold this kind of model "
            f"({error}): was it made by another program?"
        ) from error
    return ModelRun(
        path, folder.config, model.to(place).eval().requires_grad_(False), found.update,
        float(found.meta.get("elapsed_seconds", 0.0)), found.meta, found.tensors, found.warning,
    )  # fmt: skip
