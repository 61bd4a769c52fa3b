"""Deep conjugate directions: conjugacy, monotone energy, any network, Ritz vectors, training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput, NotConverged
from driftwell.fixed_points.linear import ConjugateGradient, solve_linear
from driftwell.fixed_points.linear.deep_conjugate import (
    DeepConjugateDirection,
    PyramidNet,
    ritz_vectors,
    train_directions,
)

D = 12


def spd() -> Tensor:
    g = torch.Generator().manual_seed(0)
    M = torch.randn(D, D, generator=g, dtype=torch.float64)
    return M @ M.T / D + 0.1 * torch.eye(D, dtype=torch.float64)


def right() -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(3, D, generator=g, dtype=torch.float64)


class Recorded:
    """A, which remembers what it was asked."""

    def __init__(self, A: Tensor) -> None:
        self.A, self.asked = A, []

    def __call__(self, y: Tensor) -> Tensor:
        self.asked.append(y)
        return y @ self.A


class Odd(nn.Module):
    """A guess that has little to do with A^-1 r."""

    def forward(self, r: Tensor) -> Tensor:
        return torch.tanh(3 * r) + 0.2 * r.roll(1, 1)


def test_with_the_residual_for_a_guess_it_is_conjugate_gradients():
    A, b = spd(), right()
    for budget in (3, 6):
        ours, theirs = (
            s.cycle(lambda y: y @ A, b, torch.zeros(3, dtype=torch.float64), budget).z
            for s in (DeepConjugateDirection(nn.Identity()), ConjugateGradient())
        )
        assert torch.allclose(ours, theirs, atol=1e-8)


def test_with_the_inverse_for_a_guess_one_step_is_enough():
    A, b = spd(), right()

    class Inverse(nn.Module):
        def forward(self, r: Tensor) -> Tensor:
            return torch.linalg.solve(A, r.T).T

    found = solve_linear(lambda y: y @ A, b, solver=DeepConjugateDirection(Inverse()), tol=1e-10)
    assert found.steps.tolist() == [2, 2, 2]  # one product, and one of the verb to be sure


def test_neighbouring_directions_are_conjugate_and_the_energy_norm_falls():
    A, b = spd(), right()[:1]
    operator = Recorded(A)
    solution = torch.linalg.solve(A, b.T).T
    solver, zero = DeepConjugateDirection(Odd()), torch.zeros(1, dtype=torch.float64)
    solver.cycle(operator, b, zero, 8)
    p = torch.cat(operator.asked)
    conjugacy = (p @ A @ p.T).abs()
    for gap in (1, 2):
        assert conjugacy.diagonal(gap).max() < 1e-12
    errors = [solution - solver.cycle(lambda y: y @ A, b, zero, k).z for k in range(1, 9)]
    energy = torch.stack([(e @ A * e).sum() for e in errors])
    assert (energy.diff() <= 1e-12).all()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_useless_network_falls_back_on_the_residual(value):
    class Useless(nn.Module):
        def forward(self, r: Tensor) -> Tensor:
            return torch.full_like(r, value)

    A, b = spd(), right()
    found = solve_linear(lambda y: y @ A, b, solver=DeepConjugateDirection(Useless()), tol=1e-8)
    assert torch.allclose(found.z @ A, b, atol=1e-6)


def test_an_indefinite_matrix_is_told():
    A = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    b = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    with pytest.raises(NotConverged, match="not positive definite"):
        solve_linear(lambda y: y @ A, b, solver=DeepConjugateDirection(nn.Identity()))


def test_ritz_vectors_of_a_full_space_are_the_eigenvectors():
    A = spd()
    values, vectors = ritz_vectors(lambda y: y @ A, right()[:1], D)
    assert torch.allclose(values, torch.linalg.eigvalsh(A))
    assert torch.allclose(vectors @ A, values[:, None] * vectors, atol=1e-10)


def test_ritz_values_of_a_small_space_lie_inside_and_find_the_ends():
    A = torch.diag(torch.linspace(1, 100, 200, dtype=torch.float64) ** 2)
    start = torch.ones(1, 200, dtype=torch.float64)
    values, vectors = ritz_vectors(lambda y: y @ A, start, 40)
    assert values[-1] == pytest.approx(1e4, rel=1e-6)
    assert values.min() >= 1.0
    assert torch.allclose(vectors @ vectors.T, torch.eye(40, dtype=torch.float64), atol=1e-10)


def test_ritz_vectors_stop_where_the_krylov_space_closes():
    A = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    start = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    assert ritz_vectors(lambda y: y @ A, start, 3)[0].tolist() == pytest.approx([1.0, 2.0])


def test_training_makes_a_linear_net_the_inverse():
    A = spd()
    values, vectors = ritz_vectors(lambda y: y @ A, right()[:1], D)
    net = nn.Linear(D, D, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.eye(D))
    losses: list[float] = []
    train_directions(
        net, lambda y: y @ A, values, vectors, updates=300, lr=0.05,
        progress=lambda _, loss: losses.append(loss),
    )  # fmt: skip
    assert losses[-1] < 0.05 * losses[0]
    found = solve_linear(lambda y: y @ A, right(), solver=DeepConjugateDirection(net), tol=1e-4)
    plain = solve_linear(lambda y: y @ A, right(), solver=ConjugateGradient(), tol=1e-4)
    assert found.steps.max() < plain.steps.min()


def test_bad_settings_are_refused():
    with pytest.raises(InvalidInput, match="divisible by 4"):
        PyramidNet(6, levels=3)
    with pytest.raises(InvalidInput, match="Ritz"):
        ritz_vectors(lambda y: y, torch.zeros(1, 3), 2)
