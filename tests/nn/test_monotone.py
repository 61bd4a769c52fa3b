"""Monotone layers: the modulus, the resolvent, activations that are proximal operators."""

from __future__ import annotations

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.nn.monotone import Clamp, MonotoneLayer, SoftThreshold
from driftwell.testing import check_map

N, INPUTS = 12, 4


def gaussian(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("margin", [0.05, 1.0, 3.0])
@pytest.mark.parametrize("gain", [0.1, 5.0])
def test_i_minus_w_is_strongly_monotone_with_the_margin(margin, gain):
    layer = MonotoneLayer(INPUTS, N, margin=margin, gain=gain, seed=3).double()
    gap = torch.eye(N, dtype=torch.float64) - layer.weight().detach()
    smallest = float(torch.linalg.eigvalsh(0.5 * (gap + gap.T)).min())
    assert smallest >= margin - 1e-9
    A = layer.A.detach()
    A[0] = 0.0  # with A singular the margin is attained
    layer.A.data = A
    gap = torch.eye(N, dtype=torch.float64) - layer.weight().detach()
    assert float(torch.linalg.eigvalsh(0.5 * (gap + gap.T)).min()) == pytest.approx(margin)


def test_every_skew_part_is_allowed_and_w_can_be_large():
    layer = MonotoneLayer(INPUTS, N, gain=20.0).double()
    assert float(torch.linalg.matrix_norm(layer.weight().detach(), 2)) > 50.0


def test_the_resolvent_undoes_i_plus_alpha_times_i_minus_w():
    law = MonotoneLayer(INPUTS, N, gain=2.0).double().law()
    u = gaussian(5, N)
    for alpha in (0.1, 3.0):
        y = law.resolvent(u, alpha)
        torch.testing.assert_close(y + alpha * (y - law.linear(y)), u)
        shrunk = y.norm(dim=1) / u.norm(dim=1)
        assert bool((shrunk <= 1 / (1 + alpha * law.margin) + 1e-12).all())
    assert law.lipschitz() == pytest.approx(
        float(torch.linalg.matrix_norm(torch.eye(N) - law.W.detach(), 2))
    )


@pytest.mark.parametrize("prox", [Clamp(), Clamp(-1.0, 1.0), SoftThreshold(0.4)], ids=str)
@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_activations_minimise_what_they_say(prox, alpha):
    u = torch.linspace(-3, 3, 41, dtype=torch.float64)
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    if isinstance(prox, Clamp):
        inside = (grid >= prox.low) & (grid <= prox.high)
        cost = torch.where(inside, 0.0, torch.inf)
    else:
        cost = prox.threshold * grid.abs()
    best = grid[(0.5 * (grid - u[:, None]) ** 2 + alpha * cost).argmin(dim=1)]
    torch.testing.assert_close(prox(u, alpha), best, rtol=0, atol=1e-3)


def test_the_layer_is_a_map():
    layer = MonotoneLayer(INPUTS, N, prox=SoftThreshold(0.2), seed=5).double().requires_grad_(False)
    check_map(layer, gaussian(4, N), gaussian(4, INPUTS, seed=1))
    z, x = gaussian(4, N), gaussian(4, INPUTS, seed=1)
    assert torch.equal(layer(z, x), layer.law()(z, x))


def test_seeds_make_weights_without_the_global_random_state():
    before = torch.get_rng_state()
    one, same = MonotoneLayer(INPUTS, N, seed=1), MonotoneLayer(INPUTS, N, seed=1)
    other = MonotoneLayer(INPUTS, N, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.A, same.A)
    assert not torch.equal(one.A, other.A)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MonotoneLayer(0, 3),
        lambda: MonotoneLayer(3, 0),
        lambda: MonotoneLayer(3, 3, margin=0.0),
        lambda: MonotoneLayer(3, 3, gain=-1.0),
        lambda: Clamp(1.0, 1.0),
        lambda: SoftThreshold(-0.1),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(InvalidInput):
        make()
