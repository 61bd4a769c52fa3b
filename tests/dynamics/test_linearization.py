"""Jacobian products and the spectral radius, against dense algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.state import inner
from driftwell.dynamics import jacobian_vector, ritz_values, spectral_radius, vector_jacobian


def gaussian(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


W = gaussian(6, 6, seed=0) / math.sqrt(6)
Z = gaussian(3, 6, seed=1)


def f(z: Tensor) -> Tensor:
    return torch.tanh(z @ W.T)


def dense(z: Tensor) -> Tensor:
    """Jacobian of each sample, (B, D, D)."""
    return (1 - torch.tanh(z @ W.T) ** 2)[:, :, None] * W


def test_products_against_the_dense_jacobian():
    v = gaussian(3, 6, seed=2)
    torch.testing.assert_close(jacobian_vector(f, Z, v), torch.einsum("bij,bj->bi", dense(Z), v))
    torch.testing.assert_close(vector_jacobian(f, Z, v), torch.einsum("bij,bi->bj", dense(Z), v))


def test_products_of_trees_with_input_are_adjoint():
    def g(z, x):
        return {"a": z["a"] * x + z["b"][0].sin(), "b": (z["a"] ** 2,)}

    z = {"a": Z, "b": (gaussian(3, 6, seed=3),)}
    v = {"a": gaussian(3, 6, seed=4), "b": (gaussian(3, 6, seed=5),)}
    w = {"a": gaussian(3, 6, seed=6), "b": (gaussian(3, 6, seed=7),)}
    x = gaussian(3, 6, seed=8)
    left = inner(w, jacobian_vector(g, z, v, x))
    right = inner(vector_jacobian(g, z, w, x), v)
    torch.testing.assert_close(left, right)


def test_spectral_radius_of_a_rotation_is_its_modulus():
    """A complex pair of modulus .9, at many angles: a Rayleigh quotient gives anything below."""
    for angle in torch.linspace(0.05, 3.1, 9).tolist():
        c, s = 0.9 * math.cos(angle), 0.9 * math.sin(angle)
        turn = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
        radius = spectral_radius(lambda z, turn=turn: z @ turn.T, torch.zeros(2, 2).double())
        torch.testing.assert_close(radius, torch.full((2,), 0.9, dtype=torch.float64))


def test_spectral_radius_is_exact_when_the_space_is_the_state():
    expected = torch.linalg.eigvals(dense(Z)).abs().amax(dim=1)
    torch.testing.assert_close(spectral_radius(f, Z), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_spectral_radius_of_larger_random_matrices(seed):
    n = 100
    a = gaussian(n, n, seed=seed) / math.sqrt(n)
    expected = float(torch.linalg.eigvals(a).abs().max())
    z = torch.zeros(1, n, dtype=torch.float64)
    radius = float(spectral_radius(lambda z: z @ a.T, z, krylov=100))
    assert radius == pytest.approx(expected, rel=1e-6)
    rough = float(spectral_radius(lambda z: z @ a.T, z, krylov=40))
    assert rough == pytest.approx(expected, rel=0.1)


def test_spectral_radius_in_a_small_invariant_space():
    """Rank one: the Krylov space closes after two vectors."""
    u, v = gaussian(20, seed=9), gaussian(20, seed=10)
    a = torch.outer(u, v)
    radius = spectral_radius(lambda z: z @ a.T, torch.zeros(2, 20, dtype=torch.float64))
    torch.testing.assert_close(radius, (u @ v).abs().expand(2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("a", [torch.zeros(4, 4), torch.eye(4), torch.diag(torch.ones(3), 1)])
def test_spectral_radius_of_zero_identity_and_a_nilpotent_matrix(a):
    radius = spectral_radius(lambda z: z @ a.double().T, torch.zeros(1, 4, dtype=torch.float64))
    expected = float(torch.linalg.eigvals(a).abs().max())
    assert float(radius) == pytest.approx(expected, abs=1e-3)  # nilpotent: eps^(1/4)


def test_spectral_radius_is_per_sample_and_float32_too():
    scale = torch.tensor([[0.5], [2.0]])
    radius = spectral_radius(lambda z, x: x * z, torch.zeros(2, 5), scale)
    torch.testing.assert_close(radius, torch.tensor([0.5, 2.0]))


def test_krylov_must_be_positive():
    with pytest.raises(InvalidInput, match="krylov must be at least 1, got 0"):
        spectral_radius(f, Z, krylov=0)


def test_states_and_directions_may_be_expanded_over_the_batch():
    z, v = torch.ones(1, 3).expand(4, 3), torch.ones(1, 3).expand(4, 3)
    assert torch.equal(jacobian_vector(lambda z: z**2, z, v), torch.full((4, 3), 2.0))


def test_ritz_values_are_the_eigenvalues_where_the_space_is_whole():
    a = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = ritz_values(lambda z: z @ a.T, torch.zeros(2, 5, dtype=torch.float64))
    assert bool((found.abs().diff(dim=1) <= 1e-12).all())  # largest modulus first
    wanted = torch.linalg.eigvals(a)
    for row in found:
        gaps = (row[:, None] - wanted[None, :]).abs()
        assert float(gaps.amin(dim=0).max()) < 1e-9
        assert float(gaps.amin(dim=1).max()) < 1e-9
