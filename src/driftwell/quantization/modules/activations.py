"""Static rounding of a layer's inputs: one scale for all, found on calibration states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput

RULES = ("minmax", "mse", "percentile")


@final
@dataclass(frozen=True)
class StaticActivations:
    """Inputs of every quantized layer on one fixed b-bit grid each, as integer-only hardware and
    exported graphs want them; the range is found on the states of the calibration.

    Args:
        bits: b, 2 to 16.
        rule: ``"mse"`` (least mean square rounding error), ``"minmax"`` or ``"percentile"``.

    Raises:
        InvalidInput: bits outside 2 .. 16, or another rule.

    Example:
        >>> StaticActivations(bits=6)
        StaticActivations(bits=6, rule='mse')
    """

    bits: int = 8
    rule: str = "mse"

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 16:
            raise InvalidInput(f"StaticActivations(bits=...) must be 2 to 16, got {self.bits!r}")
        if self.rule not in RULES:
            raise InvalidInput(
                f"StaticActivations(rule=...) must be one of {', '.join(RULES)}, got {self.rule!r}"
            )


@final
class RoundedInput(nn.Module):
    """x on the b-bit uniform grid of [low, high], both ends and zero included.

        q = clamp(round(x / s) + z, 0, 2^b - 1),   x_hat = s (q - z),   s = (high - low) / (2^b - 1)

    Args:
        bits: b.
        low: least value that is not clipped; at most zero is used.
        high: largest such value; at least zero is used.

    Raises:
        InvalidInput: a range that is not finite or is empty.

    Example:
        >>> RoundedInput(2, 0.0, 3.0)(torch.tensor([-1.0, 0.4, 1.6, 9.0]))
        tensor([0., 0., 2., 3.])
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int, low: float, high: float) -> None:
        super().__init__()
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        if not low < high or high - low == float("inf"):
            raise InvalidInput(f"a range of inputs must be finite and not empty, got {low}, {high}")
        self.bits = bits
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    @property
    def scale(self) -> Tensor:
        """s, the distance of two neighbours."""
        step: Tensor = (self.high - self.low) / (2**self.bits - 1)
        return step

    @property
    def zero_point(self) -> Tensor:
        """z, the code of zero."""
        return torch.round(-self.low / self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """x_hat, like x."""
        s, z = self.scale.to(x.dtype), self.zero_point.to(x.dtype)
        rounded: Tensor = s * (torch.clamp(torch.round(x / s) + z, 0, 2**self.bits - 1) - z)
        return rounded

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return f"bits={self.bits}, low={float(self.low):.4g}, high={float(self.high):.4g}"
