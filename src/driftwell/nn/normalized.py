"""Normalised weights: bounds on the gain of a layer, as torch parametrizations.

    layer = nn.Linear(64, 64)
    nn.utils.parametrize.register_parametrization(layer, "weight", SpectralBound(0.9))

A weight within the bound is left as it is. Inside ``nn.utils.parametrize.cached()`` it is computed
once for all evaluations of a solve.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper

DUCHI = Paper(
    key="duchi2008l1",
    title="Efficient projections onto the l1-ball for learning in high dimensions",
    authors="Duchi, John and Shalev-Shwartz, Shai and Singer, Yoram and Chandra, Tushar",
    year=2008,
    venue="ICML 2008",
    doi="10.1145/1390156.1390191",
)


def project_l1_ball(W: Tensor, radius: float) -> Tensor:
    """Nearest matrix whose rows have l1 norm at most `radius`, from Duchi et al., *Efficient
    projections onto the l1-ball for learning in high dimensions*, ICML 2008.

    With |w| sorted, u_1 >= u_2 >= ..., a row outside the ball is shrunk by theta:

        theta = (u_1 + ... + u_r - radius) / r,   r the last k with k u_k > u_1 + ... + u_k - radius
        w <- sign(w) max(|w| - theta, 0)

    Exact, by one sort; differentiable almost everywhere; rows inside come back as they are.

    Args:
        W: (n, d) floating point.
        radius: of the ball, > 0.

    Raises:
        InvalidInput: a radius that is not positive, or W not a matrix.

    Example:
        >>> project_l1_ball(torch.tensor([[3.0, 1.0], [0.2, -0.3]]), 1.0)
        tensor([[ 1.0000,  0.0000],
                [ 0.2000, -0.3000]])
    """
    if not 0.0 < radius < float("inf"):
        raise InvalidInput(f"the radius of an l1 ball must be positive and finite, got {radius}")
    if W.ndim != 2:
        raise InvalidInput(f"W must be a matrix (n, d), got shape {tuple(W.shape)}")
    size = W.abs()
    u = size.sort(dim=1, descending=True).values
    k = torch.arange(1, W.shape[1] + 1, dtype=W.dtype, device=W.device)
    excess = u.cumsum(dim=1) - radius
    last = (k * u > excess).sum(dim=1, keepdim=True).clamp_min(1)
    theta = excess.gather(1, last - 1) / last
    outside = size.sum(dim=1, keepdim=True) > radius
    return torch.where(outside, W.sign() * (size - theta).clamp_min(0.0), W)


@final
class SpectralBound(nn.Module):
    """Weight with spectral norm at most `limit`, exactly: W <- W min(1, limit / |W|_2).

    The norm is that of a full decomposition, O(n^3) each time; `PowerSpectralBound` estimates it.
    The layer is then `limit`-Lipschitz between Euclidean norms, and z <- phi(W z + x) a contraction
    for limit < 1 and a 1-Lipschitz phi.

    Args:
        limit: positive.

    Raises:
        InvalidInput: limit not positive.

    Example:
        >>> SpectralBound(1.0)(torch.diag(torch.tensor([4.0, 2.0])))
        tensor([[1.0000, 0.0000],
                [0.0000, 0.5000]])
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = _positive("SpectralBound", limit)

    def forward(self, weight: Tensor) -> Tensor:
        """W within the bound; weights of more dimensions are taken as (rows, everything else)."""
        norm = torch.linalg.matrix_norm(weight.flatten(1), 2)
        return weight * _factor(norm, self.limit)


@final
class RowSumBound(nn.Module):
    """Weight with row sums sum_j |W_ij| at most `limit`, by projection of each row on the l1 ball.

    |W|_inf <= limit is the well-posedness condition of implicit graph networks (Gu et al.,
    *Implicit Graph Neural Networks*, 2020, arXiv:2009.06211): below 1, z <- phi(W z + x) contracts
    in the largest entry. The projection is the nearest such weight and sets entries to zero.

    Args:
        limit: positive.

    Raises:
        InvalidInput: limit not positive.

    Example:
        >>> RowSumBound(1.0)(torch.tensor([[2.0, 1.5], [0.3, -0.3]]))
        tensor([[ 0.7500,  0.2500],
                [ 0.3000, -0.3000]])
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = _positive("RowSumBound", limit)

    def forward(self, weight: Tensor) -> Tensor:
        """W with its rows in the ball."""
        return project_l1_ball(weight.flatten(1), self.limit).reshape(weight.shape)


@final
class PowerSpectralBound(nn.Module):
    """Weight with spectral norm at most `limit`, estimated by power iteration, from Miyato et al.,
    *Spectral Normalization for Generative Adversarial Networks*, 2018, arXiv:1802.05957.

    Power iteration on W^T W goes on from where it stopped, by `iterations` steps at every call in
    training mode and none in evaluation. The estimate is never above the true norm: soon after
    large changes of W the bound may be exceeded; `SpectralBound` is exact.

    Args:
        limit: positive.
        rows: size of the weight's first dimension.
        iterations: at least 1.
        seed: of the start vector.

    Raises:
        InvalidInput: a setting out of range.

    Example:
        >>> bound = PowerSpectralBound(1.0, rows=2, iterations=20)
        >>> bound(torch.diag(torch.tensor([4.0, 2.0])))
        tensor([[1.0000, 0.0000],
                [0.0000, 0.5000]])
    """

    direction: Tensor

    def __init__(self, limit: float, rows: int, iterations: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.limit = _positive("PowerSpectralBound", limit)
        if rows < 1 or iterations < 1:
            raise InvalidInput(
                f"rows and iterations must be at least 1, got {rows} and {iterations}"
            )
        self.iterations = iterations
        start = normal((1, rows), seed=seed, purpose=Purpose.PROBE, chains=1, step=0)[0]
        self.register_buffer("direction", start / start.norm())

    def forward(self, weight: Tensor) -> Tensor:
        """W over the estimate of its norm, if that is above the limit."""
        W = weight.flatten(1)
        u, v = self._directions(W.detach())
        return weight * _factor(u @ W @ v, self.limit)

    def _directions(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """Left and right singular direction; the left one is kept for the next call."""
        u = self.direction.to(W.dtype)
        v = nn.functional.normalize(W.T @ u, dim=0)
        if self.training:
            for _ in range(self.iterations):
                u = nn.functional.normalize(W @ v, dim=0)
                v = nn.functional.normalize(W.T @ u, dim=0)
            self.direction.copy_(u)
        return u.clone(), v


def _factor(norm: Tensor, limit: float) -> Tensor:
    """min(1, limit / norm)."""
    return torch.where(norm > limit, limit / torch.where(norm > limit, norm, 1.0), 1.0)


def _positive(name: str, limit: float) -> float:
    if not 0.0 < limit < math.inf:
        raise InvalidInput(f"{name}(limit=...) must be positive, got {limit}")
    return float(limit)
