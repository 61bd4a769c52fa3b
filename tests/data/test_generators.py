"""Seeded clouds of points: moments by theory, and points that do not depend on their number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.data import gaussian_mixture_ring, two_moons


@pytest.mark.parametrize("cloud", [gaussian_mixture_ring, two_moons])
def test_a_point_depends_on_seed_and_place_only(cloud: Callable[[int, int], Tensor]) -> None:
    assert cloud(7, 3).dtype == torch.float32
    assert torch.equal(cloud(100, 3)[:7], cloud(7, 3))
    assert not torch.equal(cloud(7, 3), cloud(7, 4))


def test_the_ring_has_its_second_moment() -> None:
    points = gaussian_mixture_ring(8000, seed=0, radius=2.0, scale=0.5).double()
    # E |x|^2 = radius^2 + 2 scale^2; the standard deviation of |x|^2 is about 2.1.
    assert float(points.square().sum(1).mean()) == pytest.approx(4.5, abs=4 * 2.1 / 8000**0.5)
    modes = points.reshape(1000, 8, 2).mean(0)
    assert modes.norm(dim=1).tolist() == pytest.approx([2.0] * 8, abs=4 * 0.5 / 1000**0.5)


def test_the_moons_lie_on_their_arcs() -> None:
    points = two_moons(2000, seed=1, noise=0.0).double()
    upper, lower = points[0::2], points[1::2]
    assert torch.allclose(upper.norm(dim=1), torch.ones(1000).double(), atol=1e-6)
    centred = lower - torch.tensor([1.0, 0.5]).double()
    assert torch.allclose(centred.norm(dim=1), torch.ones(1000).double(), atol=1e-6)
    assert upper[:, 1].min() >= -1e-6
    assert centred[:, 1].max() <= 1e-6


def test_the_noise_of_the_moons_has_its_deviation() -> None:
    apart = two_moons(5000, seed=1, noise=0.3) - two_moons(5000, seed=1, noise=0.0)
    assert float(apart.std()) == pytest.approx(0.3, abs=4 * 0.3 / (2 * 10_000) ** 0.5)


def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(InvalidInput, match="at least one point must be asked for, not 0"):
        two_moons(0, seed=0)
    with pytest.raises(InvalidInput, match="cannot be negative, got -1"):
        gaussian_mixture_ring(5, seed=0, scale=-1.0)
    with pytest.raises(InvalidInput, match="at least one mode, not 0"):
        gaussian_mixture_ring(5, seed=0, modes=0)
