"""Training in half precision: what rounding keeps, what a step loses, what a scale saves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.nn.drawn_layers import drawn_conv, drawn_linear
from driftwell.quantization.edge.half_precision import (
    HalfDescent,
    LossScale,
    lost_share,
    stored_in_half,
)
from driftwell.quantization.edge.training_half_updates import (
    MasterWeights,
    NearestRounding,
    StochasticRounding,
    WeightUpdate,
    round_to_half,
)

UPDATES = (MasterWeights(), StochasticRounding(3), NearestRounding())
UNSCALED = LossScale(1.0, growth=1.0, backoff=1.0)


def spread(count: int) -> Tensor:
    """Values over the whole range of half precision, subnormal ones too."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, generator=draw) * 2.0 ** torch.empty(count).uniform_(
        -26, 14, generator=draw
    )


def test_random_rounding_gives_one_of_the_two_neighbours() -> None:
    v, draw = spread(20_000), torch.Generator().manual_seed(0)
    q = round_to_half(v, torch.rand(v.shape, generator=draw))
    assert torch.equal(q.half().float(), q)
    # neighbours by stepping from the nearest number in either direction
    near = v.half()
    below = torch.nextafter(near, torch.tensor(-torch.inf).half()).float()
    above = torch.nextafter(near, torch.tensor(torch.inf).half()).float()
    low = torch.where(near.float() <= v, near.float(), below)
    high = torch.where(near.float() >= v, near.float(), above)
    assert bool(((q == low) | (q == high)).all())
    assert 0.2 < float((q == high)[low != high].float().mean()) < 0.8


def test_random_rounding_is_right_in_the_mean_over_an_even_grid_of_u() -> None:
    v, grid = spread(300).double(), (torch.arange(4096) + 0.5) / 4096
    mean = torch.stack([round_to_half(v, torch.full_like(v, float(u))) for u in grid]).mean(0)
    exponent = torch.frexp(v)[1].clamp(min=-13) - 11
    assert bool(((mean - v).abs() <= 2.0**exponent / 4096).all())


@pytest.mark.parametrize("update", UPDATES)
def test_a_step_leaves_numbers_of_half_precision(update: WeightUpdate) -> None:
    w = (spread(50).half().float(), torch.ones(2, 3))
    moves = tuple(torch.full_like(each, 0.013) for each in w)
    after, _ = update.apply(w, update.init(w), moves, 0)
    assert all(torch.equal(each.half().float(), each) for each in after)


def test_moves_below_half_a_step_are_lost_but_for_masters_and_chance() -> None:
    """1000 moves of 2^-14 take 1 to 1 + 1000 / 2^14 = 1.061; the next number is 2^-10 away."""
    move, found = (torch.full((400,), 2.0**-14),), []
    for update in UPDATES:
        w: tuple[Tensor, ...] = (torch.ones(400),)
        carry = update.init(w)
        for step in range(1000):
            w, carry = update.apply(w, carry, move, step)
        found.append(w[0])
    exact = 1 + 1000 / 2**14
    assert torch.equal(found[0], torch.full((400,), exact).half().float())
    # each of 1000 roundings has a variance of at most (2^-10)^2 / 16: .0077 a weight, .0004 in all
    assert abs(float(found[1].mean()) - exact) < 5 * 0.0004
    assert bool((found[2] == 1.0).all())


def test_stored_values_and_gradients_are_those_of_rounding_by_hand() -> None:
    layer = drawn_linear(4, 3, torch.Generator().manual_seed(0))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    sent = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    with stored_in_half(layer):
        y = layer(x)
    assert torch.equal(y, (x.half().float() @ layer.weight.T + layer.bias).half().float())
    (dx,) = torch.autograd.grad(y, x, sent)
    assert torch.equal(dx, (sent.half().float() @ layer.weight).half().float())
    assert not torch.equal(layer(x), y)  # and nothing stays behind


