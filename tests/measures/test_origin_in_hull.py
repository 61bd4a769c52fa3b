"""The distance of the origin from a hull: exact figures, an independent solver, its conditions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.measures.origin_in_hull import class_hulls, origin_in_hull


def compass(*degrees: float) -> Tensor:
    turn = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([turn.cos(), turn.sin()], dim=1)


@pytest.mark.parametrize("width", [10.0, 60.0, 120.0, 170.0, 179.9])
def test_two_directions_are_as_far_as_the_middle_of_their_chord(width: float) -> None:
    found = origin_in_hull(compass(20.0, 20.0 + width))
    assert found.distance == pytest.approx(math.cos(math.radians(width / 2)), abs=1e-12)
    assert found.weights.tolist() == pytest.approx([0.5, 0.5])
    assert not found.inside


@pytest.mark.parametrize("d", [1, 2, 5, 9])
def test_a_simplex_corner_is_one_over_root_d_away(d: int) -> None:
    found = origin_in_hull(torch.eye(d))
    assert found.distance == pytest.approx(1 / math.sqrt(d))
    assert found.weights.tolist() == pytest.approx([1 / d] * d)


def test_three_directions_surround_the_origin_only_if_no_gap_exceeds_half_a_turn() -> None:
    assert origin_in_hull(compass(0, 120, 240)).inside
    assert origin_in_hull(compass(0, 91, 181)).inside
    assert not origin_in_hull(compass(0, 89, 179)).inside
    assert origin_in_hull(compass(33, 213)).inside  # opposite ones hold it between them


def random_directions(trial: int) -> Tensor:
    generator = torch.Generator().manual_seed(trial)
    k, d = 1 + trial % 17, 1 + trial % 6
    w = torch.randn(k, d, generator=generator, dtype=torch.float64) + 0.2 * (trial % 8)
    # sometimes doubled, and nearly doubled: an active set must survive that
    return torch.cat([w, w, w + 1e-10]) if trial % 5 == 0 else w


@pytest.mark.parametrize("trial", range(60))
def test_the_conditions_of_optimality_hold(trial: int) -> None:
    """x is the nearest point of the hull iff <u_j, x> >= |x|^2 for every vertex."""
    w = random_directions(trial)
    found = origin_in_hull(w)
    u = w / w.norm(dim=1, keepdim=True)
    x = found.weights @ u
    assert (found.weights >= 0).all()
    assert found.weights.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert x.norm().item() == pytest.approx(found.distance, abs=1e-12)
    assert (u @ x >= x @ x - 1e-9).all()


def test_scipy_finds_the_same_distances() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    for trial in range(60):
        w = random_directions(trial)
        u = w / w.norm(dim=1, keepdim=True)
        system = torch.cat([u.T, torch.ones(1, len(u), dtype=u.dtype)])
        right = torch.zeros(len(system), dtype=u.dtype)
        right[-1] = 1.0
        weights = torch.from_numpy(optimize.nnls(system.numpy(), right.numpy())[0])
        truth = (weights @ u).norm() / weights.sum()
        assert origin_in_hull(w).distance == pytest.approx(float(truth), abs=1e-9)


def test_only_directions_count() -> None:
    w = random_directions(7)
    scale = 10.0 ** torch.linspace(-8, 3, len(w), dtype=torch.float64)
    assert origin_in_hull(w * scale[:, None]).distance == pytest.approx(origin_in_hull(w).distance)
    # squares of these would all be zero
    tiny = origin_in_hull(1e-170 * compass(0, 120, 240))
    assert tiny.inside
    assert tiny.present == 3


def test_dead_neurons_are_absent() -> None:
    w = torch.cat([compass(0, 90), torch.zeros(2, 2)])
    found = origin_in_hull(w)
    assert found.present == 2
    assert not found.inside
    assert found.weights[2:].tolist() == [0, 0]
    for nothing in (torch.zeros(3, 2), torch.zeros(0, 2)):
        empty = origin_in_hull(nothing)
        assert (empty.distance, empty.inside, empty.present) == (math.inf, False, 0)


def test_each_class_is_looked_at_in_its_own_subspace() -> None:
    """In the plane of the first class the origin is surrounded, in that of the second not."""
    weight = torch.cat([compass(0, 120, 240), compass(0, 60, 120)], dim=1)
    planes = [torch.eye(4)[:, :2], torch.eye(4)[:, 2:]]
    first, second = class_hulls(weight, planes)
    assert first.inside
    assert second.distance == pytest.approx(0.5)
    assert not origin_in_hull(weight).inside


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coarse_dtypes_are_read_exactly(dtype: torch.dtype) -> None:
    w = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    assert origin_in_hull(w).distance == pytest.approx(math.sqrt(0.5), abs=1e-12)


def test_what_is_no_matrix_of_numbers_is_refused() -> None:
    with pytest.raises(InvalidInput, match="matrix"):
        origin_in_hull(torch.zeros(3))
    with pytest.raises(InvalidInput, match="NaN"):
        origin_in_hull(torch.full((2, 2), float("nan")))
    with pytest.raises(InvalidInput, match="basis"):
        class_hulls(torch.zeros(2, 3), [torch.eye(2)])
