"""Quantized activations: steps and staircases, each with a straight-through estimator."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.training_aware.straight_through import (
    YIN_STE,
    ClippedReLUSTE,
    ClippedSTE,
    StraightThrough,
    through,
)

__all__ = ["BinaryActivation", "QuantizedReLU", "Sign"]


@final
class BinaryActivation(nn.Module):
    """The unit step 1[x > 0] with a straight-through backward, from Yin et al., *Understanding
    Straight-Through Estimator in Training Activation Quantized Neural Nets*, 2019,
    arXiv:1903.05662.

    Args:
        ste: the surrogate derivative.

    Example:
        >>> BinaryActivation()(torch.tensor([-1.0, 0.0, 0.3]))
        tensor([0., 0., 1.])
    """

    papers = (YIN_STE,)

    def __init__(self, ste: StraightThrough = ClippedReLUSTE(1.0)) -> None:
        super().__init__()
        self.ste = ste

    def forward(self, x: Tensor) -> Tensor:
        """1[x > 0] in the shape and dtype of x."""
        return through(_or_nan((x > 0).to(x.dtype), x), x, self.ste)

    def extra_repr(self) -> str:
        """The surrogate."""
        return repr(self.ste)


@final
class QuantizedReLU(nn.Module):
    """The staircase ReLU of b bits, from Yin et al., 2019, arXiv:1903.05662.

        q(x) = step * min(ceil(x / step), 2^b - 1) for x > 0, else 0

    It rises in the middle (ceil, not round), so one bit with step 1 is the unit step.

    Args:
        bits: b, 1 to 8.
        step: height and width of a stair, > 0, in the units of x.
        ste: the surrogate derivative; by default the clipped ReLU whose limit is the top stair.

    Raises:
        InvalidInput: bits or step out of range.

    Example:
        >>> QuantizedReLU(2, 0.5)(torch.tensor([-1.0, 0.2, 0.5, 0.6, 9.0]))
        tensor([0.0000, 0.5000, 0.5000, 1.0000, 1.5000])
    """

    papers = (YIN_STE,)

    def __init__(self, bits: int, step: float = 1.0, ste: StraightThrough | None = None) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise InvalidInput(f"QuantizedReLU(bits=...) must be 1 to 8, got {bits}")
        if not 0.0 < step < math.inf:
            raise InvalidInput(f"QuantizedReLU(step=...) must be a positive number, got {step}")
        self.bits, self.step = bits, step
        self.ste = ClippedReLUSTE(self.top) if ste is None else ste

    @property
    def top(self) -> float:
        """The value of the highest stair, step * (2^b - 1)."""
        return self.step * float(2**self.bits - 1)

    def forward(self, x: Tensor) -> Tensor:
        """q(x) in the shape and dtype of x."""
        stair = torch.ceil(x.detach() / self.step).clamp(0, 2**self.bits - 1)
        return through(self.step * stair, x, self.ste)

    def extra_repr(self) -> str:
        """Bits, step and surrogate."""
        return f"{self.bits}, {self.step}, {self.ste}"


@final
class Sign(nn.Module):
    """The sign with sign(0) = +1 and a straight-through backward; see Yin et al., 2019,
    arXiv:1903.05662.

    Args:
        ste: the surrogate derivative.

    Example:
        >>> Sign()(torch.tensor([-2.0, 0.0, 0.1]))
        tensor([-1.,  1.,  1.])
    """

    papers = (YIN_STE,)

    def __init__(self, ste: StraightThrough = ClippedSTE(1.0)) -> None:
        super().__init__()
        self.ste = ste

    def forward(self, x: Tensor) -> Tensor:
        """+1 where x >= 0, else -1."""
        return through(_or_nan(2 * (x >= 0).to(x.dtype) - 1, x), x, self.ste)

    def extra_repr(self) -> str:
        """The surrogate."""
        return repr(self.ste)


def _or_nan(step: Tensor, x: Tensor) -> Tensor:
    # a comparison turns NaN into a level, and a diverged network would look healthy
    return torch.where(x.isnan(), x, step)
