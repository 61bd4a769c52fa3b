"""The k-means energy, its gradient, and Lloyd's algorithm, for many starts at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, permutation


def kmeans_energy(x: Tensor, points: Tensor) -> Tensor:
    """Energy phi(x) = 1/(2N) sum_i min_j |p_i - x_j|^2 of centroids.

    Args:
        x: centroids of R starts, (R, K, d).
        points: p, (N, d), or (R, N, d) for a set of each start's own.

    Returns:
        (R,).

    Raises:
        InvalidInput: centroids and points of different dimensions.

    Example:
        >>> kmeans_energy(torch.zeros(1, 1, 2), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([2.5000])
    """
    return 0.5 * _squares(x, points).amin(dim=-1).mean(dim=-1)


def kmeans_force(x: Tensor, points: Tensor) -> Tensor:
    """Minus the gradient of `kmeans_energy`: (1/N) sum_{i in C_j} (p_i - x_j), (R, K, d).

    An empty cluster feels no force.

    Example:
        >>> kmeans_force(torch.zeros(1, 1, 2), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([[[0.5000, 1.5000]]])
    """
    counts, sums = cluster_sums(x, points)
    return (sums - counts[..., None] * x) / points.shape[-2]


def cluster_sums(x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Members of every cluster (R, K), and the sums of their points (R, K, d).

    Example:
        >>> cluster_sums(torch.zeros(1, 1, 1), torch.tensor([[1.0], [3.0]]))
        (tensor([[2.]]), tensor([[[4.]]]))
    """
    nearest = _squares(x, points).argmin(dim=-1)
    member = one_hot(nearest, x.shape[1]).to(x.dtype)
    return member.sum(dim=1), member.mT @ points


def lloyd(x: Tensor, points: Tensor, max_steps: int = 300) -> Tensor:
    """Lloyd's algorithm, *Least squares quantization in PCM*, 1982: centroids go to the mean of
    their cluster until nothing moves; an empty cluster stays where it is.

    Args:
        x: start centroids, (R, K, d).
        points: (N, d).
        max_steps: rounds that are allowed.

    Returns:
        (R, K, d).

    Example:
        >>> lloyd(torch.tensor([[[0.0], [1.0]]]), torch.tensor([[0.0], [4.0], [5.0]]))
        tensor([[[0.0000],
                 [4.5000]]])
    """
    for _ in range(max_steps):
        counts, sums = cluster_sums(x, points)
        after = torch.where(counts[..., None] > 0, sums / counts.clamp_min(1.0)[..., None], x)
        if torch.equal(after, x):
            break
        x = after
    return x


def random_points(points: Tensor, starts: int, clusters: int, seed: int) -> Tensor:
    """Start centroids: K different points of the data, at random for each start, (R, K, d).

    Example:
        >>> random_points(torch.rand(9, 2), starts=3, clusters=4, seed=0).shape
        torch.Size([3, 4, 2])
    """
    if not 1 <= clusters <= len(points):
        raise InvalidInput(f"between 1 and {len(points)} clusters can be asked for, got {clusters}")
    picks = [
        permutation(len(points), seed=seed, purpose=Purpose.INIT, step=r)[:clusters]
        for r in range(starts)
    ]
    return points[torch.stack(picks).to(points.device)]


def _squares(x: Tensor, points: Tensor) -> Tensor:
    """|p_i - x_j|^2, (R, N, K)."""
    if x.ndim != 3 or points.shape[-1] != x.shape[-1]:
        raise InvalidInput(
            f"centroids (R, K, d) and points (N, d) are needed, got {tuple(x.shape)} and "
            f"{tuple(points.shape)}"
        )
    cross = points @ x.mT
    squares: Tensor = (
        points.square().sum(-1)[..., None] - 2.0 * cross + x.square().sum(-1)[:, None, :]
    )
    return squares.clamp_min(0.0)
