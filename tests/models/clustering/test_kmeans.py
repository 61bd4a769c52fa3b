"""k-means: energy and force by hand and by autograd, Lloyd, stochastic backward Euler."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.models.clustering import StochasticBackwardEulerKMeans, kmeans_energy, lloyd
from driftwell.models.clustering.kmeans import kmeans_force, random_points


@pytest.fixture
def points() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(60, 2, generator=g, dtype=torch.float64)


@pytest.fixture
def start(points) -> torch.Tensor:
    return random_points(points, starts=5, clusters=3, seed=1)


def test_the_force_is_minus_the_gradient_of_the_energy(points, start):
    x = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(kmeans_energy(x, points).sum(), x)
    assert torch.allclose(kmeans_force(start, points), -gradient, atol=1e-12)


def test_lloyd_never_raises_the_energy_and_ends_where_no_force_is(points, start):
    energies = [kmeans_energy(lloyd(start, points, max_steps=k), points) for k in range(1, 9)]
    for before, after in pairwise(energies):
        assert (after <= before + 1e-12).all()
    assert kmeans_force(lloyd(start, points), points).abs().max() < 1e-12


def test_an_empty_cluster_stays_where_it_is(points):
    x = torch.tensor([[[0.0, 0.0], [100.0, 100.0]]], dtype=torch.float64)
    assert torch.equal(lloyd(x, points)[0, 1], x[0, 1])
    assert not kmeans_force(x, points)[0, 1].any()


def test_full_batches_and_a_small_step_give_the_proximal_step(points, start):
    """While assignments stay, x+_j = (x_j + s sum_j / N) / (1 + s n_j / N): dense algebra."""
    s, n = 0.2, len(points)
    settle = StochasticBackwardEulerKMeans(s, 1, inner=200, batch=0, average=0.0)
    found = settle.run(start, points)
    nearest = torch.cdist(found, points[None]).argmin(dim=1)
    for r in range(len(start)):
        for j in range(3):
            mine = points[nearest[r] == j]
            truth = (start[r, j] + s * mine.sum(0) / n) / (1 + s * len(mine) / n)
            assert torch.allclose(found[r, j], truth, atol=1e-10)


def test_starts_do_not_know_each_other(points, start):
    kmeans = StochasticBackwardEulerKMeans(2.0, 3, inner=4, batch=10)
    assert torch.allclose(kmeans.run(start, points)[:2], kmeans.run(start[:2], points))


def test_minibatches_are_keyed_by_the_seed(points, start):
    kmeans = StochasticBackwardEulerKMeans(2.0, 3, inner=4, batch=10)
    assert torch.equal(kmeans.run(start, points), kmeans.run(start, points))
    assert not torch.equal(kmeans.run(start, points), replace(kmeans, seed=1).run(start, points))


@pytest.mark.parametrize(
    "bad", [{"step_size": 0.0}, {"steps": 0}, {"inner": 0}, {"batch": -1}, {"average": 1.0}]
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(InvalidInput):
        StochasticBackwardEulerKMeans(**bad)


def test_shapes_and_counts_that_do_not_fit_are_refused(points):
    with pytest.raises(InvalidInput, match=r"\(R, K, d\)"):
        kmeans_energy(torch.zeros(3, 2), points)
    with pytest.raises(InvalidInput, match="between 1 and 60"):
        random_points(points, 2, 61, seed=0)
