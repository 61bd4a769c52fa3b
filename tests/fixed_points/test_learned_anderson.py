"""The learned solver: its contract, its weights, its safeguard, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Anderson, FixedBudget, Implicit, Solver
from driftwell.fixed_points.solvers.learned_anderson import LearnedAnderson
from driftwell.fixed_points.solvers.learned_anderson_lesson import (
    LearnedStart,
    SolverLesson,
    fit_learned_anderson,
)
from driftwell.testing import check_solver


def gaussian(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def spoilt(solver: LearnedAnderson, size: float = 3.0) -> LearnedAnderson:
    """With weights that nobody trained, frozen."""
    with torch.no_grad():
        solver.V.copy_(size * gaussian(*solver.V.shape, seed=1))
        solver.v.copy_(gaussian(*solver.v.shape, seed=2))
    return solver.requires_grad_(False)


def slow(rho: float = 0.95, rows: int = 6, dim: int = 4, batch: int = 5):
    """z = tanh(z W) + x with W symmetric and positive, |W| = rho."""
    G = gaussian(dim, dim, seed=3)
    W = G @ G.T
    W = rho * W / torch.linalg.matrix_norm(W, 2)
    return (lambda z, x: torch.tanh(z @ W) + x), 0.1 * gaussian(batch, rows, dim, seed=4)


@pytest.mark.parametrize("trained", [False, True])
def test_it_keeps_the_contract_of_a_solver_whatever_its_weights(trained) -> None:
    solver = LearnedAnderson(dim=3)
    assert isinstance(solver, Solver)
    assert isinstance(solver, torch.nn.Module)
    check_solver((spoilt(solver) if trained else solver).requires_grad_(False))


def test_mixing_weights_sum_to_one_and_see_no_units() -> None:
    solver = spoilt(LearnedAnderson(dim=4, memory=3))
    found = []
    for unit in (1.0, 1e-3, 1e3):
        window = solver.init(torch.zeros(2, 24))
        for k in range(5):
            z, fz = (unit * gaussian(2, 24, seed=2 * k + i, dtype=torch.float32) for i in (0, 1))
            window = solver._pushed(z, fz, window)
        alpha, beta = solver.weights(window)
        assert alpha.shape == (2, 6, 3)
        torch.testing.assert_close(alpha.sum(2), torch.ones(2, 6), rtol=0, atol=1e-5)
        found.append((alpha, beta))
    for alpha, beta in found[1:]:
        torch.testing.assert_close(alpha, found[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(beta, found[0][1], rtol=1e-4, atol=1e-5)


def test_the_step_is_the_formula_of_its_docstring() -> None:
    solver = spoilt(LearnedAnderson(dim=2, memory=3)).double()
    window = solver.init(torch.zeros(1, 6, dtype=torch.float64))
    pairs = [(gaussian(1, 6, seed=k), gaussian(1, 6, seed=50 + k)) for k in range(4)]
    for z, fz in pairs:
        window = solver._pushed(z, fz, window)
    alpha, beta = solver.weights(window)
    expected = torch.zeros(3, 2, dtype=torch.float64)
    for i, (z, fz) in enumerate(pairs[1:]):
        expected += alpha[0, :, i : i + 1] * (fz - (1 - beta) * (fz - z)).reshape(3, 2)
    torch.testing.assert_close(solver._mixed(window).reshape(3, 2), expected)


def test_an_untrained_solver_without_safeguard_is_picard_iteration() -> None:
    f, x = slow()
    z0 = torch.zeros_like(x)
    ours = dw.fixed_point(f, z0, x, solver=LearnedAnderson(4, trust=float("inf")), max_steps=400)
    picard = dw.fixed_point(f, z0, x, solver=dw.Picard(), max_steps=400)
    assert torch.equal(ours.steps, picard.steps)
    torch.testing.assert_close(ours.z, picard.z)


def test_with_the_safeguard_bad_weights_cost_a_window_and_no_more() -> None:
    """At most `memory` evaluations above Anderson; without it the same weights never arrive."""
    f, x = slow()
    z0 = torch.zeros_like(x)
    classical = dw.fixed_point(f, z0, x, tol=1e-8, max_steps=400)
    bad = spoilt(LearnedAnderson(4))
    safe = dw.fixed_point(f, z0, x, solver=bad, tol=1e-8, max_steps=400)
    assert int((safe.steps - classical.steps).max()) <= bad.memory
    bad.trust = float("inf")
    lost = dw.fixed_point(f, z0, x, solver=bad, tol=1e-8, max_steps=400, throw=False)
    assert not bool((lost.status == 0).any())


def test_a_sample_handed_over_does_not_take_the_others_along() -> None:
    f, x = slow()
    hard = x.clone()
    hard[0] *= 1e6  # its residual does not fall: tanh is saturated
    z0 = torch.zeros_like(x)
    solver = spoilt(LearnedAnderson(4), 0.02)
    beside = dw.fixed_point(f, z0, hard, solver=solver, max_steps=400)
    alone = dw.fixed_point(f, z0[1:], hard[1:], solver=solver, max_steps=400)
    assert torch.equal(beside.steps[1:], alone.steps)
    torch.testing.assert_close(beside.z[1:], alone.z)


def test_loops_that_never_look_at_numbers_give_the_same_iterates() -> None:
    f, x = slow(batch=2)
    solver = spoilt(LearnedAnderson(4), 0.05)
    eager = dw.fixed_point(f, torch.zeros_like(x), x, solver=solver, max_steps=25, throw=False)
    batched = torch.func.vmap(
        lambda x: dw.fixed_point(
            f,
            torch.zeros_like(x)[None],
            x[None],
            solver=solver,
            max_steps=25,
            throw=False,
            loop=FixedBudget(),
        ).z[0]
    )(x)
    torch.testing.assert_close(batched, eager.z)


def test_training_makes_it_faster_and_keeps_it_a_module() -> None:
    """On inputs it has not seen: the error after five evaluations is below half of Anderson's
    when the start is learned along."""
    f, _ = slow(0.97)
    f32 = lambda z, x: f(z.double(), x.double()).float()  # noqa: E731
    some = [0.1 * gaussian(4, 6, 4, seed=10 + k, dtype=torch.float32) for k in range(8)]
    fresh = 0.1 * gaussian(16, 6, 4, seed=99, dtype=torch.float32)
    solver, start = LearnedAnderson(4), LearnedStart(4, 4)
    losses = fit_learned_anderson(
        solver, f32, some, start=start, lesson=SolverLesson(updates=120, horizon=5)
    )
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])
    with torch.no_grad():
        truth = dw.fixed_point(f32, torch.zeros_like(fresh), fresh, tol=1e-6, max_steps=500).z
        found = [
            dw.fixed_point(f32, z0, fresh, solver=s, tol=0.0, max_steps=5, throw=False).z
            for s, z0 in ((solver, start(fresh)), (Anderson(), torch.zeros_like(fresh)))
        ]
        ours, classical = ((z - truth).norm() for z in found)
    assert ours < 0.5 * classical
    again = LearnedAnderson(4)
    again.load_state_dict(solver.state_dict())
    assert torch.equal(again.V, solver.V)


def test_it_serves_the_adjoint_too() -> None:
    f, x = slow()
    x.requires_grad_()
    solver = spoilt(LearnedAnderson(4), 0.05)
    both = Implicit(solver=solver, tol=1e-10, max_steps=400)
    z = dw.fixed_point(
        f, torch.zeros_like(x), x, solver=solver, gradient=both, tol=1e-10, max_steps=400
    )
    plain = dw.fixed_point(
        f, torch.zeros_like(x), x, tol=1e-10, max_steps=400,
        gradient=Implicit(tol=1e-10, max_steps=400),
    )  # fmt: skip
    ours, truth = (torch.autograd.grad(found.z.square().sum(), x)[0] for found in (z, plain))
    torch.testing.assert_close(ours, truth, rtol=1e-6, atol=1e-8)


def test_bad_settings_are_refused_in_one_sentence() -> None:
    for wrong, sentence in (
        ({"dim": 0}, "dim"),
        ({"memory": 1}, "memory >= 2"),
        ({"trust": 0.0}, "trust"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            LearnedAnderson(**{"dim": 2, **wrong})
    with pytest.raises(InvalidInput, match="rows of that width"):
        dw.fixed_point(torch.cos, torch.zeros(1, 5), solver=LearnedAnderson(2))
    with pytest.raises(InvalidInput, match="at least one input"):
        fit_learned_anderson(LearnedAnderson(2), lambda z, x: x, [])
