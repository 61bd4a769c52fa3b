"""Plug and play with a learned proximal operator minimises D + R, and never raises it."""

from __future__ import annotations

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.models.proximal import LPN, LeastSquares, PlugAndPlayADMM, PlugAndPlayPGD


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def shrinking() -> LPN:
    """f(y) = y / 2, whose R is |x|^2 / 2."""
    lpn = LPN((5,), hidden=3, convexity=0.5, dtype=torch.float64)
    with torch.no_grad():
        for A in lpn.psi.A:
            A.zero_()
    return lpn


def ridge(A: torch.Tensor, b: torch.Tensor, weight: float) -> torch.Tensor:
    """argmin weight/2 |A z - b|^2 + 1/2 |z|^2."""
    inner = weight * A.T @ A + torch.eye(A.shape[1], dtype=A.dtype)
    return torch.linalg.solve(inner, weight * A.T @ b.T).T


def test_descent_ends_at_the_ridge_regression() -> None:
    A, b = numbers(7, 5) / 6, numbers(3, 7, seed=1)
    step = PlugAndPlayPGD(shrinking(), LeastSquares(A))
    z = dw.fixed_point(step, numbers(3, 5), b, tol=1e-12, max_steps=500).z
    torch.testing.assert_close(z.detach(), ridge(A, b, 1.0), rtol=1e-9, atol=1e-10)


def test_admm_ends_there_too_however_strong_the_data() -> None:
    A, b = 3 * numbers(7, 5), numbers(3, 7, seed=1)
    admm = PlugAndPlayADMM(shrinking(), LeastSquares(A, weight=4.0))
    start = numbers(3, 5), torch.zeros(3, 5, dtype=torch.float64)
    z, _ = dw.fixed_point(admm, start, b, solver=dw.Picard(), tol=1e-12, max_steps=5000).z
    torch.testing.assert_close(z.detach(), ridge(A, b, 4.0), rtol=1e-8, atol=1e-9)


def test_descent_never_raises_the_objective_and_it_is_exact() -> None:
    """F(z+) <= F(z) - (1 - L) / 2 |z+ - z|^2 for any weights of the network."""
    lpn = LPN((5,), hidden=12, convexity=0.1, seed=4, dtype=torch.float64)
    with torch.no_grad():
        for A in lpn.psi.A:
            A.mul_(3.0)  # a prior that is not convex
    A, b = numbers(7, 5), numbers(3, 7, seed=1)
    fidelity = LeastSquares(A, weight=0.9 / float(torch.linalg.matrix_norm(A, 2)) ** 2)
    step = PlugAndPlayPGD(lpn, fidelity)
    values, moves, z = [], [], numbers(3, 5)
    with torch.no_grad():
        for _ in range(40):
            values.append(step.objective_after(z, b))
            after = step(z, b)
            moves.append((after - z).square().sum(1))
            z = after
    falls = torch.stack(values)[:-1] - torch.stack(values)[1:]
    # values[k] is F after k + 1 steps, so that its fall to values[k + 1] is move k + 1.
    assert float((falls - 0.05 * torch.stack(moves)[1:]).min()) > -1e-12
    last = lpn.prior(z, tol=1e-10).value + fidelity.energy(z, b)
    torch.testing.assert_close(last, values[-1], rtol=1e-8, atol=1e-9)


def test_a_fixed_point_of_admm_is_one_of_descent() -> None:
    lpn = LPN((5,), hidden=12, seed=4, dtype=torch.float64)
    A, b = numbers(7, 5) / 6, numbers(3, 7, seed=1)
    start = torch.zeros(3, 5, dtype=torch.float64)
    by_descent = dw.fixed_point(
        PlugAndPlayPGD(lpn, LeastSquares(A)), start, b, tol=1e-12, max_steps=1000
    ).z
    z, _ = dw.fixed_point(
        PlugAndPlayADMM(lpn, LeastSquares(A)), (start, start), b, tol=1e-12, max_steps=2000
    ).z
    torch.testing.assert_close(z, by_descent, rtol=1e-7, atol=1e-8)


def test_a_solve_can_be_differentiated_to_train_the_network_inside() -> None:
    lpn = LPN((5,), hidden=6, seed=4, dtype=torch.float64)
    A, b = numbers(7, 5) / 6, numbers(3, 7, seed=1)
    step, start = PlugAndPlayPGD(lpn, LeastSquares(A)), numbers(3, 5)
    gradients = []
    for how in (dw.Implicit(tol=1e-11), dw.Unrolled()):
        z = dw.fixed_point(
            step, start, b, gradient=how, solver=dw.Picard(), tol=1e-12, max_steps=300
        ).z
        (gradient,) = torch.autograd.grad(z.square().sum(), lpn.psi.A[0])
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


def test_the_force_and_the_prox_of_least_squares_are_those_of_its_energy() -> None:
    A, b, z = numbers(4, 5), numbers(3, 4, seed=1), numbers(3, 5, seed=2)
    law = LeastSquares(A, weight=0.7)
    _, generic = super(LeastSquares, law).energy_and_force(z, b)
    torch.testing.assert_close(law.force(z, b), generic)
    nearest = law.prox(z, b)
    torch.testing.assert_close(nearest - law.force(nearest, b), z)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LeastSquares(torch.zeros(3)), "A is a matrix"),
        (lambda: LeastSquares(torch.eye(3), -1.0), "weight is positive"),
        (lambda: PlugAndPlayPGD(shrinking(), LeastSquares(2 * torch.eye(5))), "PlugAndPlayADMM"),
        (
            lambda: PlugAndPlayADMM(shrinking(), LeastSquares(torch.eye(5)))(torch.zeros(1, 5)),
            "pair",
        ),
        (
            lambda: PlugAndPlayPGD(shrinking(), LeastSquares(torch.eye(5)))(torch.zeros(5)),
            r"vectors, \(B, D\)",
        ),
    ],
)
def test_bad_input_gets_one_sentence(make: object, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make()  # type: ignore[operator]
