"""Models trained by `GradientTrainer`, quantized and read back."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from driftwell.core.noise import Purpose, permutation
from driftwell.quantization.post_training import Calibration, quantize
from driftwell.quantization.post_training.restoring import packed_settings, restored
from driftwell.training.checkpoint import Checkpoint
from driftwell.training.quantization_plan import QuantizationPlan
from driftwell.training.quantized_run import NOTED, Layer, QuantizedWeights

if TYPE_CHECKING:
    from driftwell.training.model_run import ModelRun

MODEL, OPTIMIZER = "model.", "optimizer."
SETTINGS = "weights"


def quantized_model(
    run: ModelRun, calibration: Calibration, plan: QuantizationPlan
) -> QuantizedWeights:
    """The model of a run in few bits.

    Args:
        run: the run.
        calibration: brings the model to the states it is to be right on.
        plan: how.
    """
    result = quantize(
        run.model, calibration, format=plan.to_format(), method=plan.to_method(),
        activations=plan.activations,
    )  # fmt: skip
    names = [field.name for field in fields(Layer)]
    layers = tuple(Layer(**{n: getattr(layer, n) for n in names}) for layer in result.layers)
    kept = {k: t for k, t in run.tensors.items() if not k.startswith((MODEL, OPTIMIZER))}
    state = {f"{MODEL}{name}": t for name, t in result.model.state_dict().items()}
    return QuantizedWeights(
        result.model.eval().requires_grad_(False), kept | state, layers, dict(result.skipped),
        {SETTINGS: packed_settings(result.model)},
    )  # fmt: skip


def restored_model(model: nn.Module, found: Checkpoint) -> nn.Module:
    """A float model of a run's settings with the packed weights of a checkpoint.

    Raises:
        InvalidInput: the checkpoint holds other weights.
    """
    n = len(MODEL)
    state = {name[n:]: t for name, t in found.tensors.items() if name.startswith(MODEL)}
    noted: dict[str, Any] = found.meta[NOTED]
    return restored(model, state, noted[SETTINGS])


def some(count: int, of: int, seed: int) -> Tensor:
    """Keyed choice of `count` rows out of `of`, or all of them, int64.

    Example:
        >>> some(3, 3, 0).tolist()
        [0, 1, 2]
    """
    if count >= of:
        return torch.arange(of)
    return permutation(of, seed=seed, purpose=Purpose.DATA, step=0)[:count].sort().values
