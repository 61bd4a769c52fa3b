"""Distances between two clouds of points: energy distance, MMD, sliced Wasserstein."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.measures.neighbours import as_vectors, same_size, squared_distance_blocks

__all__ = ["energy_distance", "mmd_rbf", "sliced_wasserstein"]

_MEDIAN_POINTS = 1000


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Energy distance (Szekely and Rizzo, *Energy statistics*, 2013), unbiased.

        D = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

    0 for equal laws and only for them; the unbiased estimate scatters about 0 and may be
    negative.

    Args:
        x: (n, d) or (n, height, width), n >= 2.
        y: (m, ...) of the same size, m >= 2.

    Returns:
        In units of the samples.

    Raises:
        InvalidInput: different sizes, fewer than two samples, or NaN/Inf.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> energy_distance(x, x + 10.0)
        18.0
    """
    a, b = _pair(x, y)
    n, m = len(a), len(b)
    cross = _mean_distance(a, b)
    return 2.0 * cross - _mean_distance(a, a) * n / (n - 1) - _mean_distance(b, b) * m / (m - 1)


def _mean_distance(a: Tensor, b: Tensor) -> float:
    total = 0.0
    for start, block in squared_distance_blocks(a, b):
        if a is b:
            rows = torch.arange(len(block), device=block.device)
            block[rows, rows + start] = 0.0
        total += float(block.sqrt().sum())
    return total / (len(a) * len(b))


def mmd_rbf(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy with a Gaussian kernel (Gretton et al., *A kernel
    two-sample test*, 2012), unbiased.

        MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y),    k(u, v) = exp(-|u - v|^2 / (2 h^2))

    Args:
        x: (n, d) or (n, height, width), n >= 2.
        y: (m, ...) of the same size, m >= 2.
        bandwidth: h, in units of the samples; None: the median distance between points of the
            pooled set (of the first 1000 of each).

    Returns:
        Without units; scatters about 0, and may be negative, for equal laws.

    Raises:
        InvalidInput: different sizes, fewer than two samples, NaN/Inf, or a bandwidth that is
            not positive (a pooled set of equal points has none).

    Example:
        >>> x = torch.tensor([[0.0], [0.0]])
        >>> round(mmd_rbf(x, x + 1.0, bandwidth=1.0), 4)    # 2 - 2 exp(-1/2)
        0.7869
    """
    a, b = _pair(x, y)
    h = _median_distance(a, b) if bandwidth is None else bandwidth
    if not h > 0.0:
        raise InvalidInput(
            f"the bandwidth of the kernel must be above 0, not {h:g}: give one, or samples that "
            "are not all equal"
        )
    n, m = len(a), len(b)
    # k(u, u) = 1 is taken out of the means within a set.
    within_a = (n * _mean_kernel(a, a, h) - 1.0) / (n - 1)
    within_b = (m * _mean_kernel(b, b, h) - 1.0) / (m - 1)
    return within_a + within_b - 2.0 * _mean_kernel(a, b, h)


def _mean_kernel(a: Tensor, b: Tensor, h: float) -> float:
    blocks = squared_distance_blocks(a, b)
    total = sum(float(block.mul_(-0.5 / h**2).exp_().sum()) for _, block in blocks)
    return total / (len(a) * len(b))


def _median_distance(a: Tensor, b: Tensor) -> float:
    pool = torch.cat([a[:_MEDIAN_POINTS], b[:_MEDIAN_POINTS]])
    return float(torch.pdist(pool).median())


def sliced_wasserstein(x: Tensor, y: Tensor, *, seed: int, projections: int = 256) -> float:
    """Sliced Wasserstein-2 distance (Bonneel et al., *Sliced and Radon Wasserstein barycenters*,
    2015), over keyed random directions.

        SW2^2 = E_theta W2^2(theta.X, theta.Y),    |theta| = 1

    with the one-dimensional W2 exact, for sets of any two sizes.

    Args:
        x: (n, d) or (n, height, width).
        y: (m, ...) of the same size.
        seed: of the directions.
        projections: how many.

    Returns:
        SW2, in units of the samples.

    Raises:
        InvalidInput: different sizes, an empty set, NaN/Inf, or no projection.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> sliced_wasserstein(x, x + 3.0, seed=0)
        3.0
    """
    a, b = as_vectors(x, "x"), as_vectors(y, "y")
    same_size(a, b, "x", "y")
    if projections < 1:
        raise InvalidInput(f"at least one projection is needed, not {projections}")
    theta = normal(
        (projections, a.shape[1]), seed=seed, purpose=Purpose.PROBE, chains=projections, step=11,
        dtype=torch.float64, device=a.device,
    )  # fmt: skip
    theta = theta / theta.norm(dim=1, keepdim=True)
    left, right = (a @ theta.T).sort(0).values, (b @ theta.T).sort(0).values
    # Both quantile functions are steps: integrate over the union of their jumps k/n and k/m,
    # counted in units of 1/(n m) to be exact.
    n, m = len(a), len(b)
    jumps = torch.cat([torch.arange(n, device=a.device) * m, torch.arange(m, device=a.device) * n])
    starts = jumps.unique()
    ends = torch.cat([starts[1:], starts.new_tensor([n * m])])
    gap = (left[starts // m] - right[starts // n]).square()
    squared = ((ends - starts)[:, None] * gap).sum(0) / (n * m)
    return math.sqrt(float(squared.mean()))


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    a, b = as_vectors(x, "x"), as_vectors(y, "y")
    same_size(a, b, "x", "y")
    if len(a) < 2 or len(b) < 2:
        raise InvalidInput(
            f"an unbiased distance needs two or more samples of each, not {len(a)} and {len(b)}"
        )
    return a, b
