"""Nearest neighbours: against brute force, block by block, and what copying looks like."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.measures import copying, nearest_training_distance, neighbours


def cloud(n: int, d: int = 6, *, step: int = 0) -> Tensor:
    return normal((n, d), seed=4, purpose=Purpose.USER, chains=n, step=step)


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
def test_distances_are_those_of_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    generated, train = cloud(40), cloud(70, step=1)
    found = nearest_training_distance(generated, train)
    brute = (generated.double()[:, None] - train.double()[None]).norm(dim=2)
    assert torch.equal(found.index, brute.argmin(1))
    assert torch.allclose(found.distance, brute.min(1).values, rtol=1e-12)


def test_small_differences_far_from_the_origin_are_resolved() -> None:
    """|a|^2 + |b|^2 - 2 a.b in float32 would have an error of about 0.1 here."""
    train = 1000.0 + torch.arange(5.0)[:, None] * 2.0**-10 * torch.ones(1, 3)
    found = nearest_training_distance(train[[3]] + 2.0**-12, train)
    assert int(found.index) == 3
    assert float(found.distance) == pytest.approx(math.sqrt(3) * 2.0**-12, rel=1e-12)


def test_copies_have_distance_zero() -> None:
    train = cloud(50)
    found = nearest_training_distance(train.reshape(50, 2, 3)[::7], train.reshape(50, 2, 3))
    assert torch.equal(found.distance, torch.zeros(8).double())
    assert found.index.tolist() == list(range(0, 50, 7))


def test_copying_is_seen_and_honest_samples_are_not_accused() -> None:
    train, held_out = cloud(2000, 4), cloud(2000, 4, step=1)
    honest = copying(cloud(2000, 4, step=2), train, held_out)
    # Shares of 1 % each: standard deviation sqrt(2 * 0.01 / 2000) = 0.3 %.
    assert honest.fraction == pytest.approx(0.01, abs=4 * 0.0032)
    assert abs(honest.median - honest.median_held_out) < 4 * math.sqrt(2) * honest.median_error
    copied = copying(train[:500] + 1e-4 * cloud(500, 4, step=3), train, held_out)
    assert copied.fraction == 1.0
    assert copied.ratio < 0.01
    assert copied.fraction_error > 0.0
    far = copying(3 + cloud(500, 4, step=3), train, held_out)
    assert far.ratio > 2.0


def test_the_error_of_the_median_is_that_of_repeated_draws() -> None:
    train = cloud(500, 4)
    scores = [copying(cloud(200, 4, step=s), train, train + 1.0) for s in range(5, 65)]
    medians = torch.tensor([score.median for score in scores])
    stated = sum(score.median_error for score in scores) / 60
    assert 0.7 < float(medians.std()) / stated < 1.4  # 60 draws: +-10 %


def test_bad_sets_get_one_sentence() -> None:
    good = cloud(5)
    with pytest.raises(InvalidInput, match=r"generated must be a non-empty set .* not .* \(0, 6\)"):
        nearest_training_distance(good[:0], good)
    with pytest.raises(InvalidInput, match=r"train must be a non-empty set .* \(6,\)"):
        nearest_training_distance(good, good[0])
    with pytest.raises(InvalidInput, match="1 of 5 generated samples hold NaN"):
        nearest_training_distance(good.where(torch.arange(30).reshape(5, 6) != 7, math.nan), good)
    with pytest.raises(InvalidInput, match="generated samples have 6 values and train samples 4"):
        nearest_training_distance(good, cloud(5, 4))
