"""Newton-Krylov: quadratic, exact on affine maps, safe far from the answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Anderson, Picard
from driftwell.fixed_points.loops import FixedBudget
from driftwell.fixed_points.solvers.newton_krylov import NewtonKrylov
from driftwell.testing import check_solver

D = 8


def gaussian(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tanh_network(gain: float = 1.0, batch: int = 4, d: int = D):
    W, drive = gain * gaussian(d, d, seed=0) / d**0.5, gaussian(batch, d, seed=1)
    return lambda z: torch.tanh(z @ W.T + drive), torch.zeros(batch, d, dtype=torch.float64)


@pytest.mark.parametrize("solver", [NewtonKrylov(), NewtonKrylov(krylov=1)], ids=str)
def test_the_solver_keeps_the_contract(solver):
    check_solver(solver)


def test_convergence_is_quadratic_with_the_whole_space():
    f, z0 = tanh_network()
    residuals = []
    for newton_steps in range(7):
        found = dw.fixed_point(
            f, z0, solver=NewtonKrylov(krylov=D), tol=0.0, throw=False,
            max_steps=1 + newton_steps * (D + 1),
        )  # fmt: skip
        residuals.append(found.residual)
    log = torch.stack(residuals).log()
    # e' = C e^2: the exponent (log e'' - log e') / (log e' - log e), before rounding and once near
    pairs = [
        float((log[k + 2, i] - log[k + 1, i]) / (log[k + 1, i] - log[k, i]))
        for i in range(len(z0))
        for k in range(5)
        if residuals[k][i] < 0.1 and residuals[k + 2][i] > 1e-14
    ]
    assert len(pairs) >= 3
    assert min(pairs) > 1.7


def test_the_exact_jacobian_is_used_and_every_product_is_an_evaluation():
    f, z0 = tanh_network()
    calls = 0

    def counted(z):
        nonlocal calls
        calls += 1
        return f(z)

    solver = NewtonKrylov(krylov=D)
    found = dw.fixed_point(counted, z0, solver=solver, tol=0.0, max_steps=D + 2, throw=False)
    assert calls == D + 2  # at z0, D products, at z0 + s
    assert found.steps.tolist() == [D + 2] * 4
    J = torch.stack([torch.autograd.functional.jacobian(f, z0)[i, :, i] for i in range(4)])
    s = torch.linalg.solve(torch.eye(D, dtype=torch.float64) - J, f(z0) - z0)
    torch.testing.assert_close(found.z, z0 + s)


@pytest.mark.parametrize("spectrum", ["expanding", "rotating"])
def test_an_affine_map_takes_one_step_whatever_its_spectrum(spectrum):
    A = (
        3.0 * gaussian(D, D, seed=2)
        if spectrum == "expanding"
        else torch.eye(D).double().roll(1, 0)
    )
    A = A if spectrum == "expanding" else 0.999 * A
    x = gaussian(3, D, seed=3)
    found = dw.fixed_point(
        lambda z: z @ A.T + x, torch.zeros_like(x), solver=NewtonKrylov(krylov=D), tol=1e-9
    )
    assert found.steps.tolist() == [D + 2] * 3
    torch.testing.assert_close(
        found.z, torch.linalg.solve(torch.eye(D, dtype=torch.float64) - A, x.T).T
    )


def test_it_solves_adjoints_that_no_mixing_does():
    """J has eigenvalues of modulus 6: the implicit gradient exists, iterations do not find it."""
    A = 6.0 * torch.linalg.qr(gaussian(24, 24, seed=4)).Q
    x = gaussian(3, 24, seed=5).requires_grad_(True)
    v = gaussian(3, 24, seed=6)

    def gradient(adjoint):
        z = dw.fixed_point(
            lambda z, x: z @ A.T + x, torch.zeros_like(x), x, tol=1e-10,
            solver=NewtonKrylov(krylov=24), gradient=dw.Implicit(solver=adjoint, tol=1e-9),
        ).z  # fmt: skip
        return torch.autograd.grad(z, x, v)[0]

    exact = torch.linalg.solve(torch.eye(24, dtype=torch.float64) - A.T, v.T).T
    torch.testing.assert_close(gradient(NewtonKrylov(krylov=24)), exact, rtol=1e-7, atol=1e-9)
    with pytest.raises(dw.core.errors.DriftwellError, match="adjoint"):
        gradient(Picard())


def test_far_from_the_answer_steps_are_shortened_until_the_residual_falls():
    """atan: Newton alone swings out to infinity from |z| > 1.39."""

    def f(z):
        return z - torch.atan(z)  # the fixed point is 0

    z0 = torch.tensor([[3.0], [20.0], [-8.0]], dtype=torch.float64)
    found = dw.fixed_point(f, z0, solver=NewtonKrylov(krylov=1), atol=1e-10, max_steps=100)
    assert float(found.z.abs().max()) < 1e-9


def test_accepted_residuals_fall():
    f, z0 = tanh_network(gain=1.4, batch=8, d=32)
    seen = []
    for budget in range(1, 100, 7):
        found = dw.fixed_point(
            f, z0, solver=NewtonKrylov(krylov=6), tol=0.0, max_steps=budget, throw=False
        )
        seen.append(found.residual)
    assert bool((torch.stack(seen).diff(dim=0) <= 0).all())
    assert float(seen[-1].max()) < 1e-3


def test_straight_line_budgets_compute_the_same():
    f, z0 = tanh_network(batch=3)
    one = dw.fixed_point(f, z0, solver=NewtonKrylov(krylov=3), tol=1e-8, max_steps=41)
    other = dw.fixed_point(
        f, z0, solver=NewtonKrylov(krylov=3), tol=1e-8, max_steps=41, loop=FixedBudget(),
        throw=False,
    )  # fmt: skip
    assert torch.equal(one.z, other.z)


def test_many_digits_are_cheaper_than_by_mixing():
    f, z0 = tanh_network(0.9, batch=8, d=64)
    newton = dw.fixed_point(f, z0, solver=NewtonKrylov(krylov=12), tol=1e-12, max_steps=400)
    picard = dw.fixed_point(f, z0, solver=Picard(), tol=1e-12, max_steps=400)
    assert int(newton.steps.max()) < int(picard.steps.max())
    torch.testing.assert_close(newton.z, picard.z, rtol=1e-9, atol=1e-10)
    with pytest.raises(InvalidInput, match="krylov"):
        NewtonKrylov(krylov=0)
    assert Anderson() != NewtonKrylov()


def test_a_solve_can_be_batched():
    f, z0 = tanh_network(batch=3)
    W, drive = gaussian(D, D, seed=0) / D**0.5, gaussian(3, D, seed=1)

    def settle(drive):
        found = dw.fixed_point(
            lambda z: torch.tanh(z @ W.T + drive), torch.zeros(1, D, dtype=torch.float64),
            solver=NewtonKrylov(krylov=4), tol=1e-8, max_steps=31, loop=FixedBudget(), throw=False,
        )  # fmt: skip
        return found.z[0]

    plain = dw.fixed_point(f, z0, solver=NewtonKrylov(krylov=4), tol=1e-8, max_steps=31).z
    torch.testing.assert_close(torch.func.vmap(settle)(drive), plain, rtol=1e-6, atol=1e-7)
