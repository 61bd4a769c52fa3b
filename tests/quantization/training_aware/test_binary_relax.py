"""The relaxed weight is a proximal point; its schedule ends hard; evaluation is always hard."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Binary, Ternary
from driftwell.quantization.training_aware.binary_relax import Relaxation, Relaxed
from driftwell.quantization.training_aware.quantized_weights import (
    hardened,
    quantization_aware,
    seen_weights,
)


def weight() -> torch.Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("lam", [0.5, 1.0, 7.0])
@pytest.mark.parametrize("format", [Binary("tensor"), Ternary("tensor")], ids=str)
def test_the_relaxed_weight_is_the_proximal_point(lam: float, format: Binary | Ternary) -> None:
    """argmin |u - w|^2 / 2 + lam / 2 dist(u, Q)^2 where Q holds every scale and assignment.

    The minimum over u for a fixed quantized point q is lam / (1 + lam) |w - q|^2 / 2, so the best
    u belongs to the q nearest to w; every assignment with its best scale is tried.
    """
    w = weight()
    u = Relaxed(format, lam)(w)
    t = torch.cartesian_prod(*[format.levels] * 6).reshape(-1, 2, 3)
    scale = ((t * w).sum((1, 2)) / t.square().sum((1, 2)).clamp(min=1e-9)).clamp(min=0)
    q = scale[:, None, None] * t
    points = (w + lam * q) / (1 + lam)
    nearest = q[(w - q).square().sum((1, 2)).argmin()]
    distance = (points[:, None] - q).square().sum((2, 3)).amin(1)
    cost = (points - w).square().sum((1, 2)) / 2 + lam / 2 * distance
    torch.testing.assert_close(points[cost.argmin()], u)
    torch.testing.assert_close((w + lam * nearest) / (1 + lam), u)


def test_no_strength_is_float_training_and_an_infinite_one_is_hard() -> None:
    w = weight()
    assert torch.equal(Relaxed(Binary(), 0.0)(w), w)
    assert torch.equal(Relaxed(Binary(), math.inf)(w), Binary().fake(w))


def test_the_gradient_at_u_moves_w_undiminished() -> None:
    w = weight().requires_grad_()
    weights = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    (Relaxed(Binary(), 9.0)(w) * weights).sum().backward()
    assert torch.equal(w.grad, weights)


def test_evaluation_and_shipping_are_hard() -> None:
    model = quantization_aware(nn.Linear(3, 2), lambda w: Relaxed(Ternary("tensor"), 1.0))
    assert len(model.weight.unique()) > 3
    model.eval()
    assert len(model.weight.unique()) <= 3
    torch.testing.assert_close(hardened(model.train()).weight, model.eval().weight)


def test_the_schedule_reaches_its_end_whatever_its_length() -> None:
    for soft in (1, 10, 1000):
        schedule = Relaxation(soft, final=64.0, start=2.0)
        assert schedule.strength(soft - 1) == pytest.approx(64.0)
        assert schedule.strength(soft) == math.inf
    growth = [schedule.strength(t + 1) / schedule.strength(t) for t in (0, 500, 998)]
    assert growth == pytest.approx([growth[0]] * 3)


def test_the_schedule_sets_all_weights_and_the_state_keeps_it() -> None:
    def made() -> nn.Module:
        return quantization_aware(
            nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), lambda w: Relaxed(Binary())
        )

    model, other = made(), made()
    assert Relaxation(soft=5, final=16.0).apply(model, 2) == pytest.approx(4.0)
    other.load_state_dict(model.state_dict())
    for seen in seen_weights(other):
        assert seen.quantizer.strength == pytest.approx(4.0)


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidInput, match="negative"):
        Relaxed(Binary(), -1.0)
    with pytest.raises(InvalidInput, match="start <= final"):
        Relaxation(10, final=0.5)
    with pytest.raises(InvalidInput, match="no weight of this model is relaxed"):
        Relaxation(10).apply(quantization_aware(nn.Linear(2, 2), Binary()), 0)
