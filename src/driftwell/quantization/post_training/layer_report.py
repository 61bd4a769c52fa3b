"""What quantizing a model did: to each layer, and to the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

from torch import Tensor, nn

from driftwell.quantization.formats import Quantized
from driftwell.quantization.post_training.output_error import row_errors


@final
@dataclass(frozen=True)
class LayerReport:
    """What became of one weight.

    Attributes:
        name: of the layer, or of the parameter.
        kind: class of the layer, or ``"parameter"``.
        bits: bits a weight.
        error: |X (W - Q)^T| / |X W^T| over the calibration inputs X.
        rounded: the same with the format's own grid and plain rounding, for comparison.
        clip: share of weights that lie more than half a step outside the grid.
        weights: how many.
        nbytes: bytes they take now, with scales and zeros.
        float_bytes: bytes they took.
        inputs: how many inputs X were seen; 0 for a table, whose error is that of its entries.

    Example:
        >>> import torch
        >>> from driftwell.quantization.post_training.calibration import Inputs
        >>> from driftwell.quantization.post_training.verb import quantize
        >>> result = quantize(nn.Linear(8, 4), Inputs([torch.eye(8)]))
        >>> result.layers[0].bits, result.layers[0].weights
        (4, 32)
    """

    name: str
    kind: str
    bits: int
    error: float
    rounded: float
    clip: float
    weights: int
    nbytes: int
    float_bytes: int
    inputs: int

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.kind}): {self.bits} bits, {self.float_bytes} -> {self.nbytes} "
            f"bytes, output error {self.error:.4f} (plain rounding {self.rounded:.4f}), "
            f"{100 * self.clip:.2f} % clipped, {self.inputs} inputs"
        )


@final
@dataclass(frozen=True, eq=False)
class QuantizationResult:
    """A quantized model, and what was done to it.

    Attributes:
        model: the quantized copy.
        layers: one report a weight, in the order of execution.
        skipped: layers and matrices that were left as they are, with the reason.

    Example:
        >>> import torch
        >>> from driftwell.quantization.post_training.calibration import Inputs
        >>> from driftwell.quantization.post_training.verb import quantize
        >>> result = quantize(nn.Linear(64, 64), Inputs([torch.eye(64)]))
        >>> result.nbytes < result.float_bytes / 6
        True
    """

    model: nn.Module
    layers: tuple[LayerReport, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all quantized weights."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        """Bytes the same weights took."""
        return sum(layer.float_bytes for layer in self.layers)

    @property
    def error(self) -> float:
        """Mean relative output error of the layers."""
        return sum(layer.error for layer in self.layers) / max(len(self.layers), 1)

    def __str__(self) -> str:
        lines = [str(layer) for layer in self.layers]
        lines += [f"{name}: left as it is, {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def relative_error(w: Tensor, what: Tensor, grams: list[Tensor]) -> float:
    """|X (W - Q)^T| / |X W^T| of rows in as many equal groups as there are Gram matrices."""
    error = output = 0.0
    for part, other, gram in zip(w.chunk(len(grams)), what.chunk(len(grams)), grams, strict=True):
        error += float(row_errors(part, other, gram).sum())
        output += float(row_errors(part, part.new_zeros(part.shape), gram).sum())
    if error == 0.0:
        return 0.0
    return math.sqrt(error / output) if output > 0.0 else math.inf


def clipped_share(w: Tensor, quantized: Quantized) -> float:
    """Share of the weights (R, C) that lie more than half a step outside the grid."""
    grid = quantized.grid
    low, high = (
        end if end.shape[1] == 1 else end.repeat_interleave(grid.group_size, dim=1)
        for end in (side.to(w.dtype) for side in grid.bounds())
    )
    step = (high - low) / max(len(grid.levels) - 1, 1)
    outside = (w < low - step / 2) | (w > high + step / 2)
    return float(outside.double().mean())
