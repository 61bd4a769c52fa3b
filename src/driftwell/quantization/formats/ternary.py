"""One and three levels a sign: binary and ternary weights with the least-squares scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.papers import Paper
from driftwell.quantization.formats.format import Format, Granularity, check_granularity

LBW_NET = Paper(
    "yin2016lbwnet",
    "Quantization and Training of Low Bit-Width Convolutional Neural Networks for Object Detection",
    "Yin, Penghang and Zhang, Shuai and Qi, Yingyong and Xin, Jack",
    2016,
    arxiv="1612.06052",
)


@final
@dataclass(frozen=True)
class Binary(Format):
    """Two levels, scale * {-1, 1} with scale = mean|w|, the least-squares one; 0 rounds up.

    Example:
        >>> Binary().fake(torch.tensor([[-1.0, 0.0, 2.0]]))
        tensor([[-1.,  1.,  1.]])
    """

    per: Granularity = "channel"
    group_size: int | None = None

    def __post_init__(self) -> None:
        """Raise on an argument that cannot be."""
        check_granularity(self.per, self.group_size)

    @property
    def bits(self) -> int:
        """One."""
        return 1

    @property
    def levels(self) -> Tensor:
        """-1 and 1."""
        return torch.tensor([-1.0, 1.0], dtype=torch.float64)

    @property
    def blocks(self) -> tuple[Granularity, int | None]:
        """As given."""
        return self.per, self.group_size

    def fit_blocks(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Mean magnitude of each block."""
        scale = w.abs().mean(dim=2)
        return scale, torch.zeros_like(scale)


@final
@dataclass(frozen=True)
class Ternary(Format):
    """Three levels, scale * {-1, 0, 1}: the exact least-squares solution in O(N log N),
    from Yin, Zhang, Qi and Xin, *Quantization and Training of Low Bit-Width Convolutional Neural
    Networks for Object Detection*, 2016, arXiv:1612.06052.

    With |w| sorted descending and S_k the sum of the k largest, keeping k weights costs
    |w|^2 - S_k^2 / k at the scale S_k / k; the best k maximises S_k^2 / k. For scales 2^s the
    cost is |w|^2 + k 4^s - 2 2^s S_k at s_k = floor(log2(4 S_k / (3 k))), and the best k
    minimises it.

    Args:
        per: which weights share a scale.
        group_size: columns of a group.
        power_of_two: scales are powers of two, so that products are shifts.

    Example:
        >>> Ternary(per="tensor").fake(torch.tensor([[0.9, -1.1, 0.2]]))
        tensor([[ 1., -1.,  0.]])
    """

    papers = (LBW_NET,)

    per: Granularity = "channel"
    group_size: int | None = None
    power_of_two: bool = False

    def __post_init__(self) -> None:
        """Raise on an argument that cannot be."""
        check_granularity(self.per, self.group_size)

    @property
    def bits(self) -> int:
        """Two."""
        return 2

    @property
    def levels(self) -> Tensor:
        """-1, 0 and 1."""
        return torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)

    @property
    def blocks(self) -> tuple[Granularity, int | None]:
        """As given."""
        return self.per, self.group_size

    def fit_blocks(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The best scale of each block."""
        s = w.abs().sort(dim=2, descending=True).values.to(torch.float64).cumsum(dim=2)
        k = torch.arange(1, w.shape[2] + 1, dtype=torch.float64, device=w.device)
        if self.power_of_two:
            scales = _power_of_two_scale(s, k)
            best = (k * scales**2 - 2 * scales * s).argmin(dim=2, keepdim=True)
        else:
            scales = s / k
            best = (s * scales).argmax(dim=2, keepdim=True)
        scale = scales.gather(2, best)[..., 0].to(w.dtype)
        return scale, torch.zeros_like(scale)


def _power_of_two_scale(correlation: Tensor, energy: Tensor) -> Tensor:
    """The power of two nearest in squared error to correlation / energy; 0 where that is 0."""
    free = correlation / energy
    # between 2^s and 2^(s+1) the cost switches at 1.5 * 2^s
    exponent = torch.log2((4 * free / 3).clamp(min=torch.finfo(torch.float64).tiny)).floor()
    return torch.where(free > 0, torch.exp2(exponent), torch.zeros_like(free))
