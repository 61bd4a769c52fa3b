"""Layers whose start weights come from a generator that is handed in: no global random state."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def drawn_linear(
    inputs: int,
    outputs: int,
    draw: torch.Generator,
    *,
    gain: float = 1.0,
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
) -> nn.Linear:
    """A linear layer with weights N(0, gain^2 / inputs) and no offset to start with.

    Args:
        inputs: entries in.
        outputs: entries out.
        draw: source of the start weights.
        gain: their scale; 1 keeps the variance of what passes.
        bias: whether an offset is learned.
        dtype: of the weights.

    Example:
        >>> layer = drawn_linear(2, 3, torch.Generator().manual_seed(0))
        >>> layer(torch.zeros(1, 2)).detach()
        tensor([[0., 0., 0.]])
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias, dtype=dtype)
    _fill(layer.weight, layer.bias, draw, gain / math.sqrt(inputs))
    return layer


def drawn_conv(
    inputs: int,
    outputs: int,
    size: int,
    draw: torch.Generator,
    *,
    stride: int = 1,
    groups: int = 1,
    gain: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> nn.Conv2d:
    """A convolution with weights N(0, gain^2 / fan-in) and no offset to start with.

    It is padded so that at stride 1 an odd `size` keeps the image's size, and at a stride that
    equals an even `size` it tiles the image.

    Args:
        inputs: channels in.
        outputs: channels out.
        size: of the square kernel.
        draw: source of the start weights.
        stride: of the kernel.
        groups: of channels; `inputs` of them make it depthwise.
        gain: scale of the weights; 1 keeps the variance of what passes.
        dtype: of the weights.

    Example:
        >>> layer = drawn_conv(1, 4, 3, torch.Generator().manual_seed(0), stride=2)
        >>> layer(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 4, 4, 4])
    """
    layer: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d, inputs, outputs, size, stride=stride, padding=(size - 1) // 2, groups=groups,
        dtype=dtype,
    )  # fmt: skip
    _fill(layer.weight, layer.bias, draw, gain / math.sqrt(layer.weight[0].numel()))
    return layer


def _fill(weight: Tensor, bias: Tensor | None, draw: torch.Generator, scale: float) -> None:
    with torch.no_grad():
        weight.copy_(scale * torch.randn(weight.shape, generator=draw, dtype=weight.dtype))
        if bias is not None:
            bias.zero_()
