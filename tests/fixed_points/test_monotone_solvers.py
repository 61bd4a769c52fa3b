"""Splitting solvers of monotone laws: the same point, the rates of theory, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Solver
from driftwell.fixed_points.loops import FixedBudget
from driftwell.fixed_points.solvers.forward_backward import ForwardBackward
from driftwell.fixed_points.solvers.newton_krylov import NewtonKrylov
from driftwell.fixed_points.solvers.peaceman_rachford import PeacemanRachford
from driftwell.nn.monotone import Clamp, MonotoneLayer, SoftThreshold

INPUTS, N, B = 4, 12, 4
SPLITTINGS = [ForwardBackward(), PeacemanRachford(alpha=0.7)]
each_splitting = pytest.mark.parametrize("solver", SPLITTINGS, ids=str)


def problem(gain: float, margin: float = 0.5, prox=Clamp()):
    layer = MonotoneLayer(INPUTS, N, margin=margin, gain=gain, prox=prox, seed=1).double()
    x = torch.randn(B, INPUTS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return layer, torch.zeros(B, N, dtype=torch.float64), x


def solve(law, z0: Tensor, x: Tensor, solver, tol: float = 1e-10, **settings):
    return dw.fixed_point(law, z0, x, solver=solver, tol=tol, max_steps=5000, **settings)


@each_splitting
@pytest.mark.parametrize("prox", [Clamp(), Clamp(-1.0, 1.0), SoftThreshold(0.3)], ids=str)
def test_where_picard_converges_it_is_to_the_same_point(solver, prox):
    layer, z0, x = problem(0.2, prox=prox)
    with torch.no_grad():
        split = solve(layer.law(), z0, x, solver).z
        picard = solve(layer, z0, x, dw.Picard()).z
    torch.testing.assert_close(split, picard, rtol=1e-7, atol=1e-8)


@each_splitting
def test_they_converge_where_picard_diverges(solver):
    layer, z0, x = problem(1.5)
    with torch.no_grad():
        law = layer.law()
        assert float(torch.linalg.matrix_norm(law.W, 2)) > 4.0
        found = solve(law, z0, x, solver, tol=1e-8)
        plain = dw.fixed_point(law, z0, x, solver=dw.Picard(), max_steps=300, throw=False)
        assert not plain.status.eq(0).any()
        again = solve(law, z0 + 3.0, x, solver, tol=1e-8)
        torch.testing.assert_close(found.z, law(found.z, x), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.z, again.z, rtol=1e-5, atol=1e-6)  # unique


def errors(law, z0: Tensor, x: Tensor, solver, steps: int) -> Tensor:
    """|state - its limit| of each sample after each step, (steps, B); the state PR contracts is u.

    The step is driven by hand through a fixed budget, one more evaluation at a time.
    """
    seen: list[Tensor] = []

    class Watch(Solver):
        def init(self, z):
            return solver.init(z)

        def step(self, z, fz, carry, f):
            after, carry = solver.step(z, fz, carry, f)
            seen.append(carry[0] if carry else after)
            return after, carry

    dw.fixed_point(law, z0, x, solver=Watch(), tol=0.0, max_steps=steps, throw=False)
    path = torch.stack(seen)
    return (path[: steps // 3] - path[-1]).norm(dim=2)


def test_errors_fall_at_least_at_the_rates_of_theory():
    layer, z0, x = problem(1.0, margin=1.0)
    with torch.no_grad():
        law = layer.law()
        m, L = law.margin, law.lipschitz()
        for solver, alpha, steps in (
            (PeacemanRachford(), 1 / L, 300),
            (PeacemanRachford(alpha=0.1), 0.1, 300),
            (ForwardBackward(), m / L**2, 3000),
        ):
            rate = math.sqrt(1 - 2 * alpha * m + (alpha * L) ** 2)
            if isinstance(solver, PeacemanRachford):
                rate = math.sqrt(1 - 4 * alpha * m / (1 + 2 * alpha * m + (alpha * L) ** 2))
            gap = errors(law, z0, x, solver, steps)
            gap = gap[:, gap[5] > 1e-6]
            early = gap[1:40][gap[1:40] > 1e-9] / gap[:39][gap[1:40] > 1e-9]
            assert float(early.max()) <= rate + 1e-6, (solver, float(early.max()), rate)


def test_forward_backward_needs_a_short_step():
    layer, z0, x = problem(1.5)
    with torch.no_grad():
        law = layer.law()
        too_long = ForwardBackward(alpha=1.0)
        found = dw.fixed_point(law, z0, x, solver=too_long, max_steps=200, throw=False)
        assert not found.status.eq(0).any()


@each_splitting
def test_implicit_gradients_are_those_of_the_linear_system(solver):
    layer, z0, x = problem(1.0)
    v = torch.randn(B, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    adjoint = dw.Implicit(solver=NewtonKrylov(krylov=N), tol=1e-10)
    z = solve(layer.law(), z0, x, solver, tol=1e-12, gradient=adjoint).z
    grads = torch.autograd.grad((z * v).sum(), list(layer.parameters()))
    # the same by a dense solve: g = (I - D W)^{-T} v, D the slopes of the activation
    W, drive = layer.weight(), x @ layer.U.T + layer.b
    with torch.no_grad():
        slopes = (z @ W.T + drive > 0).double()
        eye = torch.eye(N, dtype=torch.float64)
        g = torch.linalg.solve((eye - slopes[:, :, None] * W).mT, v)
    once = torch.relu(z.detach() @ W.T + drive)
    exact = torch.autograd.grad((once * g).sum(), list(layer.parameters()))
    for got, want in zip(grads, exact, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)


@each_splitting
def test_a_sample_does_not_see_its_neighbours(solver):
    layer, z0, x = problem(0.6)
    with torch.no_grad():
        law = layer.law()
        together = solve(law, z0, x, solver, tol=1e-6)
        alone = solve(law, z0[2:3], x[2:3], solver, tol=1e-6)
        compact = solve(law, z0, x, solver, tol=1e-6, compact=True)
    torch.testing.assert_close(alone.z[0], together.z[2], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(compact.z, together.z, rtol=1e-9, atol=1e-10)
    assert int(alone.steps[0]) == int(together.steps[2])
    assert torch.equal(compact.steps, together.steps)


def test_one_law_serves_a_solve_without_and_one_with_a_record():
    layer, z0, x = problem(0.6)
    law = layer.law()
    with torch.no_grad():
        solve(law, z0, x, PeacemanRachford())
    z = dw.fixed_point(
        law, z0, x, solver=PeacemanRachford(), gradient=dw.Unrolled(), tol=1e-13, max_steps=2000
    ).z
    implicit = solve(law, z0, x, PeacemanRachford(), tol=1e-13, gradient=dw.Implicit(tol=1e-11)).z
    for one, other in zip(
        torch.autograd.grad(z.sum(), list(layer.parameters()), retain_graph=True),
        torch.autograd.grad(implicit.sum(), list(layer.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_states_in_single_precision_and_a_fixed_budget():
    layer, z0, x = problem(0.6)
    with torch.no_grad():
        exact = solve(layer.law(), z0, x, PeacemanRachford()).z
        found = dw.fixed_point(
            layer.float().law(), z0.float(), x.float(), solver=PeacemanRachford(),
            loop=FixedBudget(), throw=False, tol=1e-5,
        )  # fmt: skip
    assert found.status.eq(0).all()
    torch.testing.assert_close(found.z.double(), exact, rtol=1e-3, atol=1e-4)


@each_splitting
def test_other_laws_are_refused_in_one_sentence(solver):
    layer, z0, x = problem(0.6)
    with pytest.raises(InvalidInput, match=r"solves a MonotoneLaw.*got function.*Anderson"):
        dw.fixed_point(lambda z, x: 0.5 * z, z0 + 1.0, x, solver=solver)
    with pytest.raises(InvalidInput, match=r"MonotoneLayer\(...\)\.law\(\), got MonotoneLayer"):
        dw.fixed_point(layer, z0, x, solver=solver)
    z = solve(layer.law(), z0, x, PeacemanRachford(), gradient=dw.Implicit(solver=solver)).z
    with pytest.raises(InvalidInput, match="adjoint"):
        z.sum().backward()


@pytest.mark.parametrize("family", [ForwardBackward, PeacemanRachford])
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_settings_are_refused(family, alpha):
    with pytest.raises(InvalidInput, match="alpha"):
        family(alpha=alpha)
