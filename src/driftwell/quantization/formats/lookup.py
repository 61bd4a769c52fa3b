"""Unevenly spaced levels: powers of two and of its root, normal quantiles, any table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.formats.format import Format, Granularity, check_granularity
from driftwell.quantization.formats.packing import check_bits
from driftwell.quantization.formats.scale_search import least_squares_scale

ASQ = Paper(
    "zhou2025asq",
    "Precision Neural Network Quantization via Learnable Adaptive Modules",
    "Zhou, Wenqiang and Yu, Zhendong and Liu, Xinyu and Yang, Jiaming and Xiao, Rong and "
    "Wang, Tao and Tang, Chenwei and Lv, Jiancheng",
    2025,
    arxiv="2504.17263",
)
QLORA = Paper(
    "dettmers2023qlora",
    "QLoRA: Efficient Finetuning of Quantized LLMs",
    "Dettmers, Tim and Pagnoni, Artidoro and Holtzman, Ari and Zettlemoyer, Luke",
    2023,
    arxiv="2305.14314",
)


@final
@dataclass(frozen=True)
class PowerOfTwo(Format):
    """Powers of two and zero, scale * {0, +-2^-k : k = 0 .. 2^(b-1) - 2}: products are shifts.

    The scale is the least-squares one of each block.

    Args:
        bits: bits a code, 2 to 8.
        per: which weights share a scale.
        group_size: columns of a group.

    Example:
        >>> PowerOfTwo(3).levels.tolist()
        [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
    """

    bits: int = 4
    per: Granularity = "channel"
    group_size: int | None = None

    def __post_init__(self) -> None:
        """Raise on an argument that cannot be."""
        _check_signed(self.bits)
        check_granularity(self.per, self.group_size)

    @property
    def levels(self) -> Tensor:
        """Powers of two on both sides of zero."""
        return _signed_powers(self.bits, 1.0)

    @property
    def blocks(self) -> tuple[Granularity, int | None]:
        """As given."""
        return self.per, self.group_size

    def fit_blocks(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Least-squares scale of each block."""
        return least_squares_scale(w, self.levels)


@final
@dataclass(frozen=True)
class PowerOfSqrtTwo(Format):
    """Powers of sqrt(2) and zero (POST), scale * {0, +-2^(-k/2) : k = 0 .. 2^(b-1) - 2},
    from Zhou et al., *Precision Neural Network Quantization via Learnable Adaptive Modules*,
    2025, arXiv:2504.17263.

    Denser near the largest level than powers of two: even k are shifts, odd ones shifts of one
    product sqrt(2) x shared by all. The scale is the least-squares one of each block.

    Args:
        bits: bits a code, 2 to 8.
        per: which weights share a scale.
        group_size: columns of a group.

    Example:
        >>> [round(level, 3) for level in PowerOfSqrtTwo(3).levels.tolist()]
        [-1.0, -0.707, -0.5, 0.0, 0.5, 0.707, 1.0]
    """

    papers = (ASQ,)

    bits: int = 4
    per: Granularity = "channel"
    group_size: int | None = None

    def __post_init__(self) -> None:
        """Raise on an argument that cannot be."""
        _check_signed(self.bits)
        check_granularity(self.per, self.group_size)

    @property
    def levels(self) -> Tensor:
        """Powers of the root of two on both sides of zero."""
        return _signed_powers(self.bits, 0.5)

    @property
    def blocks(self) -> tuple[Granularity, int | None]:
        """As given."""
        return self.per, self.group_size

    def fit_blocks(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Least-squares scale of each block."""
        return least_squares_scale(w, self.levels)


@final
@dataclass(frozen=True)
class NormalFloat(Format):
    """Quantiles of a normal distribution, scaled to the largest weight of each group (NF4),
    from Dettmers et al., *QLoRA: Efficient Finetuning of Quantized LLMs*, 2023, arXiv:2305.14314.

    2^(b-1) levels above zero, 2^(b-1) - 1 below and an exact zero; the largest is 1, the
    smallest -1.

    Args:
        bits: bits a code, 2 to 8.
        per: which weights share a scale.
        group_size: columns of a group.

    Example:
        >>> [round(level, 3) for level in NormalFloat(2).levels.tolist()]
        [-1.0, 0.0, 0.436, 1.0]
    """

    papers = (QLORA,)

    bits: int = 4
    per: Granularity = "group"
    group_size: int | None = 64

    def __post_init__(self) -> None:
        """Raise on an argument that cannot be."""
        _check_signed(self.bits)
        check_granularity(self.per, self.group_size)

    @property
    def levels(self) -> Tensor:
        """Normal quantiles in [-1, 1]."""
        count = 1 << self.bits
        # half-way between the outermost quantiles of count and of count - 1 equal cells
        last = 1 - (1 / (2 * (count - 1)) + 1 / (2 * count)) / 2
        above = _normal_quantile(torch.linspace(last, 0.5, count // 2 + 1, dtype=torch.float64))
        below = _normal_quantile(torch.linspace(last, 0.5, count // 2, dtype=torch.float64))
        zero = torch.zeros(1, dtype=torch.float64)
        return torch.cat([-below[:-1], zero, above[:-1].flip(0)]) / above[0]

    @property
    def blocks(self) -> tuple[Granularity, int | None]:
        """As given."""
        return self.per, self.group_size

    def fit_blocks(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Largest magnitude of each block."""
        scale = w.abs().amax(dim=2)
        return scale, torch.zeros_like(scale)


@final
@dataclass(frozen=True)
class Codebook(Format):
    """Any table of levels, with the least-squares scale of each block.

    Args:
        table: the levels, ascending, 2 to 256 of them.
        per: which weights share a scale.
        group_size: columns of a group.

    Raises:
        InvalidInput: the table is not ascending, not finite or of a wrong length.

    Example:
        >>> Codebook((-1.0, 0.0, 1.0)).bits
        2
    """

    table: tuple[float, ...]
    per: Granularity = "channel"
    group_size: int | None = None

    def __post_init__(self) -> None:
        """Raise on a table that is none."""
        check_granularity(self.per, self.group_size)
        if not 2 <= len(self.table) <= 256:
            raise InvalidInput(f"a codebook has 2 to 256 levels, not {len(self.table)}")
        levels = torch.tensor(self.table, dtype=torch.float64)
        if not levels.isfinite().all() or not (levels.diff() > 0).all():
            raise InvalidInput("the levels of a codebook are finite and ascending")

    @property
    def bits(self) -> int:
        """The fewest bits that number all levels."""
        return (len(self.table) - 1).bit_length()

    @property
    def levels(self) -> Tensor:
        """As given."""
        return torch.tensor(self.table, dtype=torch.float64)

    @property
    def blocks(self) -> tuple[Granularity, int | None]:
        """As given."""
        return self.per, self.group_size

    def fit_blocks(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Least-squares scale of each block."""
        return least_squares_scale(w, self.levels)


def _signed_powers(bits: int, exponent: float) -> Tensor:
    """-1, .., -2^(-n exponent), 0, 2^(-n exponent), .., 1 with n + 1 = 2^(bits-1) - 1."""
    k = torch.arange((1 << (bits - 1)) - 1, dtype=torch.float64)
    magnitudes = torch.exp2(-k * exponent)
    return torch.cat([-magnitudes, torch.zeros(1, dtype=torch.float64), magnitudes.flip(0)])


def _normal_quantile(p: Tensor) -> Tensor:
    return 2**0.5 * torch.erfinv(2 * p - 1)


def _check_signed(bits: int) -> None:
    check_bits(bits)
    if bits < 2:
        raise InvalidInput("levels on both sides of zero need at least 2 bits; for 1 take Binary")
