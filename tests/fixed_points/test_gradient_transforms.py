"""Implicit gradients in forward mode and under torch.func: against each other and closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

import driftwell as dw
from driftwell.core.errors import InvalidInput, NotConverged
from driftwell.fixed_points import EarlyExit, FixedBudget, Implicit, Unrolled
from driftwell.fixed_points.gradients.captures import Captured
from driftwell.fixed_points.gradients.one_step import OneStep
from driftwell.fixed_points.gradients.phantom import Phantom

D = 4
EXACT = Implicit(tol=1e-13, max_steps=30)
LOOPS = [EarlyExit(), FixedBudget()]


def gaussian(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


W, X, T = 0.2 * gaussian(D, D, seed=0), gaussian(3, D, seed=1), gaussian(D, seed=2)


def settled(x: Tensor, W: Tensor = W, loop=FixedBudget(), gradient=EXACT) -> Tensor:
    return dw.fixed_point(
        lambda z, x: torch.tanh(z @ W.T + x), torch.zeros(1, D, dtype=x.dtype), x[None],
        gradient=gradient, loop=loop, tol=1e-14, max_steps=30, throw=False,
    ).z[0]  # fmt: skip


def jacobian(x: Tensor) -> Tensor:
    """dz*/dx = (I - J)^{-1} df/dx."""
    gate = torch.diag(1 - settled(x) ** 2)
    return torch.linalg.solve(torch.eye(D).double() - gate @ W, gate)


def same(got: Tensor, wanted: Tensor, bound: float = 1e-8) -> None:
    assert float((got - wanted).norm() / wanted.norm()) < bound


@pytest.fixture(autouse=True)
def quiet():
    """An adjoint that is asked for 1e-13 may stop a rounding above it, and says so."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the (adjoint|tangent) of the implicit gradient")
        yield


@pytest.mark.parametrize("loop", LOOPS, ids=str)
def test_forward_mode_is_the_closed_form_and_the_finite_difference(loop):
    with forward_ad.dual_level():
        dual = settled(forward_ad.make_dual(X[0], T), loop=loop)
        value, tangent = forward_ad.unpack_dual(dual)
    same(tangent, jacobian(X[0]) @ T)
    same(value, settled(X[0], loop=loop), 1e-13)
    h = 1e-6
    same(tangent, (settled(X[0] + h * T) - settled(X[0] - h * T)) / (2 * h), 1e-7)


def test_forward_mode_agrees_with_reverse_mode_in_every_captured_tensor():
    """<v, J t> = <J^T v, t>, for a module's weights as well as for the input."""
    layer = nn.Linear(D, D).double()
    nn.init.orthogonal_(layer.weight, 0.5)
    weight, bias = (p.detach() for p in layer.parameters())
    names = dict(
        zip(("weight", "bias"), (gaussian(D, D, seed=3), gaussian(D, seed=4)), strict=True)
    )
    v = gaussian(3, D, seed=5)

    def solve(parameters):
        def f(z):
            return torch.tanh(torch.func.functional_call(layer, parameters, z))

        return dw.fixed_point(f, torch.zeros_like(X), tol=1e-14, gradient=EXACT, throw=False).z

    values = {"weight": weight, "bias": bias}
    _, forward = torch.func.jvp(solve, (values,), (names,))
    _, pull = torch.func.vjp(solve, values)
    (reverse,) = pull(v)
    left = (v * forward).sum()
    right = sum((reverse[name] * names[name]).sum() for name in names)
    assert abs(float(left - right)) < 1e-8 * abs(float(left))


@pytest.mark.parametrize("loop", LOOPS, ids=str)
def test_jvp_and_vjp(loop):
    def f(x):
        return settled(x, loop=loop)

    same(torch.func.jvp(f, (X[0],), (T,))[1], jacobian(X[0]) @ T)
    same(torch.func.vjp(f, X[0])[1](T)[0], jacobian(X[0]).T @ T)


@pytest.mark.parametrize("take", [torch.func.jacrev, torch.func.jacfwd])
def test_jacobians(take):
    same(take(settled)(X[0]), jacobian(X[0]))


def test_batches_of_solves_are_solves_one_by_one():
    together = torch.func.vmap(settled)(X)
    for row, x in zip(together, X, strict=True):
        same(row, settled(x), 1e-12)


def test_per_sample_gradients_of_shared_weights():
    def loss(W, x):
        return settled(x, W).pow(3).sum()

    slopes = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(W, X)
    for slope, x in zip(slopes, X, strict=True):
        inside = W.clone().requires_grad_(True)
        z = settled(x, inside, loop=EarlyExit())
        same(slope, torch.autograd.grad(z.pow(3).sum(), inside)[0])


def test_second_derivatives_by_all_orders_of_modes_but_one():
    def loss(x, loop=FixedBudget(), gradient=EXACT):
        return settled(x, loop=loop, gradient=gradient).pow(3).sum()

    x = X[0].clone().requires_grad_(True)
    wanted = torch.autograd.functional.hessian(
        lambda x: loss(x, EarlyExit(), Unrolled()), x, strict=True
    )
    func = torch.func
    pairs = [(func.jacrev, func.jacrev), (func.jacrev, func.jacfwd), (func.jacfwd, func.jacrev)]
    for outer, inner in pairs:
        same(outer(inner(loss))(X[0]), wanted)
    with pytest.raises(InvalidInput, match="cannot take forward mode of forward mode"):
        func.jacfwd(func.jacfwd(loss))(X[0])


