"""Layers whose weights and inputs are signs, trained through straight-through estimators."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.nn.drawn_layers import drawn_linear
from driftwell.quantization.formats import Grid, Quantized
from driftwell.quantization.training_aware.activations import Sign
from driftwell.quantization.training_aware.straight_through import ClippedSTE, through

__all__ = ["BinaryEmbedding", "BinaryLinear"]

BIBERT = Paper(
    key="qin2022bibert",
    title="BiBERT: Accurate Fully Binarized BERT",
    authors="Qin, Haotong and Ding, Yifu and Zhang, Mingyuan and Yan, Qinghua and Liu, Aishan "
    "and Dang, Qingqing and Liu, Ziwei and Liu, Xianglong",
    year=2022,
    arxiv="2203.06390",
    venue="ICLR 2022",
)


@final
class BinaryLinear(nn.Module):
    """A linear layer of signs, from Qin et al., *BiBERT: Accurate Fully Binarized BERT*, 2022,
    arXiv:2203.06390.

        w0 = w - mean(w),   y = s (sign(x) sign(w0)^T) + bias,   s = mean |w|      (means of a row)

    Centring makes +1 and -1 equally frequent in a row, which is the most a bit can say. The
    scale is of the weights before centring and passes no gradient; those of w0 and x pass where
    |w0| < 1 and |x| < 1. sign(0) = +1, as a bit needs it.

    Args:
        inputs: entries in.
        outputs: entries out.
        draw: source of the start weights, N(0, gain^2 / inputs).
        gain: their scale.
        bias: whether a float offset is learned.

    Example:
        >>> layer = BinaryLinear(4, 2, draw=torch.Generator().manual_seed(0))
        >>> y = layer(torch.tensor([[0.3, -2.0, 0.0, 1.0]]))
        >>> bool((layer(torch.tensor([[9.0, -0.1, 5.0, 0.2]])) == y).all())
        True
    """

    papers = (BIBERT,)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        draw: torch.Generator,
        gain: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        start = drawn_linear(inputs, outputs, draw, gain=gain, bias=bias)
        self.weight, self.bias = start.weight, start.bias
        self.sign = Sign(ClippedSTE(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Numbers (..., inputs), of which the signs count -> (..., outputs)."""
        return F.linear(self.sign(x), binary_rows(self.weight), self.bias)

    @torch.no_grad()
    def quantized(self) -> Quantized:
        """The weight as it ships: a bit each and a scale a row."""
        return _quantized(self.weight)

    def extra_repr(self) -> str:
        """Sizes shown by print."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, bias={self.bias is not None}"


@final
class BinaryEmbedding(nn.Module):
    """A table of vectors of signs, from Qin et al., *BiBERT: Accurate Fully Binarized BERT*,
    2022, arXiv:2203.06390.

        e = mean |w| sign(w - mean w)       (means of a row)

    Args:
        count: rows.
        width: entries of a vector.
        draw: source of the start weights.
        scale: their standard deviation.

    Raises:
        InvalidInput: a size below 1; in `forward`, numbers that are no rows.

    Example:
        >>> table = BinaryEmbedding(5, 8, draw=torch.Generator().manual_seed(0))
        >>> table(torch.tensor([[0, 4]])).abs().unique().numel()
        2
    """

    papers = (BIBERT,)

    def __init__(
        self, count: int, width: int, *, draw: torch.Generator, scale: float = 0.1
    ) -> None:
        super().__init__()
        if min(count, width) < 1:
            raise InvalidInput(f"a table has at least one row and column, not {count} x {width}")
        self.weight = nn.Parameter(scale * torch.randn(count, width, generator=draw))

    def forward(self, index: Tensor) -> Tensor:
        """Rows (...) int64 -> vectors (..., width)."""
        check_rows(index, len(self.weight))
        return F.embedding(index, binary_rows(self.weight))

    @torch.no_grad()
    def quantized(self) -> Quantized:
        """The table as it ships: a bit each and a scale a row."""
        return _quantized(self.weight)

    def extra_repr(self) -> str:
        """Sizes shown by print."""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


def binary_rows(w: Tensor) -> Tensor:
    """Centred rows of signs with the scale of the row, mean|w| sign(w - mean w), from Qin et al.,
    2022, arXiv:2203.06390; the gradient is that of w - mean w where it is within 1.

    Args:
        w: weights (R, C).

    Example:
        >>> binary_rows(torch.tensor([[1.0, 2.0, 6.0]]))
        tensor([[-3., -3.,  3.]])
    """
    centred = w - w.mean(dim=1, keepdim=True)
    scale = w.detach().abs().mean(dim=1, keepdim=True)
    signs = 2 * (centred.detach() >= 0).to(w.dtype) - 1
    return through(scale * signs, centred, ClippedSTE(1.0))


def check_rows(index: Tensor, count: int) -> None:
    """Raise unless every number is one of `count` rows."""
    if index.dtype != torch.int64:
        raise InvalidInput(f"tokens are numbers of type int64, not {index.dtype}")
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < count:
        raise InvalidInput(
            f"tokens are 0 to {count - 1}, got {int(index.min())} to {int(index.max())}"
        )


def _quantized(w: Tensor) -> Quantized:
    matrix = w.detach()
    scale = matrix.abs().mean(dim=1, keepdim=True)
    codes = (matrix - matrix.mean(dim=1, keepdim=True) >= 0).to(torch.uint8)
    levels = torch.tensor([-1.0, 1.0], dtype=w.dtype, device=w.device)
    grid = Grid(levels, scale, torch.zeros_like(scale), matrix.shape[1], 1)
    return Quantized(codes, grid, tuple(w.shape), w.dtype)
