"""Unevenly spaced weight levels whose clip is trained with the weights."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Format, Grid, Quantized
from driftwell.quantization.formats.lookup import ASQ
from driftwell.quantization.training_aware.learned_step import slowed
from driftwell.quantization.training_aware.quantized_weights import WeightQuantizer

__all__ = ["LearnedClipWeight"]


@final
class LearnedClipWeight(WeightQuantizer):
    """A weight on any symmetric table of levels with a learned clip, as Zhou et al., *Precision
    Neural Network Quantization via Learnable Adaptive Modules*, 2025, arXiv:2504.17263, train
    weights on powers of sqrt(2) (POST).

        v = (w - mean w) / (sigma alpha),    what = sigma alpha level(v),    sigma = std w
        backward: that of sigma alpha (clamp(v, -1, 1) + e), e = level(v) - clamp(v) held still

    so dwhat/dalpha = sigma (level(v) - v) inside the clip and sigma sign(v) beyond it, times
    1 / sqrt(N), N the number of weights. alpha starts at the least-squares one of the format.

    The mean is taken out of the weight and not put back, which changes what a trained layer
    computes: with such a start, take `centred=False`.

    Args:
        w: the weight at the start.
        format: its `levels` are symmetric with largest 1, such as `PowerOfSqrtTwo(4)`; one
            scale serves the whole weight, whatever its `per` says.
        centred: whether the mean is taken out.

    Raises:
        InvalidInput: a format whose levels are not symmetric around zero up to 1, or a weight
            without spread.

    Example:
        >>> from driftwell.quantization.formats import PowerOfSqrtTwo
        >>> quantizer = LearnedClipWeight(torch.tensor([[1.0, -1.0]]), PowerOfSqrtTwo(3))
        >>> quantizer(torch.tensor([[1.0, -1.0]])).detach().abs().max() < 1.3
        tensor(True)
    """

    papers = (ASQ,)

    def __init__(self, w: Tensor, format: Format, centred: bool = True) -> None:
        super().__init__()
        levels = format.levels
        if float(levels[-1]) != 1.0 or not torch.equal(levels, -levels.flip(0)):
            raise InvalidInput(
                f"a learned clip needs levels symmetric around zero up to 1; {format} has "
                f"{[round(level, 3) for level in levels.tolist()]}"
            )
        self.format, self.centred = format, centred
        matrix, sigma = self._normalized(format.matrix(w))
        if not 0.0 < float(sigma) < math.inf:
            raise InvalidInput("a weight without spread has no scale to learn")
        whole = (matrix / sigma).reshape(1, 1, -1)
        self.alpha = nn.Parameter(format.fit_blocks(whole)[0].reshape(()))

    def forward(self, w: Tensor) -> Tensor:
        """What in the shape and dtype of w."""
        value = self.quantized(w).decode()
        surrogate = self._surrogate(w)
        # the difference is zero: it carries the derivatives
        return value + (surrogate - surrogate.detach())

    @torch.no_grad()
    def quantized(self, w: Tensor) -> Quantized:
        """The codes of w, and sigma alpha as the scale of their grid."""
        matrix, sigma = self._normalized(self.format.matrix(w))
        scale = (sigma * self._clip().to(matrix)).reshape(1, 1)
        levels = self.format.levels.to(matrix)
        grid = Grid(levels, scale, torch.zeros_like(scale), matrix.shape[1], self.format.bits)
        return Quantized(grid.nearest(matrix), grid, tuple(w.shape), w.dtype)

    def _surrogate(self, w: Tensor) -> Tensor:
        centred, sigma = self._normalized(w)
        scale = sigma * slowed(self._clip(), 1.0 / math.sqrt(w.numel())).to(w.dtype)
        v = centred / scale
        inside = v.clamp(-1.0, 1.0)
        levels = self.format.levels.to(w)
        nearest = levels[torch.bucketize(v.detach(), (levels[1:] + levels[:-1]) / 2, right=True)]
        return scale * (inside + (nearest - inside.detach()))

    def _clip(self) -> Tensor:
        # an optimizer that steps over zero turns no level around
        return self.alpha.abs().clamp(min=torch.finfo(self.alpha.dtype).tiny)

    def _normalized(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The weight, its mean taken out if so set, and its standard deviation."""
        return (w - w.mean() if self.centred else w), w.std(correction=0)

    def extra_repr(self) -> str:
        """Format and clip."""
        return f"{self.format}, alpha={float(self.alpha.detach()):.4g}"
