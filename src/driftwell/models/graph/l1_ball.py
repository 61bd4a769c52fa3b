"""Projection of rows on the l1 ball."""

from __future__ import annotations

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

__all__ = ["project_rows_l1"]

DUCHI = Paper(
    key="duchi2008l1",
    title="Efficient projections onto the l1-ball for learning in high dimensions",
    authors="Duchi, John and Shalev-Shwartz, Shai and Singer, Yoram and Chandra, Tushar",
    year=2008,
    venue="ICML 2008",
    doi="10.1145/1390156.1390191",
)


def project_rows_l1(W: Tensor, radius: float) -> Tensor:
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
        >>> project_rows_l1(torch.tensor([[3.0, 1.0], [0.2, -0.3]]), 1.0)
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