def test_a_third_derivative_under_transforms():
    def loss(x):
        return settled(x).pow(3).sum()

    slope = torch.func.grad(torch.func.grad(lambda s: loss(X[0] + s * T)))
    second, third = torch.func.jvp(slope, (X.new_zeros(()),), (X.new_ones(()),))
    h = X.new_tensor(1e-4)
    same(third, (slope(h) - slope(-h)) / (2 * h), 1e-6)
    same(second, T @ torch.func.hessian(loss)(X[0]) @ T)


def test_forward_over_reverse_without_torch_func():
    """A product with the Hessian: dual numbers through a solve that is then pulled back."""
    x = X[0].clone().requires_grad_(True)
    with forward_ad.dual_level():
        z = settled(forward_ad.make_dual(x, T), loop=EarlyExit())
        slope = forward_ad.unpack_dual(z.pow(3).sum()).tangent
        (product,) = torch.autograd.grad(slope, x)
    same(product, torch.func.hessian(lambda x: settled(x).pow(3).sum())(X[0]) @ T)


@pytest.mark.parametrize("gradient", [OneStep(), Phantom(3, 0.5)], ids=str)
def test_cheap_gradients_are_transposes_of_themselves(gradient):
    def f(x):
        return settled(x, gradient=gradient)

    forward, reverse = torch.func.jacfwd(f)(X[0]), torch.func.jacrev(f)(X[0])
    same(forward, reverse, 1e-12)


def test_a_diverged_sample_has_a_zero_tangent():
    def f(z, x):
        return 0.5 * z + x + 0.0 * torch.sqrt(4.0 - z)

    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)

    def solve(x):
        start = torch.ones(2, 1, dtype=torch.float64)
        how = dict(solver=dw.Picard(), throw=False, tol=1e-12)
        return dw.fixed_point(f, start, x, **how).z

    t = torch.func.jvp(solve, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(t, torch.tensor([[2.0], [0.0]]).double())
    with forward_ad.dual_level():
        z = solve(forward_ad.make_dual(x, torch.ones_like(x)))
        torch.testing.assert_close(forward_ad.unpack_dual(z).tangent, t)


def test_a_failing_tangent_raises_what_a_failing_adjoint_raises():
    def solve(x):
        return dw.fixed_point(
            lambda z, x: torch.tanh(z @ W.T + x), torch.zeros_like(X), x,
            gradient=Implicit(tol=1e-12, max_steps=2),
        ).z  # fmt: skip

    with pytest.raises(NotConverged, match="the tangent of the implicit gradient failed"):
        torch.func.jvp(solve, (X,), (X,))
    with forward_ad.dual_level(), pytest.raises(NotConverged, match="the tangent of the implicit"):
        solve(forward_ad.make_dual(X, X))


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda f: torch.func.vmap(f)(X), "the solve cannot be batched.*loop=FixedBudget"),
        (lambda f: torch.func.jacrev(f)(X[0]), "the adjoint of the implicit gradient cannot be"),
    ],
)
def test_a_loop_that_looks_at_numbers_is_refused_where_it_cannot(attempt, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        attempt(lambda x: settled(x, loop=EarlyExit()))


def test_compact_and_checkpoints_are_refused_within_transforms():
    def solve(x, **settings):
        return dw.fixed_point(lambda z, x: 0.5 * z + x, torch.zeros_like(X), x, **settings).z

    with pytest.raises(InvalidInput, match="compact=True cannot be used"):
        torch.func.jvp(lambda x: solve(x, compact=True), (X,), (X,))
    with pytest.raises(InvalidInput, match="works in reverse mode only"):
        torch.func.vjp(lambda x: solve(x, gradient=Unrolled(checkpoint=True)), X)


class TestCaptured:
    """A map as a function of what it captures."""

    def test_finds_and_replaces_tensors_of_modules_closures_and_inputs(self):
        layer, scale = nn.Linear(D, D).double(), torch.tensor(2.0, dtype=torch.float64)

        def f(z):
            return torch.tanh(layer(z)) * scale + z.new_ones(1)

        captured = Captured(f, X)
        assert [id(t) for t in captured.tensors] == [
            id(t) for t in (layer.weight, layer.bias, scale)
        ]
        got = captured(X, (2 * layer.weight, 0 * layer.bias, scale + 1))
        torch.testing.assert_close(got, torch.tanh(2 * X @ layer.weight.T) * 3 + 1)
        torch.testing.assert_close(captured(X, captured.tensors), f(X))

    def test_refuses_what_it_cannot_follow(self):
        class Hidden(torch.autograd.Function):
            @staticmethod
            def forward(ctx, z):
                return z.clone()

        captured = Captured(lambda z: z * Hidden.apply(T), X)
        with pytest.raises(InvalidInput, match="cannot be followed"):
            captured(X, captured.tensors)
