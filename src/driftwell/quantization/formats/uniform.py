"""Evenly spaced levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.quantization.formats.format import Format, Granularity, check_granularity
from driftwell.quantization.formats.packing import check_bits


@final
@dataclass(frozen=True)
class Uniform(Format):
    """Evenly spaced levels over the range of each block, what = scale (code - zero).

    Affine: codes 0 .. 2^b - 1 cover [min(w, 0), max(w, 0)] with an integer zero, so 0 is exact.
    Symmetric: zero = 2^(b-1), so code - zero is a signed integer, and the scale is
    max|w| / (2^(b-1) - 1); with one bit the levels are -scale/2 and scale/2, and the scale is
    2 mean|w|, the least-squares one.

    Args:
        bits: bits a code, 1 to 8.
        symmetric: signed integers around an exact zero.
        per: which weights share a scale: "tensor", "channel" (a row) or "group".
        group_size: columns of a group.

    Raises:
        InvalidInput: an argument that cannot be.

    Example:
        >>> Uniform(2).fake(torch.tensor([[-1.0, 0.1, 0.8, 2.0]]))
        tensor([[-1.,  0.,  1.,  2.]])
    """

    bits: int = 4
    symmetric: bool = False
    per: Granularity = "channel"
    group_size: int | None = None

    def __post_init__(self) -> None:
        """Raise on an argument that cannot be."""
        check_bits(self.bits)
        check_granularity(self.per, self.group_size)

    @property
    def levels(self) -> Tensor:
        """0, 1, .., 2^bits - 1."""
        return torch.arange(1 << self.bits, dtype=torch.float64)

    @property
    def blocks(self) -> tuple[Granularity, int | None]:
        """As given."""
        return self.per, self.group_size

    def fit_blocks(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero that cover the range of each block."""
        half = 1 << (self.bits - 1)
        if self.symmetric and self.bits == 1:
            scale = 2 * w.abs().mean(dim=2)
            return scale, torch.full_like(scale, 0.5)
        if self.symmetric:
            scale = w.abs().amax(dim=2) / (half - 1)
            return scale, torch.full_like(scale, float(half))
        low, high = w.amin(dim=2).clamp(max=0), w.amax(dim=2).clamp(min=0)
        scale = (high - low) / (2 * half - 1)
        safe = torch.where(scale > 0, scale, torch.ones_like(scale))
        return scale, (-low / safe).round()
