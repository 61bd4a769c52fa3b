"""Levels that lie evenly on both sides of zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Format
from driftwell.quantization.formats.format import Granularity


@final
@dataclass(frozen=True)
class Centred(Format):
    """Evenly spaced levels without a zero, what = scale (code - (2^b - 1) / 2).

    Of two bits all four levels, -3/2, -1/2, 1/2, 3/2, are used alike on both sides, where signed
    integers reach -2 but not 2. Twice the levels are odd integers, so products stay integer.

    Args:
        bits: bits a code, 1 to 7.
        per: "tensor" or "channel" (a row), what shares a scale.

    Raises:
        InvalidInput: more bits than fit into 8-bit integers.

    Example:
        >>> Centred(2).fake(torch.tensor([[-3.0, -0.8, 0.1, 3.0]]))
        tensor([[-3., -1.,  1.,  3.]])
    """

    bits: int = 2
    per: Granularity = "channel"

    def __post_init__(self) -> None:
        """Raise on a number of bits that cannot be."""
        if not 1 <= self.bits <= 7:
            raise InvalidInput(f"centred levels have 1 to 7 bits, not {self.bits!r}")
        if self.per not in ("tensor", "channel"):
            raise InvalidInput(f"centred levels are per tensor or channel, not {self.per!r}")

    @property
    def levels(self) -> Tensor:
        """0, 1, .., 2^bits - 1."""
        return torch.arange(1 << self.bits, dtype=torch.float64)

    @property
    def blocks(self) -> tuple[Granularity, int | None]:
        """As given."""
        return self.per, None

    def fit_blocks(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Scale that covers the range of each block."""
        half = 0.5 * ((1 << self.bits) - 1)
        scale = w.abs().amax(dim=2) / half
        return scale, torch.full_like(scale, half)
