"""Levels that reversible columns are made of: F(below, above) on vectors and on images."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.models.vision.reversible_columns import REVCOL
from driftwell.nn.drawn_layers import drawn_conv, drawn_linear


@final
class DenseLevel(nn.Module):
    """A level on vectors: F(below, above) = W_2 GELU(W_1 LN(D below + U above)).

    Args:
        below: entries of the level below, or of the stem.
        width: entries of this level.
        above: entries of the level above, or None at the top.
        draw: source of the start weights.
        dropout: probability within the hidden layer.
        dtype: of the weights.

    Example:
        >>> level = DenseLevel(4, 3, None, torch.Generator().manual_seed(0))
        >>> level(torch.zeros(2, 4), None).shape
        torch.Size([2, 3])
    """

    papers = (REVCOL,)

    def __init__(
        self,
        below: int,
        width: int,
        above: int | None,
        draw: torch.Generator,
        *,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.D = drawn_linear(below, width, draw, dtype=dtype)
        self.U = None if above is None else drawn_linear(above, width, draw, dtype=dtype)
        self.norm = nn.LayerNorm(width, dtype=dtype)
        self.W_1 = drawn_linear(width, 2 * width, draw, dtype=dtype)
        self.W_2 = drawn_linear(2 * width, width, draw, dtype=dtype)
        self.dropout = nn.Dropout(dropout)

    def forward(self, below: Tensor, above: Tensor | None = None) -> Tensor:
        """F, (B, width)."""
        fused = self.D(below)
        if self.U is not None and above is not None:
            fused = fused + self.U(above)
        hidden = self.dropout(functional.gelu(self.W_1(self.norm(fused))))
        out: Tensor = self.W_2(hidden)
        return out


@final
class ConvLevel(nn.Module):
    """A level on images, after the RevCol paper: fusion, then a ConvNeXt block.

    From below come 2x2 patches (or, with `keep_size`, pixels), from above a linear map of each
    pixel, repeated 2x2; each is normed over channels, and they are summed to u. Then
    F = u + g * W_2 GELU(W_1 LN(depthwise 3x3 of u)), with a learned scale g of each channel that
    starts small.

    Args:
        below: channels of the level below, or of the stem.
        width: channels of this level.
        above: channels of the level above, or None at the top.
        draw: source of the start weights.
        keep_size: whether this level has the size of what is below it.
        layer_scale: start of g.
        dtype: of the weights.

    Example:
        >>> level = ConvLevel(3, 4, None, torch.Generator().manual_seed(0))
        >>> level(torch.zeros(2, 3, 8, 8), None).shape
        torch.Size([2, 4, 4, 4])
    """

    papers = (REVCOL,)

    def __init__(
        self,
        below: int,
        width: int,
        above: int | None,
        draw: torch.Generator,
        *,
        keep_size: bool = False,
        layer_scale: float = 1e-6,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        size = 1 if keep_size else 2
        self.D = drawn_conv(below, width, size, draw, stride=size, dtype=dtype)
        self.U = None if above is None else drawn_conv(above, width, 1, draw, dtype=dtype)
        self.norm_below = nn.LayerNorm(width, dtype=dtype)
        self.norm_above = None if above is None else nn.LayerNorm(width, dtype=dtype)
        self.norm_hidden = nn.LayerNorm(width, dtype=dtype)
        self.depthwise = drawn_conv(width, width, 3, draw, groups=width, dtype=dtype)
        self.W_1 = drawn_linear(width, 4 * width, draw, dtype=dtype)
        self.W_2 = drawn_linear(4 * width, width, draw, dtype=dtype)
        self.g = nn.Parameter(torch.full((width,), layer_scale, dtype=dtype))

    def forward(self, below: Tensor, above: Tensor | None = None) -> Tensor:
        """F, (B, width, H, W)."""
        u = _over_channels(self.norm_below, self.D(below))
        if self.U is not None and self.norm_above is not None and above is not None:
            lifted = _over_channels(self.norm_above, self.U(above))
            u = u + functional.interpolate(lifted, size=u.shape[2:], mode="nearest")
        v = self.norm_hidden(self.depthwise(u).permute(0, 2, 3, 1))
        v = self.g * self.W_2(functional.gelu(self.W_1(v)))
        out: Tensor = u + v.permute(0, 3, 1, 2)
        return out


def _over_channels(norm: nn.Module, image: Tensor) -> Tensor:
    out: Tensor = norm(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return out