def test_gradients_in_half_precision_are_near_those_in_double() -> None:
    draw = torch.Generator().manual_seed(4)
    model = nn.Sequential(drawn_conv(1, 4, 3, draw), nn.ReLU(), nn.Flatten(),
                          drawn_linear(64, 3, draw))  # fmt: skip
    HalfDescent(0.1).init(model)
    x, y = torch.randn(8, 1, 4, 4, generator=draw), torch.arange(8) % 3
    with stored_in_half(model):
        loss = nn.functional.cross_entropy(model(x.half().float()), y)
        found = torch.autograd.grad(loss, list(model.parameters()))
    model.double()
    loss = nn.functional.cross_entropy(model(x.half().double()), y)
    for a, b in zip(found, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        assert (a - b).norm() < 2e-3 * b.norm()


def test_a_scale_saves_gradients_that_would_be_zero() -> None:
    """A gradient of 1e-9 is zero in half precision, and is not behind a factor of 4096 x 64."""
    moved = {}
    for scale in (UNSCALED, LossScale(2.0**18)):
        layer = nn.utils.skip_init(nn.Linear, 1, 1, bias=False)
        nn.init.zeros_(layer.weight)
        descent = HalfDescent(1e6, MasterWeights(), scale)
        state = descent.init(layer)
        state = descent.step(layer, lambda layer=layer: 1e-9 * layer(torch.ones(1, 1)).sum(), state)
        moved[scale.initial] = float(layer.weight.detach())
        assert state.skipped == 0
    assert moved[1.0] == 0.0
    assert moved[2.0**18] == pytest.approx(-1e-3, rel=2e-3)


def test_overflow_leaves_the_step_out_and_shrinks_the_scale_until_it_fits() -> None:
    layer = drawn_linear(2, 1, torch.Generator().manual_seed(0))
    descent = HalfDescent(1e-3, scale=LossScale(2.0**20, interval=3))
    state, before = descent.init(layer), layer.weight.clone()
    seen = []
    for _ in range(10):
        state = descent.step(layer, lambda: (layer(torch.ones(1, 2)) - 3.0).square().sum(), state)
        seen.append(state.scale)
        if state.step == 1:
            assert state.skipped == 1
            assert torch.equal(layer.weight, before)
    assert seen[:5] == [2.0**19, 2.0**18, 2.0**17, 2.0**16, 2.0**15]
    assert bool(torch.isfinite(layer.weight).all())
    assert state.skipped < 10
    assert LossScale(8.0, interval=1).after(2.0**40, 0, finite=True)[0] == 2.0**40


def test_rounding_to_nearest_stops_learning_where_the_others_go_on() -> None:
    """Least squares with moves below half a step of the weights, 1 away from the optimum."""
    x = torch.eye(8)
    ends = []
    for update in UPDATES:
        layer = nn.utils.skip_init(nn.Linear, 8, 8, bias=False)
        with torch.no_grad():
            layer.weight.fill_(1.5)
        descent = HalfDescent(0.02, update)
        state = descent.init(layer)
        for _ in range(400):
            state = descent.step(layer, lambda layer=layer: (layer(x) - 1.0).square().mean(), state)
        ends.append((state.loss, state.lost))
    exact = (0.5 * (1 - 0.02 * 2 / 64) ** 399) ** 2
    assert ends[0][0] == pytest.approx(exact, rel=0.01)
    assert ends[1][0] == pytest.approx(exact, rel=0.05)
    assert ends[2] == (0.25, 1.0)


def test_frozen_parameters_stay_and_shares_count_only_moves() -> None:
    layer = drawn_linear(3, 2, torch.Generator().manual_seed(0))
    layer.bias.requires_grad_(False)
    descent = HalfDescent(0.1)
    state = descent.init(layer)
    descent.step(layer, lambda: layer(torch.ones(1, 3)).sum(), state)
    assert bool((layer.bias == 0).all())
    assert lost_share((torch.ones(3),), (torch.ones(3),), (torch.tensor([0.0, 1.0, 1.0]),)) == 1.0


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InvalidInput, match="positive"):
        HalfDescent(0.0)
    with pytest.raises(InvalidInput, match="scale"):
        LossScale(backoff=2.0)
    with pytest.raises(InvalidInput, match="interval"):
        LossScale(interval=0)
    with pytest.raises(InvalidInput, match="float32"):
        HalfDescent(0.1).init(nn.Linear(2, 2).double())
    large = nn.Linear(2, 2)
    large.weight.data.fill_(1e5)
    with pytest.raises(InvalidInput, match="65504"):
        HalfDescent(0.1).init(large)
