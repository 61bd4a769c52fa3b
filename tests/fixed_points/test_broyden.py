"""Broyden's method: secant equation, counts, units; and SHINE, which reuses its inverse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import driftwell as dw
from driftwell.core.errors import DriftwellError, InvalidInput
from driftwell.fixed_points import Picard
from driftwell.fixed_points.gradients.one_step import OneStep
from driftwell.fixed_points.gradients.shine import SHINE
from driftwell.fixed_points.iteration import Problem, RunningMap
from driftwell.fixed_points.loops import FixedBudget, WhileLoop
from driftwell.fixed_points.solvers.broyden import Broyden
from driftwell.testing import check_solver

D = 64


def gaussian(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def iid(batch: int = 256, d: int = 512):
    """z = tanh(W z + U x), W = .9 N / sqrt(d)."""
    W, U = 0.9 * gaussian(d, d, seed=0) / d**0.5, gaussian(d, d, seed=1) / d**0.5
    drive = gaussian(batch, d, seed=2) @ U.T
    return lambda z: torch.tanh(z @ W.T + drive), torch.zeros(batch, d)


def psd(rho: float, batch: int = 64, d: int = 256, dtype: torch.dtype = torch.float32):
    """W = G G^T with spectral norm rho, input scale .05."""
    G = gaussian(d, d, seed=0, dtype=torch.float64)
    W = G @ G.T
    W = (W * rho / torch.linalg.matrix_norm(W, 2)).to(dtype)
    drive = 0.05 * gaussian(batch, d, seed=1) @ (gaussian(d, d, seed=2) / d**0.5).T
    drive = drive.to(dtype)
    return lambda z: torch.tanh(z @ W.T + drive), torch.zeros(batch, d, dtype=dtype)


def count(problem, solver) -> int:
    f, z0 = problem
    with torch.no_grad():
        return int(dw.fixed_point(f, z0, solver=solver, max_steps=400).steps.max())


@pytest.mark.parametrize("solver", [Broyden(), Broyden(memory=2, growth=3.0)], ids=str)
def test_the_solver_keeps_the_contract(solver):
    check_solver(solver)


@pytest.mark.parametrize("memory", [3, 30])
def test_the_estimate_maps_the_last_change_of_the_residual_to_the_step(memory):
    """H y = s, also after the oldest update was forgotten."""
    W = gaussian(12, 12, seed=3, dtype=torch.float64) / 8
    x = gaussian(4, 12, seed=4, dtype=torch.float64)
    solver, z = Broyden(memory=memory), torch.zeros_like(x)
    f = RunningMap(Problem(lambda z, rows=None: torch.tanh(z @ W.T + x), z, solver, 0.0, 99))
    carry = solver.init(z)
    for step in range(9):
        fz = f(z)
        s, y = z - carry.last_z, (fz - z) - carry.last_residual
        after, carry = solver.step(z, fz, carry, f)
        if step > 0:
            torch.testing.assert_close(carry.apply(y[:, None])[:, 0], s, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(after, z - carry.apply((fz - z)[:, None])[:, 0])
        z = after
    left, right = gaussian(4, 1, 12, seed=5).double(), gaussian(4, 1, 12, seed=6).double()
    torch.testing.assert_close(
        (left * carry.apply(right)).sum(), (carry.apply_transposed(left) * right).sum()
    )


def test_it_ends_on_linear_maps_in_twice_as_many_steps_as_dimensions():
    """Gay (1979): Broyden's method with a full memory ends after 2 n steps on an affine map."""
    A = 0.9 * gaussian(5, 5, seed=7, dtype=torch.float64) / 5**0.5
    x = gaussian(3, 5, seed=8, dtype=torch.float64)
    found = dw.fixed_point(
        lambda z: z @ A.T + x, torch.zeros_like(x), solver=Broyden(growth=1e9), tol=1e-9
    )
    assert int(found.steps.max()) <= 2 * 5 + 1


def test_yardstick_of_independent_gaussian_weights():
    assert count(iid(), Broyden()) <= count(iid(), Picard()) + 2


@pytest.mark.parametrize(("rho", "part"), [(0.90, 0.45), (0.97, 0.40), (0.99, 0.30)])
def test_yardsticks_of_positive_weights(rho, part):
    assert count(psd(rho), Broyden()) <= part * count(psd(rho), Picard())


@pytest.mark.parametrize(
    ("dtype", "units"),
    # in float32 only powers of two leave alone the rounding of f, which long solves feel
    [(torch.float64, (1e-3, 1.0, 1e3)), (torch.float32, (2.0**-10, 1.0, 2.0**10))],
)
def test_evaluations_do_not_depend_on_the_units_of_the_state(dtype, units):
    f, z0 = psd(0.97, dtype=dtype)
    counts = [count((lambda z, c=c: c * f(z / c), z0), Broyden()) for c in units]
    assert max(counts) == min(counts)


def test_growth_makes_a_sample_forget_and_take_a_picard_step():
    solver = Broyden()
    f = RunningMap(Problem(lambda z, rows=None: z, torch.zeros(2, 3), solver, 0.0, 9))
    z = torch.zeros(2, 3)
    carry = solver.init(z)
    z, carry = solver.step(z, torch.ones(2, 3), carry, f)
    residual = torch.tensor([[0.5, 0.2, 0.1], [5.0, 2.0, 1.0]])  # fell; grew
    after, carry = solver.step(z, z + residual, carry, f)
    assert carry.held.tolist() == [1, 0]
    assert torch.equal(after[1], z[1] + residual[1])
    assert bool((carry.u[1] == 0).all())


