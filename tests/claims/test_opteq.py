"""What the OptEq claims measure with: a quadratic program by hand, and errors that are seen."""

from __future__ import annotations

import torch

from driftwell.claims.equilibrium.opteq import _layer, _least_norm, _rise_along_picard
from driftwell.claims.equilibrium.opteq_langevin import _covariance_score, _deviations
from driftwell.models.equilibrium.primitives import Identity, Tanh


def test_least_norm_of_half_planes() -> None:
    """z_1 >= 1 and z_1 + z_2 >= 3: the corner is not nearest, (1.5, 1.5) is."""
    W = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    nearest = _least_norm(W, torch.tensor([-1.0, -3.0], dtype=torch.float64))
    torch.testing.assert_close(nearest, torch.full((2,), 1.5, dtype=torch.float64))
    inside = _least_norm(W, torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert not bool(inside.any())


def test_layers_have_exactly_the_norm_asked_for() -> None:
    for bound in (0.5, 1.0):
        W = _layer(3, 8, 12, Tanh(), bound, seed=1).weight().detach()
        assert abs(float(torch.linalg.matrix_norm(W, 2)) - bound) < 1e-12


def test_energy_falls_with_the_transpose_and_rises_with_another_matrix() -> None:
    slack, rising = _rise_along_picard(6, False, seed=5)
    assert slack < 1e-12
    assert rising == 0.0
    assert _rise_along_picard(6, True, seed=5)[1] == 1.0


def test_deviations_are_in_standard_errors_of_independent_chains() -> None:
    generator = torch.Generator().manual_seed(0)
    chains = torch.randn(1, 10_000, 1, dtype=torch.float64, generator=generator)
    records = chains.expand(50, -1, -1)  # fifty records of a chain that does not move
    assert _deviations(records, torch.zeros(1)) < 4.5
    assert 5 < _deviations(records + 0.1, torch.zeros(1)) < 15


def test_a_wrong_sign_is_far_outside_the_errors() -> None:
    assert _covariance_score(Identity(), 0.3, True, seed=1) > 100
