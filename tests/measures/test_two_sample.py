"""AAI, E2 and the Gaussian baseline: by hand, by brute force, and their standard errors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.data import load
from driftwell.measures import aai, covariance_error, gaussian_baseline


def cloud(n: int, d: int, *, step: int = 0) -> Tensor:
    return normal((n, d), seed=5, purpose=Purpose.USER, chains=n, step=step, dtype=torch.float64)


def test_aai_counts_neighbours_as_brute_force_does() -> None:
    real, generated = cloud(60, 3), 0.8 * cloud(60, 3, step=1) + 0.2
    score = aai(real, generated)
    pool = torch.cat([real, generated])
    distance = torch.cdist(pool, pool, compute_mode="donot_use_mm_for_euclid_dist")
    neighbour = distance.fill_diagonal_(math.inf).argmin(1)
    a = float((neighbour[:60] < 60).double().mean())
    b = float((neighbour[60:] >= 60).double().mean())
    assert (score.accuracy_real, score.accuracy_generated) == pytest.approx((a, b), abs=1e-15)
    assert score.value == pytest.approx(0.5 * ((a - 0.5) ** 2 + (b - 0.5) ** 2))


def test_aai_has_its_three_corners() -> None:
    real = cloud(50, 4)
    assert aai(real, real + 100.0).value == 0.25  # trivially apart
    copied = aai(real, real)  # each point's copy is nearer than anything else
    assert (copied.accuracy_real, copied.accuracy_generated) == (0.0, 0.0)
    collapsed = aai(real, torch.zeros(50, 4) + 1e-3 * cloud(50, 4, step=1))
    assert collapsed.accuracy_generated == 1.0


def test_equal_distances_count_one_half() -> None:
    real = torch.tensor([[0.0], [0.0], [10.0], [20.0]])
    generated = torch.tensor([[0.0], [10.5], [20.5], [30.0]])
    # Real: two duplicates tie with a generated copy; 10 and 20 have generated neighbours.
    score = aai(real, generated)
    assert score.accuracy_real == pytest.approx((0.5 + 0.5 + 0.0 + 0.0) / 4)
    # Generated: 0 has real ones at 0; 10.5 and 20.5 real ones at 0.5; 30 a generated one.
    assert score.accuracy_generated == pytest.approx(0.25)


def test_images_are_compared_as_vectors() -> None:
    real, generated = cloud(30, 12), cloud(30, 12, step=1)
    assert aai(real.reshape(30, 3, 4), generated.reshape(30, 3, 4)) == aai(real, generated)


@pytest.mark.parametrize("d", [2, 60])
def test_the_stated_errors_are_those_of_repeated_draws(d: int) -> None:
    scores = [aai(cloud(150, d, step=2 * s), cloud(150, d, step=2 * s + 1)) for s in range(50)]
    drawn = torch.tensor([score.accuracy_real for score in scores])
    stated = sum(score.error_real for score in scores) / 50
    # 50 draws know a standard deviation to 10 %; the binomial one is off by 1.6 at d = 60.
    assert 0.65 < float(drawn.std()) / stated < 1.35
    assert abs(float(drawn.mean()) - 0.5) < 4 * stated / math.sqrt(50)
    values = torch.tensor([score.value for score in scores])
    assert 0.4 < float(values.std()) / (sum(s.standard_error for s in scores) / 50) < 1.8


def test_e2_is_the_mean_squared_difference_of_covariances() -> None:
    real, generated = cloud(40, 5), 1.5 * cloud(60, 5, step=1)
    expected = (torch.cov(real.T) - torch.cov(generated.T)).square().mean()
    assert covariance_error(real, generated).value == pytest.approx(float(expected))
    assert covariance_error(real, real + 7.0).value == pytest.approx(0.0, abs=1e-25)


def test_the_error_of_e2_is_that_of_repeated_draws() -> None:
    scores = [
        covariance_error(cloud(200, 8, step=2 * s), 1.3 * cloud(200, 8, step=2 * s + 1))
        for s in range(50)
    ]
    values = torch.tensor([score.value for score in scores])
    stated = sum(score.standard_error for score in scores) / 50
    assert 0.65 < float(values.std()) / stated < 1.4


def test_e2_of_very_few_samples_has_no_error_bar() -> None:
    assert math.isnan(covariance_error(cloud(3, 2), cloud(3, 2, step=1)).standard_error)


def test_the_gaussian_baseline_has_mean_and_covariance_of_the_data() -> None:
    train = cloud(500, 6) @ cloud(6, 6, step=1) + 3.0
    drawn = gaussian_baseline(train, 20_000, seed=1)
    root = torch.cov(train.T).diagonal().sqrt()
    assert ((drawn.mean(0) - train.mean(0)).abs() < 5 * root / math.sqrt(20_000)).all()
    off = (torch.cov(drawn.T) - torch.cov(train.T)).abs() / torch.outer(root, root)
    assert float(off.max()) < 5 * math.sqrt(2 / 20_000)


def test_the_gaussian_baseline_is_keyed_and_keeps_shape_and_dtype() -> None:
    train = cloud(50, 6).float().reshape(50, 2, 3)
    drawn = gaussian_baseline(train, 9, seed=1)
    assert drawn.shape == (9, 2, 3)
    assert drawn.dtype == torch.float32
    assert torch.equal(gaussian_baseline(train, 4, seed=1), drawn[:4])
    assert not torch.equal(gaussian_baseline(train, 9, seed=2), drawn)
    assert gaussian_baseline(train, 9, seed=1, clip=(-1.0, 1.0)).abs().max() <= 1.0


def test_bad_sets_get_one_sentence() -> None:
    x = cloud(5, 3)
    with pytest.raises(InvalidInput, match="equally many samples, not 5 real and 4 generated"):
        aai(x, x[:4])
    with pytest.raises(InvalidInput, match="at least two real and two generated samples, not one"):
        aai(x[:1], x[:1])
    with pytest.raises(InvalidInput, match="real samples have 3 values and generated samples 2"):
        aai(x, x[:, :2])
    with pytest.raises(InvalidInput, match="5 of 5 generated samples hold NaN or infinite"):
        aai(x, x * math.inf)
    with pytest.raises(InvalidInput, match="at least two generated samples, not one"):
        covariance_error(x, x[:1])
    with pytest.raises(InvalidInput, match="two or more training samples and n >= 1, not 5 and n"):
        gaussian_baseline(x, 0, seed=0)


def test_a_gaussian_is_told_from_handwriting_and_handwriting_is_not(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNIST {1, 3, 6}: the Gaussian of the data scores AAI .128 with Acc_real .985."""
    monkeypatch.setenv("DRIFTWELL_DATA", str(data_folder))
    test = load("mnist", "test").select([1, 3, 6]).split(0.5, 0)
    left, right = (2 * part.flat()[:1000] - 1 for part in test)
    gaussian = aai(left, gaussian_baseline(right, 1000, seed=0))
    assert gaussian.accuracy_real == pytest.approx(0.985, abs=0.02)
    assert gaussian.value == pytest.approx(0.128, abs=0.02)
    assert aai(left, right).value < 0.005
