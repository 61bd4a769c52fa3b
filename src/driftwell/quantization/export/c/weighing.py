"""Integers of a layer's weight: those it has, or the nearest of a format."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.lowering import Weigh
from driftwell.quantization.export.c.weights import IntegerWeights, integer_weights
from driftwell.quantization.formats import Uniform
from driftwell.quantization.modules import PackedWeight


def weighing(bits: int) -> Weigh:
    """What makes integers of layers: packed ones as they are, others by rounding to nearest.

    Args:
        bits: of the weights of float layers, on a symmetric grid a row.
    """
    form = Uniform(bits, symmetric=True)

    def weigh(
        name: str, module: nn.Module, norm: nn.Module | None
    ) -> tuple[IntegerWeights, Tensor]:
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if not isinstance(weight, Tensor):
            raise InvalidInput(f"{name} ({type(module).__name__}) has no weight to write as C")
        if not bool(torch.isfinite(weight).all()):
            raise InvalidInput(f"{name} has weights that are not finite")
        gain, offset = _affine(name, norm, len(weight))
        b = torch.zeros(len(weight)) if bias is None else bias.detach()
        b = b.double().cpu() * gain + offset
        held = getattr(module, "packed_weight", None)
        if isinstance(held, PackedWeight):
            return integer_weights(held.packed.unpack()).scaled(gain), b
        w = weight.detach().double().cpu().reshape(len(weight), -1) * gain[:, None]
        return integer_weights(form.encode(w)), b

    return weigh


def _affine(name: str, norm: nn.Module | None, rows: int) -> tuple[Tensor, Tensor]:
    """A batch normalisation as gain and offset of each row."""
    gain, offset = torch.ones(rows).double(), torch.zeros(rows).double()
    if norm is None:
        return gain, offset
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or variance is None:
        raise InvalidInput(f"the batch normalisation after {name} has no running statistics")
    gain = (variance.double().cpu() + float(getattr(norm, "eps", 0.0))).rsqrt()
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if isinstance(weight, Tensor) and isinstance(bias, Tensor):
        gain = gain * weight.detach().double().cpu()
        offset = bias.detach().double().cpu()
    return gain, offset - mean.double().cpu() * gain
