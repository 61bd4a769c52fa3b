"""LBW-Net: weights 2^s * {0, +-1, +-1/2, ..}, so that products are shifts and sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Format, Grid, Quantized
from driftwell.quantization.formats.format import Granularity, check_granularity
from driftwell.quantization.formats.ternary import LBW_NET

__all__ = ["LowBitWidth", "shift_product"]

_INT32 = 2**31 - 1


@final
@dataclass(frozen=True)
class LowBitWidth(Format):
    """Powers of two with a power-of-two scale, from Yin, Zhang, Qi and Xin, *Quantization and
    Training of Low Bit-Width Convolutional Neural Networks for Object Detection*, 2016,
    arXiv:1612.06052.

        what in 2^s {0, +-2^-j : j = 0 .. n-1},   n = 2^(b-2),   s an integer

    By default s and the assignment are the exact least-squares pair. With |w| sorted, the saving
    |w|^2 - |w - what|^2 of the nearest levels at a scale is a sum over n intervals of prefix sums,

        R(s) = sum_j 2 2^(s-j) S_j - 4^(s-j) N_j,   S_j = sum of |w|, N_j = count of level j,

    and only s with 2^s <= 4/3 max|w| and 2^(s+1) |w|_1 >= R can be best: about log2 of the number
    of weights of them, so that a block costs its sorting.

    With a `threshold` gamma it is the paper's rule: mu = gamma max|w| splits the magnitudes at
    mu 2^-j, and then s is fitted. Its assignment is not the nearest one and is never better.

    Args:
        bits: b, 2 (ternary) to 8.
        per: which weights share a scale.
        group_size: columns of a group.
        threshold: gamma in (0, 1], the paper's is 3/4; None for the exact pair.

    Raises:
        InvalidInput: a setting out of range.

    Example:
        >>> LowBitWidth(4, "tensor").fake(torch.tensor([[4.1, -1.9, 0.6, 0.1]]))
        tensor([[ 4.0000, -2.0000,  0.5000,  0.0000]])
    """

    papers = (LBW_NET,)

    bits: int = 4
    per: Granularity = "channel"
    group_size: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Raise on an argument that cannot be."""
        check_granularity(self.per, self.group_size)
        if not 2 <= self.bits <= 8:
            raise InvalidInput(f"LowBitWidth(bits=...) must be 2 to 8, got {self.bits}")
        if self.threshold is not None and not 0.0 < self.threshold <= 1.0:
            raise InvalidInput(
                f"LowBitWidth(threshold=...) must be in (0, 1] or None, got {self.threshold}"
            )

    @property
    def powers(self) -> int:
        """n, the number of magnitudes beside zero."""
        return 1 << (self.bits - 2)

    @property
    def levels(self) -> Tensor:
        """-1, .., -2^(1-n), 0, 2^(1-n), .., 1."""
        powers = _powers(self.powers)
        return torch.cat([-powers, powers.new_zeros(1), powers.flip(0)])

    @property
    def blocks(self) -> tuple[Granularity, int | None]:
        """As given."""
        return self.per, self.group_size

    def fit_blocks(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """2^s of each block."""
        if self.threshold is None:
            scale = _exact_scale(w, self.powers)
        else:
            t = self._by_threshold(w).abs().to(torch.float64)
            correlation = (w.abs().to(torch.float64) * t).sum(dim=2)
            scale = _power_of_two(correlation / t.square().sum(dim=2).clamp(min=1e-300))
        scale = scale.to(w.dtype)
        return scale, torch.zeros_like(scale)

    def encode(self, w: Tensor, grid: Grid | None = None) -> Quantized:
        """`w` on its grid: by thresholds where those are asked for and no grid is given.

        Raises:
            InvalidInput: as `fit`.
        """
        if self.threshold is None or grid is not None:
            return super().encode(w, grid)
        grid = self.fit(w)
        matrix = self.matrix(w)
        rows, groups = (1, 1) if self.per == "tensor" else (len(matrix), grid.scale.shape[1])
        t = self._by_threshold(matrix.reshape(rows, groups, -1)).reshape(matrix.shape)
        codes = torch.searchsorted(grid.levels, t.contiguous()).to(torch.uint8)
        return Quantized(codes, grid, tuple(w.shape), w.dtype)

    def _by_threshold(self, w: Tensor) -> Tensor:
        """Levels t of blocks of weights, by the paper's rule."""
        mu = (self.threshold or 0.0) * w.abs().amax(dim=2, keepdim=True)
        rising = _powers(self.powers).flip(0).to(w)
        reached = torch.bucketize(
            w.abs() / mu.clamp(min=torch.finfo(w.dtype).tiny), rising, right=True
        )
        return torch.cat([rising.new_zeros(1), rising])[reached] * w.sign()


def shift_product(x: Tensor, weight: Quantized) -> Tensor:
    """x W_hat^T of integers x with shifts and sums alone, for weights of Yin et al., 2016,
    arXiv:1612.06052.

        y = 2^(s - n + 1) sum_c sign_c (x_c << (n - 1 - j_c)),   all but the last shift in int32

    A reference for hardware without multipliers, not a fast path of this machine.

    Args:
        x: (B, C) integers.
        weight: (R, C) in `LowBitWidth`, one scale for each row or for all.

    Returns:
        (B, R) float64, exact.

    Raises:
        InvalidInput: x is not of integers or does not fit, other levels, or a sum that int32
            cannot hold.

    Example:
        >>> w = torch.tensor([[4.0, -2.0, 0.0, 0.5]])
        >>> shift_product(torch.tensor([[1, 2, 3, 4]]), LowBitWidth(4).encode(w))
        tensor([[2.]], dtype=torch.float64)
    """
    codes, grid = weight.codes, weight.grid
    if x.is_floating_point() or x.ndim != 2 or x.shape[1] != codes.shape[1]:
        raise InvalidInput(
            f"shift_product needs integers (B, {codes.shape[1]}), got {x.dtype} {tuple(x.shape)}"
        )
    n = len(grid.levels) // 2
    expected = torch.cat([-_powers(n), torch.zeros(1), _powers(n).flip(0)])
    fits = len(grid.levels) == 2 * n + 1 and bool((grid.levels.cpu() == expected).all())
    exponent = torch.log2(grid.scale.double())
    if not fits or grid.scale.shape[1] > 1 or bool((exponent != exponent.round()).any()):
        raise InvalidInput(
            "shift_product needs the levels of LowBitWidth with a power-of-two scale for each row"
        )
    largest = int(x.long().abs().max())  # int8 has no 128
    if largest * x.shape[1] > _INT32 >> (n - 1):
        raise InvalidInput(
            f"{x.shape[1]} integers up to {largest}, shifted by up to {n - 1}, do not "
            "fit into int32: take fewer bits"
        )
    order = codes.to(torch.int32) - n  # -n .. n, its sign and its shift
    total = torch.zeros(len(x), len(codes), dtype=torch.int32, device=x.device)
    wide = x.to(torch.int32)
    for k in range(1, n + 1):
        shifted = wide << (k - 1)
        chosen = (order == k).int() - (order == -k).int()
        total += _signed_sums(shifted, chosen)
    return torch.ldexp(total.double(), exponent[:, 0] - (n - 1))


def _signed_sums(x: Tensor, sign: Tensor) -> Tensor:
    """sum_c sign[r, c] x[b, c] for signs -1, 0, 1, without products: (B, R) int32."""
    rows = []
    for one in sign:
        plus, minus = x[:, one > 0].sum(1), x[:, one < 0].sum(1)
        rows.append((plus - minus).to(torch.int32))
    return torch.stack(rows, dim=1)


def _powers(n: int) -> Tensor:
    """1, 1/2, .., 2^(1-n)."""
    return torch.exp2(-torch.arange(n, dtype=torch.float64))


def _power_of_two(free: Tensor) -> Tensor:
    """The power of two that is best in squared error where `free` is the best number."""
    # between 2^s and 2^(s+1) the cost switches at 1.5 * 2^s
    exponent = torch.log2((4 * free / 3).clamp(min=torch.finfo(torch.float64).tiny)).floor()
    return torch.where(free > 0, torch.exp2(exponent), torch.zeros_like(free))


def _exact_scale(w: Tensor, n: int) -> Tensor:
    """The least-squares 2^s of blocks (R', G, m); 0 for a block of zeros."""
    blocks = w.abs().reshape(-1, w.shape[2]).sort(dim=1).values
    prefix = blocks.to(torch.float64).cumsum(dim=1)
    prefix = torch.cat([torch.zeros_like(prefix[:, :1]), prefix], dim=1)
    top, total = blocks[:, -1].to(torch.float64), prefix[:, -1]
    best_scale = scale = _power_of_two(top)
    best = _saved(blocks, prefix, scale, n)
    while bool((scale * 2 * total > best).any()):  # no smaller scale can save more than this
        scale = scale / 2
        saved = _saved(blocks, prefix, scale, n)
        best_scale = torch.where(saved > best, scale, best_scale)
        best = torch.maximum(best, saved)
    return best_scale.reshape(w.shape[:2])


def _saved(blocks: Tensor, prefix: Tensor, scale: Tensor, n: int) -> Tensor:
    """R(s) of sorted blocks (K, m) with prefix sums (K, m+1) at scales (K,)."""
    levels = scale[:, None] * _powers(n).to(scale)  # descending
    edges = 0.75 * levels
    edges = torch.cat([edges[:, :-1], levels[:, -1:] / 2], dim=1)
    first = torch.searchsorted(blocks, edges.to(blocks.dtype))
    end = torch.full_like(first[:, :1], blocks.shape[1])
    last = torch.cat([end, first[:, :-1]], dim=1)
    sums = prefix.gather(1, last) - prefix.gather(1, first)
    return (2 * levels * sums - levels.square() * (last - first)).sum(dim=1)
