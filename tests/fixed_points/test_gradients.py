"""Gradients through a fixed point: against unrolling, finite differences and closed forms."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import driftwell as dw
from driftwell.core.errors import DriftwellError, NotConverged
from driftwell.fixed_points import Anderson, Implicit, Picard, Unrolled

D, B = 4, 3
EXACT = Implicit(tol=1e-13)


def gaussian(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.fixture
def weights() -> tuple[Tensor, Tensor, Tensor]:
    W = 0.35 * gaussian(D, D, seed=0)
    leaves = W, gaussian(D, D, seed=1), gaussian(B, D, seed=2)
    return tuple(leaf.requires_grad_(True) for leaf in leaves)


def solve(W: Tensor, U: Tensor, x: Tensor, gradient=EXACT, **settings) -> Tensor:
    return dw.fixed_point(
        lambda z, x: torch.tanh(z @ W.T + x @ U.T),
        torch.zeros(B, D, dtype=torch.float64),
        x,
        gradient=gradient,
        **{"tol": 1e-14, "throw": False, **settings},
    ).z


def error(a, b) -> float:
    return max(float((p - q).norm() / q.norm()) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("solver", [Anderson(), Picard(), Anderson(memory=2)], ids=str)
def test_implicit_equals_unrolled(weights, solver):
    implicit = solve(*weights, Implicit(solver=solver, tol=1e-12, max_steps=400)).square().sum()
    unrolled = solve(*weights, Unrolled(), solver=solver, max_steps=400).square().sum()
    a, b = (torch.autograd.grad(loss, weights) for loss in (implicit, unrolled))
    assert error(a, b) < 1e-8


def test_checkpointed_unrolling_is_the_same(weights):
    a, b = (
        torch.autograd.grad(solve(*weights, how).square().sum(), weights)
        for how in (Unrolled(checkpoint=True), Unrolled())
    )
    assert error(a, b) == 0.0


def test_implicit_passes_gradcheck_to_second_order(weights):
    assert torch.autograd.gradcheck(solve, weights)
    assert torch.autograd.gradgradcheck(solve, weights)


def test_unrolled_passes_gradcheck_at_a_fixed_number_of_steps(weights):
    def few(*weights):
        return solve(*weights, Unrolled(), tol=0.0, max_steps=4)

    assert torch.autograd.gradcheck(few, weights)


def test_first_and_second_order_in_one_backward(weights):
    """loss = L + |dL/dx|^2: first- and second-order gradients meet at the same nodes."""

    def both(how):
        z = solve(*weights, how)
        loss = z.pow(3).sum()
        slopes = torch.autograd.grad(loss, weights, create_graph=True)
        return torch.autograd.grad(loss + sum(s.square().sum() for s in slopes), weights)

    assert error(both(EXACT), both(Unrolled())) < 1e-8


def test_a_third_derivative_is_refused_and_never_wrong(weights):
    z = solve(*weights)
    (a,) = torch.autograd.grad(z.pow(3).sum(), weights[2], create_graph=True)
    with pytest.raises(DriftwellError, match="exact to second order"):
        torch.autograd.grad(a.pow(2).sum(), weights[2], create_graph=True)


def test_linear_map_in_closed_form():
    A = 0.2 * gaussian(D, D, seed=3)
    x = gaussian(B, D, seed=4).requires_grad_(True)
    start = torch.zeros(B, D, dtype=torch.float64)
    z = dw.fixed_point(lambda z, x: z @ A.T + x, start, x, tol=1e-13, gradient=EXACT).z
    inverse = torch.linalg.inv(torch.eye(D, dtype=torch.float64) - A)
    torch.testing.assert_close(z, x @ inverse.T)
    v = gaussian(B, D, seed=5)
    torch.testing.assert_close(torch.autograd.grad(z, x, v)[0], v @ inverse)


def test_gradients_reach_modules_closures_and_trees_of_inputs():
    layer = nn.Linear(D, D).double()
    nn.init.orthogonal_(layer.weight, 0.5)
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)  # captured, not a leaf below
    x = {"a": gaussian(B, D, seed=6).requires_grad_(True), "b": (gaussian(B, D, seed=7),)}
    captured = scale.exp() * 0.2

    def f(z, x):
        first = torch.tanh(layer(z["u"])) + x["a"] * captured
        return {"u": first, "v": 0.5 * z["v"] + x["b"][0] * z["u"]}

    start = {"u": torch.zeros(B, D).double(), "v": torch.zeros(B, D).double()}
    wanted = (scale, x["a"], *layer.parameters())
    grads = []
    for how in (EXACT, Unrolled()):
        z = dw.fixed_point(f, start, x, tol=1e-13, gradient=how).z
        loss = z["u"].square().sum() + z["v"].pow(3).sum()
        grads.append(torch.autograd.grad(loss, wanted, retain_graph=True))
    assert error(*grads) < 1e-8


def test_no_gradient_reaches_the_start_by_implicit_and_one_does_by_unrolling():
    z0 = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    z = dw.fixed_point(lambda z: w * z + 1, z0).z
    assert torch.autograd.grad(z.sum(), z0, allow_unused=True) == (None,)
    z = dw.fixed_point(
        lambda z: w * z + 1, z0, solver=Picard(), gradient=Unrolled(),
        tol=0.0, max_steps=4, throw=False,
    ).z  # fmt: skip
    assert float(torch.autograd.grad(z.sum(), z0)[0]) == 0.5**3


def test_the_value_is_the_best_iterate_itself(weights):
    with torch.no_grad():
        plain = solve(*weights)
    assert torch.equal(plain, solve(*weights).detach())


def test_memory_does_not_grow_with_steps(weights):
    """Of all tensors saved for backward, those of f's applications count: as many at any budget."""

    def saved(how, max_steps):
        count = 0

        def pack(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            solve(*weights, how, tol=0.0, max_steps=max_steps, solver=Picard())
        return count

    assert saved(EXACT, 5) == saved(EXACT, 50)
    assert saved(Unrolled(), 50) > 5 * saved(Unrolled(), 5)


@pytest.mark.parametrize("backward", [True, False])
def test_nothing_is_left_behind(weights, backward):
    """No reference cycle: the map goes as soon as its result does, without garbage collection."""
    W, U, x = weights

    def solved() -> tuple[Tensor, weakref.ref]:
        def f(z):
            return torch.tanh(z @ W.T + x @ U.T)

        return dw.fixed_point(f, torch.zeros(B, D, dtype=torch.float64)).z, weakref.ref(f)

    gc.disable()
    try:
        z, ghost = solved()
        if backward:
            z.square().sum().backward()
        del z
        assert ghost() is None
    finally:
        gc.enable()


def test_a_first_backward_solves_one_adjoint_only(weights):
    """The node that serves second derivatives must cost nothing in a first backward."""
    W, U, x = weights
    pulls = 0

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.clone()

        @staticmethod
        def backward(ctx, v):
            nonlocal pulls
            pulls += 1
            return v

    def f(z):
        return torch.tanh(Counted.apply(z) @ W.T + x @ U.T)

    how = Implicit(tol=0.0, max_steps=7)
    start = torch.zeros(B, D, dtype=torch.float64)
    z = dw.fixed_point(f, start, tol=1e-12, gradient=how, throw=False).z
    with pytest.warns(UserWarning, match="adjoint of the implicit gradient failed"):
        z.sum().backward()
    assert pulls == 7 + 2  # seven of the solve, one to cancel, one of the backward itself


def test_a_failing_adjoint_raises_or_warns(weights):
    W, U, x = weights

    def z(throw):
        return dw.fixed_point(
            lambda z: torch.tanh(z @ W.T + x @ U.T),
            torch.zeros(B, D, dtype=torch.float64),
            gradient=Implicit(tol=1e-12, max_steps=2),
            throw=throw,
        ).z

    with pytest.raises(NotConverged, match=r"adjoint of the implicit gradient failed: sample \d"):
        z(True).sum().backward()
    with pytest.warns(UserWarning, match="3 of 3 samples failed"):
        z(False).sum().backward()


def test_a_diverged_sample_sends_no_gradient():
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def f(z):  # sample 1 is fine at its start and NaN afterwards
        return w * z + torch.tensor([[1.0], [3.0]]).double() + 0.0 * torch.sqrt(4.0 - z)

    found = dw.fixed_point(f, torch.ones(2, 1).double(), solver=Picard(), throw=False, tol=1e-10)
    assert found.status.tolist() == [dw.Status.CONVERGED, dw.Status.DIVERGED]
    (slope,) = torch.autograd.grad(found.z.sum(), w)
    assert float(slope) == pytest.approx(1.0 / 0.5**2, rel=1e-6)  # d/dw 1 / (1 - w), alone


def test_half_precision_gradients():
    W = 0.5 * gaussian(8, 8, seed=8) / 8**0.5
    x = gaussian(2, 8, seed=9)

    def slope(dtype):
        inside = x.to(dtype).requires_grad_(True)
        z = dw.fixed_point(
            lambda z, x: torch.tanh(z @ W.T.to(dtype) + x), torch.zeros(2, 8, dtype=dtype), inside
        ).z
        return torch.autograd.grad(z.sum(), inside)[0].double()

    exact = slope(torch.float64)
    assert float((slope(torch.bfloat16) - exact).norm() / exact.norm()) < 0.03


def test_compact_has_the_same_gradient(weights):
    a, b = (
        torch.autograd.grad(
            dw.fixed_point(
                lambda z, x: torch.tanh(z @ weights[0].T + x),
                torch.zeros(B, D, dtype=torch.float64),
                weights[2],
                gradient=how,
                compact=True,
                tol=1e-12,
            ).z.sum(),
            weights[2],
        )
        for how in (EXACT, Unrolled())
    )
    assert error(a, b) < 1e-8


def test_a_map_may_differentiate_inside_itself():
    """A gradient step of an energy, as a user writes it: exact to first and second order."""
    A = torch.tensor([[0.8, 0.2], [0.2, 0.5]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.5, -1.0], [1.5, 0.3]], dtype=torch.float64, requires_grad=True)

    def descend(A, z, x):
        with torch.enable_grad():
            at = z if z.requires_grad else z.detach().requires_grad_(True)
            energy = 0.5 * (at @ A * at).sum() + 0.1 * at.pow(4).sum() - (x * at).sum()
            (slope,) = torch.autograd.grad(energy, at, create_graph=True)
        return z - 0.4 * slope

    def settled(A, x, gradient=EXACT):
        start = torch.zeros(2, 2, dtype=torch.float64)
        how = dict(tol=1e-14, max_steps=300, throw=False, gradient=gradient)
        return dw.fixed_point(lambda z, x: descend(A, z, x), start, x, **how).z

    exact, unrolled, again = (
        torch.autograd.grad(settled(A, x, how).pow(3).sum(), (A, x))
        for how in (EXACT, Unrolled(), Unrolled(checkpoint=True))
    )
    assert error(exact, unrolled) < 1e-8
    assert error(again, unrolled) < 1e-12
    assert torch.autograd.gradgradcheck(settled, (A, x))
