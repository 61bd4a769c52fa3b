"""Energy distance, MMD and sliced Wasserstein: closed forms for Gaussians and unbiasedness."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.measures import distances, energy_distance, mmd_rbf, neighbours, sliced_wasserstein


def cloud(n: int, d: int = 1, *, step: int = 0) -> Tensor:
    return normal((n, d), seed=7, purpose=Purpose.USER, chains=n, step=step, dtype=torch.float64)


def test_energy_distance_of_shifted_gaussians() -> None:
    """N(0,1) and N(m,1): E|X - Y| has the closed form of a folded normal."""
    m = 1.5
    folded = 2 / math.sqrt(math.pi) * math.exp(-(m**2) / 4) + m * math.erf(m / 2)
    expected = 2 * folded - 2 * 2 / math.sqrt(math.pi)
    measured = energy_distance(cloud(4000), cloud(4000, step=1) + m)
    assert measured == pytest.approx(expected, abs=0.12)  # standard deviation about 0.03


def test_mmd_of_shifted_gaussians() -> None:
    """With kernel width h, E k(X, Y) is a Gaussian of variance h^2 + 2 at the shift."""
    m, h = 1.0, 0.7
    s = h**2 + 2.0
    expected = 2 * h / math.sqrt(s) * (1 - math.exp(-(m**2) / (2 * s)))
    measured = mmd_rbf(cloud(3000), cloud(3000, step=1) + m, bandwidth=h)
    assert measured == pytest.approx(expected, abs=0.03)  # standard deviation about 0.007


def test_sliced_wasserstein_of_a_shift_and_of_a_stretch() -> None:
    x = cloud(500, 3)
    shift = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    # Over directions, E (theta.s)^2 = |s|^2 / d.
    moved = sliced_wasserstein(x, x + shift, seed=0, projections=5000)
    assert moved == pytest.approx(5 / math.sqrt(3), rel=0.04)
    line = cloud(300)
    stretched = float((line - 2 * line).square().mean().sqrt())
    assert sliced_wasserstein(line, 2 * line, seed=0, projections=3) == pytest.approx(stretched)


def test_sliced_wasserstein_of_different_sizes_repeats_points() -> None:
    x, y = cloud(6), cloud(4, step=1)
    expected = sliced_wasserstein(x.repeat(2, 1), y.repeat(3, 1), seed=0, projections=1)
    assert sliced_wasserstein(x, y, seed=0, projections=1) == pytest.approx(expected)
    assert sliced_wasserstein(x, x.repeat(3, 1), seed=0, projections=1) == 0.0


@pytest.mark.parametrize("measure", [energy_distance, partial(mmd_rbf, bandwidth=1.0)])
def test_equal_laws_give_zero_on_average(measure: Callable[[Tensor, Tensor], float]) -> None:
    values = torch.tensor(
        [measure(cloud(20, 2, step=2 * s), cloud(30, 2, step=2 * s + 1)) for s in range(200)]
    )
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(200)
    assert float(values.min()) < 0.0


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_blocks_do_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    x, y = cloud(25, 3), cloud(35, 3, step=1) + 0.3
    within = [torch.cdist(a, a).sum() / (len(a) * (len(a) - 1)) for a in (x, y)]
    brute = 2 * torch.cdist(x, y).mean() - within[0] - within[1]
    assert energy_distance(x, y) == pytest.approx(float(brute))
    assert mmd_rbf(x, y) == pytest.approx(mmd_rbf(y, x))


def test_the_bandwidth_is_the_median_distance() -> None:
    x, y = cloud(20, 3), cloud(20, 3, step=1)
    h = float(torch.pdist(torch.cat([x, y])).median())
    assert mmd_rbf(x, y) == mmd_rbf(x, y, bandwidth=h)
    assert distances._MEDIAN_POINTS >= 1000


def test_bad_sets_get_one_sentence() -> None:
    x = cloud(5, 3)
    with pytest.raises(InvalidInput, match="two or more samples of each, not 5 and 1"):
        energy_distance(x, x[:1])
    with pytest.raises(InvalidInput, match="x samples have 3 values and y samples 2"):
        mmd_rbf(x, x[:, :2])
    with pytest.raises(InvalidInput, match="bandwidth of the kernel must be above 0, not 0"):
        mmd_rbf(x * 0, x * 0)
    with pytest.raises(InvalidInput, match="at least one projection is needed, not 0"):
        sliced_wasserstein(x, x, seed=0, projections=0)
    with pytest.raises(InvalidInput, match="5 of 5 y samples hold NaN"):
        sliced_wasserstein(x, x * math.nan, seed=0)
