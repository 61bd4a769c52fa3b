"""Convolutions whose kernels are packed."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Self, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.quantization.execution import Activations
from driftwell.quantization.formats import Quantized
from driftwell.quantization.modules.activations import RoundedInput
from driftwell.quantization.modules.linear import check_shape
from driftwell.quantization.modules.packed_weight import PackedWeight

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d
_APPLIED = {1: functional.conv1d, 2: functional.conv2d}


class QuantizedConvolution(nn.Module, ABC):
    """A convolution with a packed kernel: y = conv(x, W_hat) + b.

    Groups, stride, padding (of any mode) and dilation are those of the float layer. An output
    channel's kernel is one row of the packed matrix. A kernel of one pixel, stride 1 and one group
    is a product and runs as one; others are decoded and convolved.

    Args:
        weight: the packed kernel (out, in / groups, *kernel).
        like: the layer whose settings and bias are taken.

    Raises:
        InvalidInput: a layer of another kind.
    """

    kind: ClassVar[type[Convolution]]
    """The float layer."""

    def __init__(self, weight: PackedWeight, like: Convolution) -> None:
        super().__init__()
        if not isinstance(like, self.kind):
            raise InvalidInput(f"{self.kind.__name__} is needed, got {type(like).__name__}")
        self.in_channels, self.out_channels = like.in_channels, like.out_channels
        self.kernel_size, self.stride = tuple(like.kernel_size), tuple(like.stride)
        self.padding, self.padding_mode = like.padding, like.padding_mode
        self.dilation, self.groups = tuple(like.dilation), like.groups
        self._padded = list(like._reversed_padding_repeated_twice)
        self.packed_weight = weight
        self.bias = None if like.bias is None else nn.Parameter(like.bias.detach().clone(), False)
        self.rounded_input: RoundedInput | None = None

    @classmethod
    def from_float(
        cls, layer: Convolution, quantized: Quantized, activations: Activations = "float"
    ) -> Self:
        """The layer with `quantized` in place of its weight."""
        check_shape(layer, quantized)
        return cls(PackedWeight(quantized.pack(), activations), layer)

    @property
    def weight(self) -> Tensor:
        """W_hat, decoded."""
        return self.packed_weight.decode()

    @property
    def is_product(self) -> bool:
        """Whether every output pixel depends on one input pixel, by one matrix."""
        ones = {*self.kernel_size, *self.stride} == {1}
        unpadded = self.padding == "valid" or not any(self._padded)
        return ones and unpadded and self.groups == 1

    def dequantized(self) -> Convolution:
        """A float layer with the rounded values."""
        layer: Convolution = nn.utils.skip_init(
            self.kind, self.in_channels, self.out_channels, self.kernel_size, stride=self.stride,
            padding=self.padding, dilation=self.dilation, groups=self.groups,
            bias=self.bias is not None, padding_mode=self.padding_mode,
            dtype=self.packed_weight.dtype, device=self.packed_weight.data.device,
        )  # fmt: skip
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            if self.bias is not None and layer.bias is not None:
                layer.bias.copy_(self.bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """conv(x, W_hat) + b."""
        if self.rounded_input is not None:
            x = self.rounded_input(x)
        if self.is_product:
            return self._product(x)
        padding: str | int | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            x, padding = functional.pad(x, self._padded, mode=self.padding_mode), 0
        apply = _APPLIED[len(self.kernel_size)]
        y: Tensor = apply(
            x, self.weight.to(x.dtype), self.bias, self.stride, padding, self.dilation, self.groups
        )
        return y

    def _product(self, x: Tensor) -> Tensor:
        channels = -len(self.kernel_size) - 1
        y = self.packed_weight.product(x.movedim(channels, -1))
        y = y if self.bias is None else y + self.bias
        return y.movedim(-1, channels)

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}"
        )


@final
class QuantizedConv1d(QuantizedConvolution):
    """nn.Conv1d with a packed kernel, see `QuantizedConvolution`.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> layer = nn.Conv1d(2, 3, 3, dilation=2)
        >>> small = QuantizedConv1d.from_float(layer, Uniform(8).encode(layer.weight.detach()))
        >>> small(torch.ones(1, 2, 9)).shape
        torch.Size([1, 3, 5])
    """

    kind = nn.Conv1d


@final
class QuantizedConv2d(QuantizedConvolution):
    """nn.Conv2d with a packed kernel, see `QuantizedConvolution`.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> layer = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        >>> small = QuantizedConv2d.from_float(layer, Uniform(8).encode(layer.weight.detach()))
        >>> x = torch.ones(1, 4, 5, 5)
        >>> bool((small(x) - layer(x)).abs().max() < 0.05)
        True
    """

    kind = nn.Conv2d
