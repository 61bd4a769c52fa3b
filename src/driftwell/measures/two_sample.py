"""Are generated samples like real ones? Nearest-neighbour accuracy, covariance, baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.measures.neighbours import as_vectors, nearest, same_size

__all__ = ["AAI", "CovarianceError", "aai", "covariance_error", "gaussian_baseline"]

_GROUPS = 20


@final
@dataclass(frozen=True)
class AAI:
    """Adversarial accuracy indicator of a real and a generated set.

    Attributes:
        accuracy_real: share of real samples whose nearest neighbour is real (Acc_S).
        accuracy_generated: share of generated samples whose nearest neighbour is generated
            (Acc_T); below 1/2 they sit on top of real ones.
        value: 1/2 [(Acc_S - 1/2)^2 + (Acc_T - 1/2)^2]; 0 indistinguishable, 1/4 apart.
        standard_error: of `value`.
        error_real: standard error of `accuracy_real`.
        error_generated: standard error of `accuracy_generated`.
    """

    accuracy_real: float
    accuracy_generated: float
    value: float
    standard_error: float
    error_real: float
    error_generated: float


@final
@dataclass(frozen=True)
class CovarianceError:
    """Squared covariance error E2 of two sets.

    Attributes:
        value: mean over all d^2 entries of (Cov_real - Cov_generated)^2.
        standard_error: by the delete-a-group jackknife over both sets.
    """

    value: float
    standard_error: float


def aai(real: Tensor, generated: Tensor) -> AAI:
    """Adversarial accuracy indicator, the nearest-neighbour two-sample test as in Yu, Huang and
    Huang, *Neural Langevin Machine*, 2025, arXiv:2506.23546 (after Yale et al., 2020).

        E_AAI = 1/2 [(Acc_S - 1/2)^2 + (Acc_T - 1/2)^2]

    over the pooled set, neighbours by Euclidean distance excluding the point itself. Where the
    nearest real and the nearest generated point are equally far (duplicates), the point counts
    one half. Two sets of the same law give about (Var Acc_S + Var Acc_T)/2, not 0.

    The standard errors count that points which share a neighbour, or are neighbours, fall
    together: in many dimensions the binomial error is too small by up to a factor of two.

    Args:
        real: (n, d) or (n, height, width), in image space [-1, 1]; n >= 2.
        generated: as many, of the same size.

    Raises:
        InvalidInput: different numbers or sizes, fewer than two, or NaN/Inf.

    Example:
        >>> real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> aai(real, real + 10.0).value, aai(real, real).accuracy_generated
        (0.25, 0.0)
    """
    a, b = as_vectors(real, "real"), as_vectors(generated, "generated")
    same_size(a, b, "real", "generated")
    if len(a) != len(b):
        raise InvalidInput(
            f"AAI compares equally many samples, not {len(a)} real and {len(b)} generated: "
            "take the first of the larger set"
        )
    if len(a) < 2:
        raise InvalidInput("AAI needs at least two real and two generated samples, not one")
    n = len(a)
    own_a, next_a = _indicators(a, b)
    own_b, next_b = _indicators(b, a)
    # Neighbours as places in the pool: real 0..n-1, generated n..2n-1.
    mixed = (next_b + n) % (2 * n)
    neighbour = torch.cat([next_a, mixed])
    left, right = own_a.mean(), own_b.mean()
    residual = torch.cat([own_a - left, own_b - right]) / n
    is_real = torch.arange(2 * n, device=a.device) < n
    error_a = _graph_error(torch.where(is_real, residual, 0.0), neighbour)
    error_b = _graph_error(torch.where(is_real, 0.0, residual), neighbour)
    slope = torch.where(is_real, left - 0.5, right - 0.5)
    linear = _graph_error(slope * residual, neighbour)
    value = 0.5 * ((left - 0.5) ** 2 + (right - 0.5) ** 2)
    # Second order: all there is where both accuracies are 1/2.
    error = math.sqrt(linear**2 + 0.5 * (error_a**4 + error_b**4))
    return AAI(float(left), float(right), float(value), error, error_a, error_b)


def _indicators(own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Per point: 1 if its neighbour is of its own set, 1/2 in a tie; and the neighbour's place.

    The place counts own points from 0, the others from len(own).
    """
    near_own, near_other = nearest(own, own, skip_self=True), nearest(own, other)
    to_own = (own - own[near_own]).norm(dim=1)
    to_other = (own - other[near_other]).norm(dim=1)
    margin = 1e-9 * (to_own + to_other)
    won = torch.where((to_own - to_other).abs() <= margin, 0.5, (to_own < to_other).double())
    return won, torch.where(won >= 0.5, near_own, near_other + len(own))


