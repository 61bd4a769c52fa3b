"""Ternary weights by a threshold on their size."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.formats import Grid, Quantized, Ternary
from driftwell.quantization.training_aware.quantized_weights import WeightQuantizer
from driftwell.quantization.training_aware.straight_through import IdentitySTE, through

__all__ = ["ThresholdTernary"]

TWN = Paper(
    key="li2016twn",
    title="Ternary Weight Networks",
    authors="Li, Fengfu and Liu, Bin and Wang, Xiaoxing and Zhang, Bo and Yan, Junchi",
    year=2016,
    arxiv="1605.04711",
)


@final
class ThresholdTernary(WeightQuantizer):
    """Ternary weights with a threshold on |w|, from Li et al., *Ternary Weight Networks*, 2016,
    arXiv:1605.04711.

        what = a sign(w) 1[|w| > c mean|w|],    a = sum of |w| over the support / its size

    a is the least-squares scale on that support; `Ternary` finds the best support too, for more
    time. A released code of Li et al., *Feature Affinity Assisted Knowledge Distillation*, 2023,
    divides by the number of all weights instead, which is too small a scale:
    `mean_over="all"` does that, for comparisons.

    Args:
        threshold: c >= 0.
        mean_over: "support" or "all".

    Raises:
        InvalidInput: a setting that cannot be.

    Example:
        >>> ThresholdTernary()(torch.tensor([[1.0, -3.0, 0.1]]))
        tensor([[ 2., -2.,  0.]])
    """

    papers = (TWN,)

    def __init__(
        self, threshold: float = 0.7, mean_over: Literal["support", "all"] = "support"
    ) -> None:
        super().__init__()
        if not 0.0 <= threshold < math.inf or mean_over not in ("support", "all"):
            raise InvalidInput(
                "ThresholdTernary needs threshold >= 0 and mean_over 'support' or 'all', got "
                f"{threshold} and {mean_over!r}"
            )
        self.threshold, self.mean_over = threshold, mean_over

    def forward(self, w: Tensor) -> Tensor:
        """What in the shape and dtype of w."""
        return through(self.quantized(w).decode(), w, IdentitySTE())

    @torch.no_grad()
    def quantized(self, w: Tensor) -> Quantized:
        """The codes of w, one scale for all."""
        format = Ternary(per="tensor")
        matrix = format.matrix(w)
        size = matrix.abs()
        support = size > self.threshold * size.mean()
        count = support.sum().clamp(min=1) if self.mean_over == "support" else size.numel()
        scale = ((size * support).sum() / count).reshape(1, 1)
        # a weight of zeros is stored exactly on any scale
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        codes = (1 + matrix.sign() * support).to(torch.uint8)
        levels, zero = format.levels.to(matrix), torch.zeros_like(scale)
        grid = Grid(levels, scale, zero, matrix.shape[1], format.bits)
        return Quantized(codes, grid, tuple(w.shape), w.dtype)

    def extra_repr(self) -> str:
        """Threshold and scale."""
        return f"{self.threshold}, mean_over={self.mean_over!r}"
