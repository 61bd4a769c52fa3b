"""Nearest neighbours, exactly: the distance to the training set, and what it says of copying."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput

__all__ = ["Copying", "NearestTraining", "copying", "nearest_training_distance"]

# Doubles in one block of distances: 32 MiB.
_BLOCK = 1 << 22


@final
@dataclass(frozen=True, eq=False)
class NearestTraining:
    """Each sample's nearest training sample.

    Attributes:
        distance: (n,) float64, Euclidean, in the units of the samples.
        index: (n,) int64, its place in the training set.
    """

    distance: Tensor
    index: Tensor


@final
@dataclass(frozen=True)
class Copying:
    """How near generated samples come to the training set, against held-out ones.

    Attributes:
        median: median distance of generated samples to their nearest training sample.
        median_held_out: the same of held-out samples.
        ratio: median / median_held_out; well below 1 means copying, above 1 samples that are
            farther from the data than real ones.
        fraction: share of generated samples nearer than the 1 % quantile of held-out ones;
            1 % where nothing is copied.
        median_error: standard error of `median`, from the binomial law of order statistics.
        fraction_error: standard error of `fraction`, binomial with at least one success.
    """

    median: float
    median_held_out: float
    ratio: float
    fraction: float
    median_error: float
    fraction_error: float


def nearest_training_distance(generated: Tensor, train: Tensor) -> NearestTraining:
    """Euclidean distance from each generated sample to its nearest training sample, exactly.

    Args:
        generated: (n, ...), in image space.
        train: (m, ...), the same trailing shape.

    Raises:
        InvalidInput: an empty set, NaN/Inf, or samples of different sizes.

    Example:
        >>> found = nearest_training_distance(torch.tensor([[3.0, 4.0]]), torch.eye(2))
        >>> round(float(found.distance), 4), int(found.index)
        (4.2426, 1)
    """
    points, others = as_vectors(generated, "generated"), as_vectors(train, "train")
    same_size(points, others, "generated", "train")
    index = nearest(points, others)
    # The square root of a difference of squares would lose half the digits of a small distance.
    return NearestTraining((points - others[index]).norm(dim=1), index)


def copying(generated: Tensor, train: Tensor, held_out: Tensor) -> Copying:
    """Comparison of generated with held-out samples by their distance to the training set.

    Args:
        generated: (n, ...), in image space.
        train: (m, ...), what was trained on.
        held_out: (k, ...), real samples that were not; k >= 100 for the 1 % quantile to mean
            anything.

    Raises:
        InvalidInput: an empty set, NaN/Inf, or samples of different sizes.

    Example:
        >>> train = torch.arange(100.0)[:, None]
        >>> copying(train[:50] + 0.001, train, train + 0.25).fraction
        1.0
    """
    ours = nearest_training_distance(generated, train).distance
    theirs = nearest_training_distance(held_out, train).distance
    return summarize_copying(ours, theirs)


def summarize_copying(ours: Tensor, theirs: Tensor) -> Copying:
    """`Copying` from the distances of generated (n,) and held-out (k,) samples."""
    n = len(ours)
    median, real = float(ours.quantile(0.5)), float(theirs.quantile(0.5))
    fraction = float((ours < theirs.quantile(0.01)).double().mean())
    half = 0.5 / math.sqrt(n)
    spread = torch.tensor([max(0.5 - half, 0.0), min(0.5 + half, 1.0)], dtype=torch.float64)
    low, high = ours.quantile(spread.to(ours.device)).tolist()
    chance = min(max(fraction, 1.0 / (n + 1)), n / (n + 1))
    ratio = median / real if real > 0.0 else (1.0 if median == 0.0 else math.inf)
    return Copying(
        median, real, ratio, fraction, (high - low) / 2.0, math.sqrt(chance * (1.0 - chance) / n)
    )


def as_vectors(samples: Tensor, name: str) -> Tensor:
    """Samples as float64 (n, d), checked to be a non-empty set of finite numbers.

    Distances are taken in float64: by products in float32 a near-tie is decided by rounding,
    and where the user lets float32 products run in fewer bits, by much worse.
    """
    if samples.ndim < 2 or samples.numel() == 0:
        raise InvalidInput(
            f"{name} must be a non-empty set of vectors (n, d) or images (n, height, width), "
            f"not of the shape {tuple(samples.shape)}"
        )
    vectors = samples.detach().reshape(len(samples), -1).double()
    broken = int((~torch.isfinite(vectors)).any(1).sum())
    if broken:
        raise InvalidInput(
            f"{broken} of {len(vectors)} {name} samples hold NaN or infinite values: "
            "drop them, and say so, before measuring the rest"
        )
    return vectors


def same_size(a: Tensor, b: Tensor, name_a: str, name_b: str) -> None:
    """Raise one sentence unless both are sets of vectors of the same length."""
    if a.shape[1] != b.shape[1]:
        raise InvalidInput(
            f"{name_a} samples have {a.shape[1]} values and {name_b} samples {b.shape[1]}: "
            "they must be of one size"
        )


def squared_distance_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks (first row, |a_i - b_j|^2) of the squared distances, by one product each."""
    centre = b.mean(0)  # smaller numbers, smaller rounding
    left, right = a - centre, b - centre
    norms = right.square().sum(1)
    rows = max(1, _BLOCK // len(b))
    for start in range(0, len(a), rows):
        part = left[start : start + rows]
        block = torch.addmm(norms, part, right.T, alpha=-2.0)
        block += part.square().sum(1, keepdim=True)
        yield start, block.clamp_(min=0.0)


def nearest(a: Tensor, b: Tensor, *, skip_self: bool = False) -> Tensor:
    """Index (n,) of the row of b nearest to each row of a; `skip_self` if b is a itself."""
    found = []
    for start, block in squared_distance_blocks(a, b):
        if skip_self:
            rows = torch.arange(len(block), device=block.device)
            block[rows, rows + start] = math.inf
        found.append(block.argmin(1))
    return torch.cat(found)
