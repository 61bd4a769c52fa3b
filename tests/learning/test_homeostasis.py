"""Asymmetry of a Jacobian: against dense algebra, without bias, differentiable."""

from __future__ import annotations

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.learning import jacobian_homeostasis, jacobian_symmetry

N = 5


@pytest.fixture
def W() -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    return torch.randn(N, N, generator=g, dtype=torch.float64, requires_grad=True)


def law(W):
    return lambda z: torch.tanh(z) @ W.T


def state() -> torch.Tensor:
    return torch.linspace(-1, 1, 2 * N, dtype=torch.float64).reshape(2, N)


def dense(W: torch.Tensor) -> torch.Tensor:
    """J = W diag(tanh') of each sample, (2, N, N)."""
    return W * (1 - torch.tanh(state()) ** 2)[:, None, :]


def test_all_unit_vectors_give_the_exact_asymmetry(W):
    J = dense(W)
    truth = 0.5 * (J - J.mT).square().sum((1, 2)) / N
    assert torch.allclose(jacobian_homeostasis(law(W), state(), probes=None), truth)


def test_in_the_rates_it_is_the_asymmetry_of_the_weights(W):
    found = jacobian_homeostasis(law(W), state(), activation=torch.tanh, probes=None)
    truth = 0.5 * (W - W.T).square().sum() / N
    assert torch.allclose(found, truth.expand(2))


def test_random_signs_are_unbiased(W):
    z = state()[:1].expand(500, -1)
    found = jacobian_homeostasis(law(W), z, probes=4, seed=7).detach()
    exact = jacobian_homeostasis(law(W), z[:1], probes=None)
    error = found.std() / 500**0.5
    assert abs(found.mean() - exact) < 4.5 * error


def test_probes_are_keyed_by_seed_and_step(W):
    def draw(**key):
        return jacobian_homeostasis(law(W), state(), **key)

    assert torch.equal(draw(step=1), draw(step=1))
    assert not torch.equal(draw(step=1), draw(step=2))
    assert not torch.equal(draw(seed=1), draw(seed=2))


def test_it_is_differentiable_in_the_weights(W):
    penalty = jacobian_homeostasis(law(W), state(), activation=torch.tanh, probes=None).mean()
    (slope,) = torch.autograd.grad(penalty, W)
    assert torch.allclose(slope, 2 * (W - W.T) / N)


def test_a_symmetric_law_is_not_penalised_and_measures_one():
    S = torch.ones(N, N, dtype=torch.float64)
    f = lambda z: z @ S.T  # noqa: E731
    assert jacobian_homeostasis(f, state()).abs().max() < 1e-12
    assert torch.allclose(jacobian_symmetry(f, state()), torch.ones(2, dtype=torch.float64))


def test_a_rotation_measures_zero():
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert jacobian_symmetry(lambda z: z @ turn.T, torch.zeros(1, 2)).item() == 0.0


def test_no_probe_is_refused(W):
    with pytest.raises(InvalidInput, match="at least one probe"):
        jacobian_homeostasis(law(W), state(), probes=0)
