"""Linear systems: right answers, known step counts, honest residuals, sentences for failures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import Diverged, InvalidInput, NotConverged
from driftwell.fixed_points import Anderson, Problem, RunningMap
from driftwell.fixed_points.linear import GMRES, ConjugateGradient, Neumann, solve_linear
from driftwell.fixed_points.linear.gmres import extend, minimiser, start

B, D = 5, 24


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrices(kind: str) -> Tensor:
    """One matrix per sample, (B, D, D)."""
    eye, G = torch.eye(D, dtype=torch.float64), gaussian(B, D, D, seed=0) / D**0.5
    if kind == "positive":
        return G @ G.mT + 0.1 * eye
    if kind == "near":
        return eye - 0.4 * G
    return G + 0.3 * (G - G.mT)  # anything


def operator(A: Tensor):
    return lambda y: torch.bmm(y[:, None, :], A.mT)[:, 0]


@pytest.mark.parametrize(
    ("kind", "solver"),
    [
        ("positive", ConjugateGradient()),
        ("positive", GMRES()),
        ("any", GMRES()),
        ("near", GMRES(restart=4)),
        ("near", Neumann()),
    ],
    ids=str,
)
def test_the_answer_is_that_of_a_dense_solve(kind, solver):
    A, b = matrices(kind), gaussian(B, D, seed=1)
    found = solve_linear(operator(A), b, solver=solver, tol=1e-12, max_steps=400)
    torch.testing.assert_close(found.z, torch.linalg.solve(A, b), rtol=1e-8, atol=1e-9)
    true = (b - operator(A)(found.z)).norm(dim=1) / b.norm(dim=1)
    torch.testing.assert_close(found.residual, true, rtol=1e-6, atol=1e-14)
    assert bool((found.residual <= 1e-12).all())


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("solver", [ConjugateGradient(), GMRES()], ids=str)
def test_krylov_methods_end_after_as_many_steps_as_there_are_eigenvalues(solver, count):
    Q = torch.linalg.qr(gaussian(D, D, seed=2)).Q
    values = torch.linspace(1.0, 4.0, count, dtype=torch.float64)[torch.arange(D) % count]
    A = Q * values @ Q.T
    found = solve_linear(lambda y: y @ A, gaussian(B, D, seed=3), solver=solver, tol=1e-11)
    assert found.steps.tolist() == [count + 1] * B  # one more to measure the residual


def test_residuals_of_gmres_never_grow_and_are_what_the_recursion_says():
    A, b = operator(matrices("any")), gaussian(B, D, seed=4)
    krylov, last = start(b), b.norm(dim=1)
    for _ in range(D - 1):
        krylov = extend(krylov, A(krylov.basis[-1]))
        true = (b - A(minimiser(krylov))).norm(dim=1)
        torch.testing.assert_close(krylov.residual, true, rtol=1e-7, atol=1e-12)
        assert bool((true <= last * (1 + 1e-12)).all())
        last = true


def test_gmres_is_the_smallest_residual_of_its_space():
    A, b = matrices("any"), gaussian(B, D, seed=4)
    krylov = start(b)
    powers = [b]
    for _ in range(5):
        krylov = extend(krylov, operator(A)(krylov.basis[-1]))
        powers.append(operator(A)(powers[-1]))
    images = torch.stack(powers[1:], dim=2)
    weights = torch.linalg.lstsq(images, b[:, :, None]).solution
    best = (b - (images @ weights)[:, :, 0]).norm(dim=1)
    torch.testing.assert_close(krylov.residual, best, rtol=1e-8, atol=0)


def test_anderson_with_a_full_memory_is_gmres_an_iterate_later():
    """Walker and Ni (2011): z_{k+1} of Anderson is f(z_k of GMRES) for f(z) = z + b - A z."""
    A, b = operator(matrices("near")), gaussian(B, D, seed=7)
    solver, z = Anderson(memory=12, ridge=0.0, restart=1e9), torch.zeros_like(b)
    f = RunningMap(Problem(lambda z, rows=None: z + b - A(z), z, solver, 0.0, 99))
    carry, krylov = solver.init(z), start(b)
    for _ in range(6):
        z, carry = solver.step(z, f(z), carry, f)
        best = minimiser(krylov)
        torch.testing.assert_close(z, best + b - A(best), rtol=1e-7, atol=1e-8)
        krylov = extend(krylov, A(krylov.basis[-1]))


@pytest.mark.parametrize("solver", [ConjugateGradient(), GMRES(restart=7), Neumann()], ids=str)
def test_a_sample_does_not_see_its_neighbours(solver):
    eye = torch.eye(D, dtype=torch.float64)
    A = torch.stack([eye * s + 0.02 * torch.ones_like(eye) for s in (0.3, 0.9, 1.0, 0.5, 0.8)])
    b = gaussian(B, D, seed=5) * torch.logspace(-6, 6, B, dtype=torch.float64)[:, None]
    together = solve_linear(operator(A), b, solver=solver, tol=1e-8)
    alone = solve_linear(operator(A[2:3]), b[2:3], solver=solver, tol=1e-8)
    A[0] = torch.nan
    beside = solve_linear(operator(A), b, solver=solver, tol=1e-8, throw=False)
    for other in (alone.z[0], beside.z[2]):
        torch.testing.assert_close(other, together.z[2], rtol=1e-12, atol=0)
    assert int(alone.steps[0]) == int(together.steps[2]) == int(beside.steps[2])
    assert beside.status.tolist() == [dw.Status.DIVERGED] + [dw.Status.CONVERGED] * 4
    with pytest.raises(Diverged, match=r"sample 0 left the finite numbers.*1 of 5"):
        solve_linear(operator(A), b, solver=solver)


def test_an_indefinite_matrix_is_named_by_conjugate_gradients():
    A = torch.diag(torch.tensor([1.0, -2.0]))
    b = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    found = solve_linear(lambda y: y @ A, b, solver=ConjugateGradient(), throw=False)
    assert found.status.tolist() == [dw.Status.BUDGET_REACHED, dw.Status.CONVERGED]
    assert found.broke_down.tolist() == [True, False]
    with pytest.raises(NotConverged, match=r"p\^T A p <= 0.*use solver=GMRES"):
        solve_linear(lambda y: y @ A, b, solver=ConjugateGradient())
    torch.testing.assert_close(
        solve_linear(lambda y: y @ A, b).z, torch.tensor([[1.0, -0.5], [1.0, 0.0]])
    )


def test_a_singular_system_without_a_solution_returns_the_best_and_says_so():
    A = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    b = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    found = solve_linear(lambda y: y @ A, b, throw=False, max_steps=40)
    assert found.status.tolist() == [dw.Status.BUDGET_REACHED]
    assert float(found.residual) == pytest.approx(0.8)  # the part of b that A cannot reach
    assert bool(torch.isfinite(found.z).all())


def test_a_divergent_series_keeps_the_best_it_saw():
    found = solve_linear(
        lambda y: 2.5 * y, torch.ones(1, 3), solver=Neumann(), throw=False, max_steps=20
    )
    assert found.status.tolist() == [dw.Status.BUDGET_REACHED]
    assert float(found.residual) == 1.0  # that of z = 0
    assert found.explain().startswith("sample 0 used up its steps")


def test_zero_has_the_solution_zero_at_no_cost():
    found = solve_linear(lambda y: y / 0.0, torch.zeros(2, 3))
    assert found.steps.tolist() == [0, 0]
    assert found.residual.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("solver", [ConjugateGradient(), GMRES(), Neumann()], ids=str)
@pytest.mark.parametrize("c", [1e-20, 1e20])
def test_units_of_the_right_hand_side_do_not_matter(solver, c):
    A, b = 0.8 * torch.eye(D) + 0.01, gaussian(B, D, seed=6).float()
    one = solve_linear(lambda y: y @ A, b, solver=solver, tol=1e-5)
    many = solve_linear(lambda y: y @ A, b * c, solver=solver, tol=1e-5)
    assert torch.equal(one.steps, many.steps)
    torch.testing.assert_close(many.z / c, one.z, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(A=3), "A must be a callable"),
        (dict(b=torch.ones(3)), r"b must be \(B, D\)"),
        (dict(b=torch.ones(1, 2, dtype=torch.float16)), r"b must be \(B, D\)"),
        (dict(b=torch.full((1, 2), torch.nan)), "NaN"),
        (dict(solver="cg"), "solver must be a LinearSolver"),
        (dict(tol=-1.0), "tol must be"),
        (dict(max_steps=0), "max_steps must be"),
        (dict(A=lambda y: y[:, :1]), "A must keep the shape"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence):
    given = {"A": lambda y: y, "b": torch.ones(1, 2), **arguments}
    with pytest.raises(InvalidInput, match=sentence):
        solve_linear(given.pop("A"), given.pop("b"), **given)
    with pytest.raises(InvalidInput):
        GMRES(restart=0)