def _graph_error(terms: Tensor, neighbour: Tensor) -> float:
    """Standard deviation of a sum of terms that depend on each other along the neighbour graph.

    Terms are taken as correlated if they share their neighbour or one is the other's.
    """
    shared = torch.zeros_like(terms).index_add_(0, neighbour, terms).square().sum()
    place = torch.arange(len(terms), device=terms.device)
    low, high = torch.minimum(place, neighbour), torch.maximum(place, neighbour)
    edges = torch.unique(low * len(terms) + high)
    linked = 2.0 * (terms[edges // len(terms)] * terms[edges % len(terms)]).sum()
    # The sum over edges may be negative; the independent part is a floor.
    return math.sqrt(max(float(shared + linked), float(terms.square().sum())))


def covariance_error(real: Tensor, generated: Tensor) -> CovarianceError:
    """Squared covariance error of second moments, from Yu, Huang and Huang, *Neural Langevin
    Machine*, 2025, arXiv:2506.23546.

        E2 = 1/d^2 sum_ij (Cov_real - Cov_generated)_ij^2

    with unbiased covariances, in squared units of the samples' squares. Finite sets of the same
    law have E2 > 0: compare with a second real set.

    Args:
        real: (n, d) or (n, height, width), n >= 2.
        generated: (m, ...) of the same size, m >= 2.

    Raises:
        InvalidInput: different sizes, fewer than two samples, or NaN/Inf.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(covariance_error(x, 2 * x).value, 6)  # (4 - 1)^2 (2/3)^2 2/4
        2.0
    """
    a, b = as_vectors(real, "real"), as_vectors(generated, "generated")
    same_size(a, b, "real", "generated")
    for name, samples in (("real", a), ("generated", b)):
        if len(samples) < 2:
            raise InvalidInput(f"a covariance needs at least two {name} samples, not one")
    value = float((torch.cov(a.T) - torch.cov(b.T)).square().mean())
    groups = min(_GROUPS, len(a) // 2, len(b) // 2)
    if groups < 2:
        return CovarianceError(value, math.nan)
    a, b = a - a.mean(0), b - b.mean(0)
    sums = (a.T @ a, b.T @ b)
    replicas = torch.stack(
        [
            (_without(a, sums[0], g, groups) - _without(b, sums[1], g, groups)).square().mean()
            for g in range(groups)
        ]
    )
    spread = (groups - 1) / groups * (replicas - replicas.mean()).square().sum()
    return CovarianceError(value, float(spread.sqrt()))


def _without(x: Tensor, second: Tensor, group: int, groups: int) -> Tensor:
    """Covariance of centred x without rows group, group + groups, ...; second = x^T x."""
    left_out = x[group::groups]
    n = len(x) - len(left_out)
    total = -left_out.sum(0)  # the whole sums to zero
    return (second - left_out.T @ left_out - torch.outer(total, total) / n) / (n - 1)


def gaussian_baseline(
    train: Tensor, n: int, seed: int, *, clip: tuple[float, float] | None = None
) -> Tensor:
    """Samples of the Gaussian that has the data's mean and covariance: the model to beat.

    Args:
        train: (m, d) or (m, height, width), m >= 2.
        n: how many samples.
        seed: of the keyed noise; sample i is the same for every n > i.
        clip: range the samples are clipped to, such as (-1, 1); None: not clipped, which is
            the stronger baseline (clipped samples sit in corners of the range, far from data).

    Returns:
        (n, *train.shape[1:]) in the dtype of train.

    Raises:
        InvalidInput: fewer than two training samples, n < 1, or NaN/Inf.

    Example:
        >>> x = torch.tensor([[0.5, 0.5], [-0.5, -0.5]])
        >>> drawn = gaussian_baseline(x, 1000, seed=0)
        >>> bool((drawn[:, 0] - drawn[:, 1]).abs().max() < 1e-6)
        True
    """
    x = as_vectors(train, "train")
    if len(x) < 2 or n < 1:
        raise InvalidInput(
            f"a Gaussian baseline needs two or more training samples and n >= 1, "
            f"not {len(x)} and n = {n}"
        )
    d = x.shape[1]
    values, vectors = torch.linalg.eigh(torch.cov(x.T).reshape(d, d))
    noise = normal(
        (n, d), seed=seed, purpose=Purpose.DATA, chains=n, step=10,
        dtype=torch.float64, device=x.device,
    )  # fmt: skip
    # The symmetric root: unlike noise @ vectors it does not depend on the eigenvectors' signs.
    root = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    drawn: Tensor = x.mean(0) + noise @ root
    if clip is not None:
        drawn = drawn.clamp(clip[0], clip[1])
    return drawn.reshape(n, *train.shape[1:]).to(train.dtype)
