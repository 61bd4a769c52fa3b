"""Rotary positions: turns, what products depend on, frequencies; and the geometry of clusters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.nn.rotary import RotaryEmbedding, cluster_geometry

SETTINGS = [(1.0, None), (0.5, None), (1.0, 16.0), (0.5, 16.0), (0.25, 40.0)]
each_setting = pytest.mark.parametrize(("fraction", "period"), SETTINGS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


# Turns


@each_setting
def test_a_product_depends_on_the_distance_of_places_only(
    fraction: float, period: float | None
) -> None:
    rotary = RotaryEmbedding(16, fraction, period)
    q, k = normal(1, 1, 1, 16), normal(1, 1, 1, 16, seed=1)

    def product(s: int, t: int) -> Tensor:
        return (rotary(q, first=s) * rotary(k, first=t)).sum()

    for s, t in ((3, 1), (9, 9), (2, 14)):
        for shift in (5, 100, 700):
            # angles are float32 numbers, of which 700 has steps of 6e-5
            torch.testing.assert_close(
                product(s + shift, t + shift), product(s, t), rtol=0, atol=1e-3
            )
    assert not torch.allclose(product(3, 1), product(3, 2), rtol=0, atol=1e-2)


@each_setting
def test_a_turn_keeps_every_length_and_every_product_at_one_place(
    fraction: float, period: float | None
) -> None:
    rotary, x, y = RotaryEmbedding(16, fraction, period), normal(2, 3, 9, 16), normal(2, 3, 9, 16)
    torch.testing.assert_close((rotary(x) * rotary(y)).sum(-1), (x * y).sum(-1), rtol=0, atol=1e-5)


def test_the_product_is_the_sum_of_cosines_of_the_formula() -> None:
    rotary = RotaryEmbedding(6, 4 / 6, 20.0)
    q, k, s, t = normal(6), normal(6, seed=1), 11, 4
    expected = q[4:] @ k[4:]
    for j, w in enumerate([1.0, 2 * math.pi / 20.0]):
        u, v = torch.complex(q[j], q[j + 2]), torch.complex(k[j], k[j + 2])
        pair = u * v.conj()
        expected = expected + pair.abs() * torch.cos((s - t) * w + pair.angle())
    found = rotary(q[None], first=s)[0] @ rotary(k[None], first=t)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    rotary = RotaryEmbedding(2)
    rotary.frequency.fill_(math.pi / 2)
    turned = rotary(torch.tensor([[1.0, 0.0]]).expand(4, 2))
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-6)


def test_the_first_place_is_not_turned_and_the_unturned_channels_never() -> None:
    rotary, x = RotaryEmbedding(16, 0.25, 16.0), normal(2, 3, 50, 16)
    turned = rotary(x)
    assert turned[:, :, 0].equal(x[:, :, 0])
    assert turned[..., 4:].equal(x[..., 4:])
    moved = (turned - x)[:, :, 1:, :4].abs().amax(dim=(0, 1, 2))
    assert (moved > 0).all()


def test_a_window_that_starts_later_is_a_part_of_the_whole() -> None:
    rotary, x = RotaryEmbedding(8, 0.5, 16.0), normal(2, 2, 30, 8)
    assert rotary(x[:, :, 11:], first=11).equal(rotary(x)[:, :, 11:])


# Frequencies


def test_without_a_period_frequencies_are_those_of_rope() -> None:
    j = torch.arange(0, 32, 2, dtype=torch.float64)
    expected = 1.0 / 10_000 ** (j / 32)
    torch.testing.assert_close(RotaryEmbedding(32).frequency.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("period", [2 * math.pi, 16.0, 300.0])
def test_frequencies_run_from_one_to_that_of_the_longest_period(period: float) -> None:
    w = RotaryEmbedding(32, 0.5, period).frequency.double()
    assert len(w) == 8
    assert float(w[0]) == 1.0
    assert float(w[-1]) == pytest.approx(2 * math.pi / period, rel=1e-6)
    steps = w[1:] / w[:-1]
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-6, atol=0)


def test_within_the_longest_period_every_angle_is_trained_on_and_with_rope_it_is_not() -> None:
    """Angles modulo a turn of a window of 256 have a near one in a window of 64, or not."""

    def worst(rotary: RotaryEmbedding) -> float:
        seen = torch.arange(64.0)[:, None] * rotary.frequency
        new = torch.arange(64.0, 256.0)[:, None] * rotary.frequency
        gaps = (new[:, None] - seen[None] + math.pi) % (2 * math.pi) - math.pi
        return float(gaps.abs().amin(dim=1).max())

    # the longest step of an angle is one radian: places seen lie at most half of it away
    assert worst(RotaryEmbedding(32, 0.5, 16.0)) <= 0.5
    assert worst(RotaryEmbedding(32)) > 1.5


# What it is made of


def test_the_gradient_turns_back() -> None:
    rotary, x, g = RotaryEmbedding(8, 0.5, 16.0), normal(1, 1, 7, 8), normal(1, 1, 7, 8, seed=1)
    x.requires_grad_()
    (found,) = torch.autograd.grad((rotary(x) * g).sum(), x)
    torch.testing.assert_close((rotary(found) - g).abs().max(), torch.zeros(()).double())
    assert torch.autograd.gradcheck(rotary, (x,))


def test_dtypes_are_the_users_and_nothing_is_stored() -> None:
    rotary = RotaryEmbedding(8, 0.5, 16.0)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert rotary(torch.ones(3, 8, dtype=dtype)).dtype == dtype
    assert not rotary.state_dict()
    assert "longest_period=16.0" in repr(rotary)


def test_places_stay_exact_in_a_module_of_short_floats() -> None:
    """In bfloat16 place 257 would be place 256."""
    rotary = RotaryEmbedding(8)
    fine = rotary(torch.ones(300, 8))
    short = RotaryEmbedding(8).bfloat16()(torch.ones(300, 8))
    torch.testing.assert_close(short, fine)


def test_mistakes_of_rotary_positions_are_named() -> None:
    for fraction in (0.0, 1.5, math.nan):
        with pytest.raises(InvalidInput, match="fraction"):
            RotaryEmbedding(8, fraction)
    with pytest.raises(InvalidInput, match="whole pairs"):
        RotaryEmbedding(10, 0.3)
    for period in (6.0, math.inf, math.nan):
        with pytest.raises(InvalidInput, match="longest period"):
            RotaryEmbedding(8, longest_period=period)
    with pytest.raises(InvalidInput, match="heads of 8"):
        RotaryEmbedding(8)(torch.ones(3, 6))


# The geometry of clusters


def clusters(distance: float, radius: float, tokens: int = 40) -> tuple[Tensor, Tensor]:
    """Queries and keys, alternating at +-radius from centroids at +-distance / 2; the sink at 0."""
    sign = 1.0 - 2.0 * (torch.arange(tokens) % 2)
    q, k = torch.zeros(1, 1, tokens, 3), torch.zeros(1, 1, tokens, 3)
    q[..., 0], k[..., 0] = distance / 2, -distance / 2
    q[..., 1] = radius * sign
    k[..., 1:, 1] = radius * sign[1:]
    return q, k


@pytest.mark.parametrize(("distance", "radius"), [(4.0, 1.0), (3.0, 0.5), (1.0, 2.0)])
def test_separation_is_distance_over_radius(distance: float, radius: float) -> None:
    q, k = clusters(distance, radius, 41)
    # an odd number of queries, an even number of keys: their means differ from zero by radius / 41
    found = cluster_geometry(q[:, :, :], k)
    mean = radius / 41
    gap = math.hypot(distance, mean)
    spread = math.sqrt((radius**2 - mean**2 + radius**2) / 2)
    torch.testing.assert_close(found.separation, torch.tensor([[gap / spread]]))


def test_the_sink_is_left_out_of_the_cluster_of_keys() -> None:
    q, k = clusters(4.0, 1.0)
    far = k.clone()
    far[:, :, 0] = 100.0
    assert cluster_geometry(q, far).separation.equal(cluster_geometry(q, k).separation)


def test_opposition_is_the_cosine_of_the_centroids() -> None:
    ones = torch.ones(1, 1, 4, 2)
    right, up = ones * torch.tensor([2.0, 0.0]), ones * torch.tensor([0.0, 3.0])
    for k, cosine in ((right, 1.0), (-right, -1.0), (up, 0.0)):
        assert float(cluster_geometry(right, k).opposition) == pytest.approx(cosine)


def test_the_sink_takes_an_equal_share_of_equal_scores() -> None:
    zero = torch.zeros(2, 3, 5, 4)
    expected = torch.tensor([1 / 2, 1 / 3, 1 / 4, 1 / 5]).mean().expand(2, 3)
    torch.testing.assert_close(cluster_geometry(zero, zero).sink_mass, expected)


def test_a_sink_near_the_queries_takes_all_and_one_behind_the_keys_nothing() -> None:
    q, k = clusters(8.0, 0.1)
    near, behind = k.clone(), k.clone()
    near[:, :, 0, 0], behind[:, :, 0, 0] = 10.0, -20.0
    assert float(cluster_geometry(q, near).sink_mass) > 0.99
    assert float(cluster_geometry(q, behind).sink_mass) < 1e-3


def test_the_share_of_the_sink_is_that_of_a_softmax_of_scaled_scores() -> None:
    q, k = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    q[..., 0], k[..., 0, 0] = 3.0, 2.0
    # the score of the sink is 3 * 2 / sqrt(4), those of the 1, 2, 3 others are 0
    expected = sum(math.exp(3) / (math.exp(3) + others) for others in (1, 2, 3)) / 3
    assert float(cluster_geometry(q, k).sink_mass) == pytest.approx(expected)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_points_without_spread_give_a_large_number_and_at_one_place_zero(size: float) -> None:
    points = torch.full((1, 1, 4, 2), size)
    assert 1e6 < float(cluster_geometry(points, -points).separation) < 1e8
    for still in (points, torch.zeros_like(points)):
        assert float(cluster_geometry(still, still).separation) == 0.0


def test_turning_slow_pairs_beyond_the_trained_length_brings_clusters_together() -> None:
    """Tight opposite clusters in the slowest pair of RoPE fray; unturned channels do not."""
    q = torch.zeros(1, 1, 4000, 8)
    q[..., 3] = 1.0  # the first half of the slowest of four pairs: w = .001, a turn is 6283 tokens
    q = q + 0.1 * normal(1, 1, 4000, 8).float()
    k = -q
    rope, calm = RotaryEmbedding(8), RotaryEmbedding(8, 0.25, 16.0)

    def separation(rotary: RotaryEmbedding, length: int) -> float:
        turned = (rotary(x[:, :, :length]) for x in (q, k))
        return float(cluster_geometry(*turned).separation)

    assert separation(rope, 4000) < 0.5 * separation(rope, 400)
    assert separation(calm, 4000) == pytest.approx(separation(calm, 400), rel=0.1)


def test_mistakes_of_clusters_are_named() -> None:
    good = torch.ones(1, 1, 4, 2)
    for q, k in ((good, good[:, :, :3]), (good[0], good[0]), (good[:, :, :1], good[:, :, :1])):
        with pytest.raises(InvalidInput, match="one shape"):
            cluster_geometry(q, k)
