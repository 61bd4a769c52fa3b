"""`quantize_run`: a run folder with the weights of another in few bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput, RunFolderError
from driftwell.training.config import RunConfig
from driftwell.training.folder_swap import partial_of, swap_in
from driftwell.training.run_folder import METRICS, RunFolder, check_free

if TYPE_CHECKING:
    from driftwell.training.quantization_plan import QuantizationPlan

NOTED = "quantization"
"""Key under which a checkpoint's JSON says how its weights were quantized."""
PICTURES, SHOWN = "pictures.", 16
"""Tensors of pictures by the float model and by the quantized one, and how many."""


@final
@dataclass(frozen=True)
class Layer:
    """What became of one weight.

    Attributes:
        name: of the layer or parameter.
        bits: a weight.
        error: relative error of the layer's output over the states that calibrated it.
        rounded: the same with plain rounding.
        clip: share of weights beyond the outermost levels.
        weights: how many.
        nbytes: bytes they take.
        float_bytes: bytes they took.
    """

    name: str
    bits: int
    error: float
    rounded: float
    clip: float
    weights: int
    nbytes: int
    float_bytes: int


@final
@dataclass(frozen=True, eq=False)
class QuantizedWeights:
    """What a kind of run hands back from being quantized.

    Attributes:
        model: the quantized model, ready to be used.
        tensors: what the checkpoint holds, packed weights among them.
        layers: one report a weight.
        skipped: what was left in float, with the reason.
        notes: plain values that the checkpoint notes, needed to read it back.
    """

    model: Any
    tensors: dict[str, Tensor]
    layers: tuple[Layer, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True, eq=False)
class QuantizedRun:
    """A quantized run that was written.

    Attributes:
        path: its folder.
        weights: what was quantized.
        scores: of the float model and of the quantized ones, one row a bit width.
        float_bytes: of the checkpoint's model before.
        nbytes: and after.
    """

    path: Path
    weights: QuantizedWeights
    scores: list[dict[str, Any]]
    float_bytes: int
    nbytes: int


Scores = Callable[[Any, QuantizedWeights], list[dict[str, Any]]]


def quantize_run(
    path: Path,
    out: Path,
    plan: QuantizationPlan,
    *,
    overwrite: bool = False,
    device: str | None = None,
    scores: Scores | None = None,
) -> QuantizedRun:
    """Quantize the model of a run into a folder of its own; the run stays as it is.

    The new folder holds the settings, the metrics, and one checkpoint with packed weights, and is
    read as any run. It cannot be trained further.

    Args:
        path: the run folder.
        out: the new one.
        plan: how.
        overwrite: whether a run in `out` may be replaced.
        device: where to compute.
        scores: measures (run, weights); its rows are kept for the page, with pictures. None
            leaves both out.

    Raises:
        InvalidInput: a kind of run, or a plan, that cannot be carried out; nothing is written.
        RunFolderError: a folder that cannot be read or written.
    """
    if out.resolve() == path.resolve():
        raise InvalidInput(f"{out} is the run itself: give another folder with --out")
    check_free(out, overwrite)
    config = RunFolder.open(path).config
    run = config.kind.load(path, device)
    if NOTED in run.meta:
        raise InvalidInput(
            f"{path} is quantized already: quantize the run it was made of, "
            f"{run.meta[NOTED]['source']}"
        )
    _check_finite(path, run.tensors)
    made = config.kind.quantized(run, plan)
    rows = scores(run, made) if scores else []
    pictures = {
        f"{PICTURES}{part}": (255.0 * images).round().to(torch.uint8).cpu()
        for part, model in (("before", None), ("after", made))
        if scores and (images := config.kind.previews(run, model, SHOWN)) is not None
    }
    meta = {key: value for key, value in run.meta.items() if key not in ("file", "size", "sha256")}
    meta[NOTED] = {
        "source": str(path.resolve()), "plan": plan.to_json(), "skipped": made.skipped,
        "layers": [asdict(layer) for layer in made.layers], "scores": rows, **made.notes,
    }  # fmt: skip
    _write(path, out, config, run.update, made.tensors | pictures, meta)
    before = sum(layer.float_bytes for layer in made.layers)
    after = sum(layer.nbytes for layer in made.layers)
    return QuantizedRun(out, made, rows, before, after)


def _check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise InvalidInput(
                f"{name} in the newest checkpoint of {path} holds numbers that are not finite, "
                "which no few bits can stand for: take an earlier checkpoint, or train again"
            )


def _write(
    path: Path, out: Path, config: RunConfig, update: int, tensors: dict[str, Tensor],
    meta: dict[str, Any],
) -> None:  # fmt: skip
    """The new folder beside its place, then in it: a kill leaves what was there, or all of it."""
    there = RunFolder(out, config)
    folder: RunFolder | None = None
    try:
        if out.exists():
            there.lock()
        folder = RunFolder.create(partial_of(out), config, overwrite=True)
        if (path / METRICS).is_file():
            shutil.copyfile(path / METRICS, folder.path / METRICS)
        folder.save_checkpoint(update, tensors, meta)
        swap_in(out)
    except BaseException as error:
        if folder is not None:
            folder.discard()
        if isinstance(error, OSError) and not isinstance(error, RunFolderError):
            raise RunFolderError(f"{out} cannot be written: {error.strerror or error}") from error
        raise
    finally:
        for each in (there, folder):
            with suppress(OSError):
                if each is not None:
                    each.unlock()


def refuse_quantized(path: Path, meta: dict[str, Any], what: str) -> None:
    """Raise one sentence if a checkpoint holds quantized weights.

    Raises:
        RunFolderError: it does.
    """
    if NOTED in meta:
        raise RunFolderError(
            f"{path} holds quantized weights, which cannot be {what}: take the run they were made "
            f"of, {meta[NOTED]['source']}"
        )
