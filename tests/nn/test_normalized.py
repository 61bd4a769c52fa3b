"""Bounds on weights: they hold, they are nearest, and they leave alone what is inside."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from driftwell.core.errors import InvalidInput
from driftwell.nn.normalized import (
    PowerSpectralBound,
    RowSumBound,
    SpectralBound,
    project_l1_ball,
)


def gaussian(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_spectral_bound_is_exact_and_keeps_the_direction():
    W = gaussian(9, 7)
    bounded = SpectralBound(0.9)(W)
    assert float(torch.linalg.matrix_norm(bounded, 2)) == pytest.approx(0.9, abs=1e-12)
    torch.testing.assert_close(bounded / bounded.norm(), W / W.norm())
    assert torch.equal(SpectralBound(0.9)(0.01 * W), 0.01 * W)


def test_row_sums_are_bounded_by_the_nearest_weight():
    v = gaussian(6, 10)
    w = project_l1_ball(v, 1.5)
    assert bool((w.abs().sum(1) <= 1.5 + 1e-12).all())
    # nearest point of a convex set C: (v - w) . (c - w) <= 0 for all c in C; vertices are enough
    vertices = 1.5 * torch.cat([torch.eye(10, dtype=v.dtype), -torch.eye(10, dtype=v.dtype)])
    inner = ((v - w)[:, None] * (vertices[None] - w[:, None])).sum(-1)
    assert float(inner.max()) <= 1e-12
    inside = 0.1 * v / v.abs().sum(1, keepdim=True)
    assert torch.equal(project_l1_ball(inside, 1.5), inside)
    assert torch.equal(RowSumBound(0.5)(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_power_iteration_finds_the_norm_from_below_and_goes_on_from_where_it_was():
    W = gaussian(30, 20)
    bound = PowerSpectralBound(1.0, rows=30)
    norms = [float(torch.linalg.matrix_norm(bound(W), 2)) for _ in range(200)]
    assert all(n >= 1.0 - 1e-12 for n in norms)
    assert norms[-1] == pytest.approx(1.0, abs=1e-6)
    assert norms[0] > norms[10] > norms[60]
    bound.eval()
    held = bound.direction.clone()
    assert torch.equal(bound(W), bound(W))
    assert torch.equal(held, bound.direction)


@pytest.mark.parametrize("bound", [SpectralBound(0.7), RowSumBound(0.7)], ids=["svd", "l1"])
def test_derivatives_agree_with_finite_differences(bound):
    assert torch.autograd.gradcheck(bound, (gaussian(4, 5).requires_grad_(True),))


def test_they_are_parametrizations_of_layers():
    for module, bound in (
        (nn.Linear(8, 8), SpectralBound(0.5)),
        (nn.Conv2d(3, 4, 3), RowSumBound(0.5)),
        (nn.Linear(8, 8), PowerSpectralBound(0.5, rows=8, iterations=50)),
    ):
        parametrize.register_parametrization(module, "weight", bound)
        W = module.weight.detach().flatten(1)
        size = W.abs().sum(1).max() if isinstance(bound, RowSumBound) else torch.linalg.norm(W, 2)
        assert float(size) <= 0.5 * (1 + 1e-4)
        module.weight.sum().backward()
        assert module.parametrizations.weight.original.grad is not None


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_settings_are_refused(limit):
    for make in (SpectralBound, RowSumBound, lambda c: PowerSpectralBound(c, rows=3)):
        with pytest.raises(InvalidInput, match="limit"):
            make(limit)
    with pytest.raises(InvalidInput, match="at least 1"):
        PowerSpectralBound(1.0, rows=0)
