"""Products with power-of-two and power-of-sqrt(2) weights by integer shifts alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Quantized

__all__ = ["shifted_products"]


def shifted_products(x: Tensor, weight: Quantized, fraction: int = 8) -> tuple[Tensor, Tensor]:
    """x what^T by shifts and additions of integers, from Zhou et al., *Precision Neural Network
    Quantization via Learnable Adaptive Modules*, 2025, arXiv:2504.17263.

        what = scale * (+-2^(-k/2) or 0);    with K the largest k, rounded up to even:
        even k:  x << (K - k)/2 + fraction
        odd k:   y << (K - k - 1)/2,    y = round(sqrt(2) x 2^fraction), once for each x

    so the table of products of one x has two multiplicands, and only y is rounded:
    |error| <= 2^(K/2) / 2 (in the units of the integers) for each weight with odd k. Powers of two
    are exact.

    Args:
        x: integers (B, C), such as activation codes.
        weight: codes (R, C) in `PowerOfTwo` or `PowerOfSqrtTwo`, one scale for each row.
        fraction: bits after the point of sqrt(2) x, 0 to 30.

    Returns:
        Sums (B, R) int64 and units (R,): integers * units is x what^T.

    Raises:
        InvalidInput: x is not integer or does not fit, levels that are other numbers, or a scale
            for each group of columns.

    Example:
        >>> from driftwell.quantization.formats import PowerOfTwo
        >>> weight = PowerOfTwo(3).encode(torch.tensor([[1.0, -0.5, 0.25]]))
        >>> whole, unit = shifted_products(torch.tensor([[3, 5, 8]]), weight)
        >>> whole * unit  # 3 - 2.5 + 2
        tensor([[2.5000]])
    """
    codes, grid = weight.codes, weight.grid
    if x.is_floating_point() or x.ndim != 2 or x.shape[1] != codes.shape[1]:
        raise InvalidInput(
            f"shifts need integers (B, {codes.shape[1]}), got {tuple(x.shape)} {x.dtype}"
        )
    if grid.scale.shape[1] != 1 or bool((grid.zero != 0).any()):
        raise InvalidInput("shifts need one scale for each row and an exact zero")
    if not 0 <= fraction <= 30:
        raise InvalidInput(f"fraction must be 0 to 30 bits, got {fraction}")
    halves = _halves(grid.levels)
    top = max(k for _, k in halves if k >= 0)
    top += top % 2
    whole = x.to(torch.int64)
    root = (whole.double() * (math.sqrt(2.0) * 2.0**fraction)).round().to(torch.int64)
    total = torch.zeros(len(x), len(codes), dtype=torch.int64, device=x.device)
    for code, (sign, k) in enumerate(halves):
        if k < 0:
            continue
        multiplicand, shift = (
            (root, (top - k - 1) // 2) if k % 2 else (whole, (top - k) // 2 + fraction)
        )
        chosen = (codes == code).to(torch.int64)
        total += sign * ((multiplicand @ chosen.T) << shift)
    unit = grid.scale[:, 0].expand(len(codes)) * 2.0 ** -(top // 2 + fraction)
    return total, unit


def _halves(levels: Tensor) -> list[tuple[int, int]]:
    """Sign and k of each level +-2^(-k/2); k = -1 for zero."""
    found = []
    for level in levels.tolist():
        k = -1 if level == 0 else round(-2 * math.log2(abs(level)))
        if level != 0 and (k < 0 or abs(abs(level) - 2 ** (-k / 2)) > 1e-6 * abs(level)):
            raise InvalidInput(
                f"{level} is not a power of sqrt(2) up to 1: take PowerOfTwo or PowerOfSqrtTwo"
            )
        found.append((1 if level > 0 else -1, k))
    return found
