"""A linear layer whose matrix is packed."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.execution import Activations
from driftwell.quantization.formats import Quantized
from driftwell.quantization.modules.activations import RoundedInput
from driftwell.quantization.modules.packed_weight import PackedWeight


@final
class QuantizedLinear(nn.Module):
    """Linear layer with a packed matrix: y = x W_hat^T + b.

    Its buffers are the packed bytes, the scales and the zeros; the bias stays in float. `weight`
    decodes: code that reads a layer's weight, as torch's attention does, sees the rounded values.

    Args:
        weight: the packed matrix (out, in).
        bias: b (out,), or None.

    Raises:
        InvalidInput: a bias of another length.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> layer = nn.Linear(4, 3)
        >>> small = QuantizedLinear.from_float(layer, Uniform(8).encode(layer.weight.detach()))
        >>> x = torch.ones(2, 4)
        >>> bool((small(x) - layer(x)).abs().max() < 0.02)
        True
    """

    def __init__(self, weight: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        if bias is not None and bias.shape != (self.out_features,):
            raise InvalidInput(
                f"a bias of {self.out_features} entries is needed, got {tuple(bias.shape)}"
            )
        self.packed_weight = weight
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), False)
        self.rounded_input: RoundedInput | None = None

    @classmethod
    def from_float(
        cls, layer: nn.Linear, quantized: Quantized, activations: Activations = "float"
    ) -> QuantizedLinear:
        """The layer with `quantized` in place of its weight."""
        check_shape(layer, quantized)
        return cls(PackedWeight(quantized.pack(), activations), layer.bias)

    @property
    def weight(self) -> Tensor:
        """W_hat (out, in), decoded."""
        return self.packed_weight.decode()

    def dequantized(self) -> nn.Linear:
        """A float layer with the rounded values."""
        layer: nn.Linear = nn.utils.skip_init(
            nn.Linear, self.in_features, self.out_features, bias=self.bias is not None,
            dtype=self.packed_weight.dtype, device=self.packed_weight.data.device,
        )  # fmt: skip
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """x W_hat^T + b, (..., out)."""
        if self.rounded_input is not None:
            x = self.rounded_input(x)
        y = self.packed_weight.product(x)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


def check_shape(layer: nn.Module, quantized: Quantized) -> None:
    """Refuse codes that were made of another weight.

    Raises:
        InvalidInput: the shapes differ.
    """
    shape = tuple(layer.weight.shape)  # type: ignore[arg-type]
    if tuple(quantized.shape) != shape:
        raise InvalidInput(
            f"the codes are of a weight {tuple(quantized.shape)}, this {type(layer).__name__} has "
            f"{shape}: encode this layer's own weight"
        )