@pytest.mark.parametrize("loop", [FixedBudget(), WhileLoop()], ids=str)
def test_loops_that_never_look_at_numbers_compute_the_same(loop):
    f, z0 = psd(0.97, batch=4, d=16)
    with torch.no_grad():
        one = dw.fixed_point(f, z0, solver=Broyden(memory=4), throw=False, max_steps=12)
        other = dw.fixed_point(
            f, z0, solver=Broyden(memory=4), throw=False, max_steps=12, loop=loop
        )
    assert torch.equal(one.z, other.z)
    assert torch.equal(one.steps, other.steps)


# ---------------------------------------------------------------- SHINE


def weights(kind: str) -> Tensor:
    G = gaussian(D, D, seed=0, dtype=torch.float64)
    if kind == "iid":
        return 0.9 * G / D**0.5
    return 0.9 * G @ G.T / torch.linalg.matrix_norm(G @ G.T, 2)


def gradient(kind: str, how, solver=Broyden(), batch: int = 16) -> Tensor:
    """dL/dx for L = <v, z*> with random v, (batch, D)."""
    W, scale = weights(kind), 1.0 if kind == "iid" else 0.05
    x = (scale * gaussian(batch, D, seed=1, dtype=torch.float64)).requires_grad_(True)
    v = gaussian(batch, D, seed=2, dtype=torch.float64)
    z = dw.fixed_point(
        lambda z, x: torch.tanh(z @ W.T + x), torch.zeros(batch, D, dtype=torch.float64), x,
        solver=solver, gradient=how, max_steps=500,
    ).z  # fmt: skip
    return torch.autograd.grad((z * v).sum(), x)[0]


@pytest.mark.parametrize("kind", ["iid", "psd"])
def test_shine_is_near_the_exact_gradient_and_refinement_makes_it_exact(kind):
    exact = gradient(kind, dw.Implicit(tol=1e-10))
    cosines = [
        float(cosine_similarity(gradient(kind, how), exact, dim=1).mean())
        for how in (SHINE(), SHINE(refine=3), SHINE(refine=8))
    ]
    # measured: .87, .998, 1.000 (iid); .84, .986, 1.000 (psd), bench/fixed_point_solvers.py
    assert cosines[0] > 0.75
    assert cosines[1] > 0.97
    assert cosines[2] > 0.9995
    error = (gradient(kind, SHINE(refine=30)) - exact).norm() / exact.norm()
    assert float(error) < 1e-4  # what tol = 1e-4 of the state leaves


def test_shine_beats_the_jacobian_free_gradient_on_independent_weights():
    exact = gradient("iid", dw.Implicit(tol=1e-10))
    shine, free = gradient("iid", SHINE()), gradient("iid", OneStep())
    assert float((shine - exact).norm()) < float((free - exact).norm())


def test_shine_is_exact_in_the_directions_in_which_the_solve_moved():
    """One coordinate: the secant is the slope once the solve has converged."""
    x = torch.tensor([[0.3], [1.2]], dtype=torch.float64, requires_grad=True)
    z = dw.fixed_point(
        lambda z, x: 0.5 * torch.sin(z + x), torch.zeros(2, 1, dtype=torch.float64), x,
        solver=Broyden(), gradient=SHINE(fallback=None), tol=1e-10,
    ).z  # fmt: skip
    slope = 0.5 * torch.cos(z + x).detach()
    torch.testing.assert_close(
        torch.autograd.grad(z.sum(), x)[0], slope / (1 - slope), rtol=1e-4, atol=0
    )


def test_the_fallback_is_the_jacobian_free_gradient():
    assert torch.equal(gradient("psd", SHINE(fallback=1e-9)), gradient("psd", OneStep()))
    assert not torch.equal(gradient("psd", SHINE(fallback=None)), gradient("psd", OneStep()))


def test_compact_solves_keep_rows_with_their_estimates():
    W, x = weights("iid"), gaussian(5, D, seed=9, dtype=torch.float64)
    x = (x * torch.logspace(-2, 2, 5, dtype=x.dtype)[:, None]).requires_grad_(True)
    grads = []
    for compact in (False, True):
        z = dw.fixed_point(
            lambda z, x: torch.tanh(z @ W.T + x), torch.zeros(5, D, dtype=torch.float64), x,
            solver=Broyden(), gradient=SHINE(), compact=compact,
        ).z  # fmt: skip
        grads.append(torch.autograd.grad(z.square().sum(), x)[0])
    torch.testing.assert_close(*grads)


def test_what_shine_cannot_do_is_said():
    with pytest.raises(InvalidInput, match=r"solver=Broyden\(\)"):
        gradient("iid", SHINE(), solver=Picard())
    w = torch.tensor(0.5, requires_grad=True)
    z = dw.fixed_point(
        lambda z: torch.tanh(w * z + 1), torch.zeros(1, 1), solver=Broyden(), gradient=SHINE()
    ).z
    with pytest.raises(DriftwellError, match="second derivatives"):
        torch.autograd.grad(z.sum(), w, create_graph=True)
    for make in (lambda: SHINE(refine=-1), lambda: SHINE(fallback=0.0)):
        with pytest.raises(InvalidInput, match="SHINE"):
            make()
    for make in (lambda: Broyden(memory=0), lambda: Broyden(growth=0.5)):
        with pytest.raises(InvalidInput, match="Broyden"):
            make()
