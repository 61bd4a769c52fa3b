"""Holomorphic equilibrium propagation against forward mode, the implicit gradient and algebra."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import driftwell as dw
from driftwell.core.errors import DriftwellError, InvalidInput, NotConverged
from driftwell.fixed_points import Implicit, Picard
from driftwell.learning import HolomorphicEP, nudge_response
from driftwell.learning.rules.complexification import Complexified, as_complex, derivative

B, N = 3, 6


def gaussian(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def rate(u: Tensor) -> Tensor:
    return torch.sigmoid(4.0 * u - 2.0)


class Network:
    """f(u) = W sigma(u) + x, with its free fixed point and a quadratic loss of the rates."""

    def __init__(self, symmetric: bool, seed: int = 0) -> None:
        W = 0.25 * gaussian(N, N, seed=seed)
        self.W = ((W + W.T) if symmetric else W).requires_grad_(True)
        self.x = 0.3 * gaussian(B, N, seed=seed + 1)
        self.y = torch.rand(
            B, N, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64
        )
        self.z = self.settle()

    def law(self, z: Tensor, x: Tensor) -> Tensor:
        return rate(z) @ self.W.T + x

    def loss(self, a: Tensor) -> Tensor:
        return 0.5 * (a - self.y).square().sum(dim=1)

    def settle(self, **how) -> Tensor:
        return dw.fixed_point(self.law, self.x, self.x, tol=1e-13, max_steps=500, **how).z

    def exact(self) -> Tensor:
        z = self.z.detach()
        a = rate(z)
        return 4 * a * (1 - a) * nudge_response(self.law, z, a - self.y, self.x)

    def gradient(self, how) -> Tensor:
        return torch.autograd.grad(self.loss(rate(self.settle(gradient=how))).sum(), self.W)[0]


def rule(n: int, beta: float = 0.05, **settings) -> HolomorphicEP:
    how = {"activation": rate, "tol": 1e-14, "max_steps": 500, **settings}
    return HolomorphicEP(beta, n, **how)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_error_of_the_response_is_of_order_beta_to_the_n(symmetric):
    """Cauchy's integral by N points errs by beta^N (N = 1 by beta), seen by halving beta."""
    network = Network(symmetric)
    for n in (1, 2, 3, 4, 5):
        errors = [
            relative(
                rule(n, beta).respond(network.law, network.loss, network.z, network.x).error,
                network.exact(),
            )
            for beta in (0.02, 0.01)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(n, abs=0.25)


@pytest.mark.parametrize("solver", [dw.Anderson(), Picard(0.7)], ids=str)
def test_symmetric_couplings_give_the_implicit_gradient(solver):
    network = Network(symmetric=True)
    truth = network.gradient(Implicit(tol=1e-12))
    local = network.gradient(rule(6, solver=solver))
    assert relative(local, truth) < 1e-6


def test_asymmetric_couplings_give_the_transposed_response():
    """delta solves with J where the truth has J^T: both by dense algebra."""
    network = Network(symmetric=False)
    z, W = network.z.detach(), network.W.detach()
    a = rate(z)
    D = torch.diag_embed(1.0 / (4 * a * (1 - a)))
    v = (a - network.y)[..., None]
    found = rule(6).respond(network.law, network.loss, z, network.x).error
    assert relative(found, torch.linalg.solve(D - W, v)[..., 0]) < 1e-6
    assert relative(found, torch.linalg.solve(D - W.T, v)[..., 0]) > 1e-2


def test_the_live_nudge_and_the_gradient_of_the_verb_agree():
    network = Network(symmetric=False)
    surrogate = rule(6).loss(network.law, network.loss, network.z, network.x)
    (live,) = torch.autograd.grad(surrogate.sum(), network.W)
    assert torch.equal(surrogate, network.loss(rate(network.z)))
    assert relative(network.gradient(rule(6)), live) < 1e-6


def test_the_loss_own_parameters_get_their_ordinary_gradient():
    network = Network(symmetric=False)
    V = (0.2 * gaussian(2, N, seed=9)).requires_grad_(True)
    value = rule(4).loss(
        network.law, lambda a: (a @ V.to(a.dtype).T).square().sum(1), network.z, network.x
    )
    (found,) = torch.autograd.grad(value.sum(), V)
    (truth,) = torch.autograd.grad((rate(network.z.detach()) @ V.T).square().sum(), V)
    assert torch.allclose(found, truth)


def test_the_estimate_does_not_depend_on_the_size_of_the_loss():
    network = Network(symmetric=False)

    def gradient(scale: float) -> Tensor:
        z = network.settle(gradient=rule(4))
        return torch.autograd.grad(scale * network.loss(rate(z)).sum(), network.W)[0] / scale

    assert relative(gradient(1e-9), gradient(1.0)) < 1e-9


def test_modules_with_real_weights_are_evaluated_at_complex_states():
    layer = nn.Linear(4, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.mul_(0.3)

    def gradient(how) -> Tensor:
        layer.zero_grad()
        z0 = torch.zeros(2, 4, dtype=torch.float64)
        dw.fixed_point(
            lambda z: torch.tanh(layer(z)), z0, tol=1e-13, gradient=how
        ).z.sum().backward()
        return layer.bias.grad.clone()

    assert torch.isfinite(gradient(HolomorphicEP(tol=1e-12))).all()


def test_a_state_may_be_a_tree():
    w = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    z0 = {"a": torch.zeros(2, 1, dtype=torch.float64), "b": torch.zeros(2, 2, dtype=torch.float64)}

    def law(z):
        return {"a": torch.tanh(w * z["a"] + 0.5), "b": torch.sin(w * z["b"] + 0.2)}

    def gradient(how) -> Tensor:
        z = dw.fixed_point(law, z0, tol=1e-13, gradient=how).z
        return torch.autograd.grad(z["a"].sum() + z["b"].square().sum(), w)[0]

    # each coordinate is a law of its own, so J is diagonal and the rule exact
    assert relative(gradient(HolomorphicEP(n_points=6, tol=1e-13)), gradient(Implicit())) < 1e-6


def test_too_wide_a_circle_warns_and_a_narrow_one_does_not():
    network = Network(symmetric=True)
    settings = {"throw": False}
    with pytest.warns(UserWarning, match="take a smaller beta"):
        rule(4, 1.0).respond(network.law, network.loss, network.z, network.x, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rule(4, 0.02).respond(network.law, network.loss, network.z, network.x)


def test_a_law_without_complex_values_says_so_and_two_points_do_without():
    w = torch.tensor([[0.5]], requires_grad=True)

    def loss(n: int) -> Tensor:
        law = lambda z: torch.relu(z @ w + 1.0)  # noqa: E731
        return dw.fixed_point(law, torch.zeros(1, 1), gradient=HolomorphicEP(n_points=n)).z.sum()

    with pytest.raises(InvalidInput, match="holomorphic"):
        loss(4).backward()
    loss(2).backward()
    assert w.grad.item() == pytest.approx(4.0, rel=1e-3)


def test_a_nudged_phase_that_fails_is_told_or_teaches_nothing():
    network = Network(symmetric=True)
    short = rule(4, max_steps=2)
    with pytest.raises(NotConverged, match="smaller beta"):
        short.respond(network.law, network.loss, network.z, network.x)
    found = short.respond(network.law, network.loss, network.z, network.x, throw=False)
    assert not found.error.any()


def test_a_complex_state_is_refused():
    with pytest.raises(InvalidInput, match="real and imaginary"):
        HolomorphicEP().respond(
            lambda z: 0.5 * z, lambda a: a.sum(1), torch.zeros(1, 1, dtype=torch.complex64)
        )


def test_second_derivatives_are_refused():
    w = torch.tensor([[0.5]], requires_grad=True)
    z = dw.fixed_point(lambda z: z @ w + 1, torch.zeros(1, 1), gradient=HolomorphicEP()).z
    with pytest.raises(DriftwellError, match="first derivatives only"):
        torch.autograd.grad(z.sum(), w, create_graph=True)


@pytest.mark.parametrize("bad", [{"beta": 0.0}, {"beta": math.inf}, {"n_points": 0}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(InvalidInput):
        HolomorphicEP(**bad)


def test_the_complex_derivative_has_no_conjugate():
    z = torch.tensor([[0.3 + 0.7j, -0.2j]], dtype=torch.complex128)
    assert torch.allclose(derivative(lambda z: z.exp().sum(1), z), z.exp())


def test_real_tensors_are_promoted_only_beside_complex_ones():
    with Complexified():
        assert (torch.ones(2) + torch.ones(2)).dtype == torch.float32
        assert torch.cat([torch.ones(2), torch.ones(2) * 1j]).dtype == torch.complex64


def test_half_precision_has_no_complex_dtype():
    with pytest.raises(InvalidInput, match="n_points=2"):
        as_complex(torch.zeros(1, 1, dtype=torch.bfloat16))
