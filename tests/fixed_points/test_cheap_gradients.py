"""Gradients of a few steps: each is the part of the Neumann series that it says it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.core.papers import cite
from driftwell.fixed_points import Implicit, Picard
from driftwell.fixed_points.gradients.one_step import OneStep
from driftwell.fixed_points.gradients.phantom import Phantom

B, D = 3, 5


def gaussian(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


W, X, V = 0.2 * gaussian(D, D, seed=0), gaussian(B, D, seed=1), gaussian(B, D, seed=2)


def slope(gradient, **settings) -> tuple[Tensor, Tensor]:
    """z* of tanh(z W^T + x), and the gradient of <V, z*> for x."""
    x = X.clone().requires_grad_(True)
    z = dw.fixed_point(
        lambda z, x: torch.tanh(z @ W.T + x), torch.zeros_like(X), x, gradient=gradient,
        **{"tol": 1e-15, "throw": False, "max_steps": 200, **settings},
    ).z  # fmt: skip
    return z.detach(), torch.autograd.grad(z, x, V)[0]


def neumann(k: int, damping: float) -> Tensor:
    """damping (df/dx)^T sum_{i<k} ((1 - damping) + damping J^T)^i V, with dense algebra."""
    z, _ = slope(OneStep())
    gate = torch.diag_embed(1 - z**2)  # df/dx, of each sample
    J = gate @ W
    M = (1 - damping) * torch.eye(D).double() + damping * J.mT
    total, term = torch.zeros_like(V), V
    for _ in range(k):
        total, term = total + term, (M @ term[:, :, None])[:, :, 0]
    return damping * (gate @ total[:, :, None])[:, :, 0]


@pytest.mark.parametrize(("k", "damping"), [(1, 1.0), (1, 0.3), (4, 1.0), (5, 0.5), (30, 0.7)])
def test_a_phantom_is_the_neumann_series_cut_off(k, damping):
    got = slope(Phantom(k, damping))[1]
    torch.testing.assert_close(got, neumann(k, damping), rtol=1e-12, atol=1e-14)


def test_one_step_is_its_first_term():
    assert torch.equal(slope(OneStep())[1], slope(Phantom(1))[1])
    torch.testing.assert_close(slope(OneStep())[1], neumann(1, 1.0), rtol=1e-12, atol=1e-14)


def test_many_steps_are_the_implicit_gradient():
    torch.testing.assert_close(
        slope(Phantom(200))[1], slope(Implicit(tol=1e-13))[1], rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize("gradient", [OneStep(), Phantom(3, 0.5)], ids=str)
def test_the_value_is_the_solution_that_the_residual_belongs_to(gradient):
    loose = {"tol": 1e-2, "solver": Picard()}
    assert torch.equal(slope(gradient, **loose)[0], slope(Implicit(), **loose)[0])


@pytest.mark.parametrize("gradient", [OneStep(), Phantom(3, 0.5)], ids=str)
def test_a_diverged_sample_sends_no_gradient(gradient):
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def f(z):  # sample 1 is fine at its start and NaN afterwards
        return w * z + torch.tensor([[1.0], [3.0]]).double() + 0.0 * torch.sqrt(4.0 - z)

    def slopes(f, start):
        found = dw.fixed_point(f, start, solver=Picard(), throw=False, tol=1e-12, gradient=gradient)
        return torch.autograd.grad(found.z.sum(), w)[0]

    alone = slopes(lambda z: w * z + 1.0, torch.ones(1, 1).double())
    torch.testing.assert_close(slopes(f, torch.ones(2, 1).double()), alone)


@pytest.mark.parametrize("gradient", [Implicit(), OneStep(), Phantom(20)], ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_states_settle_and_give_gradients(gradient, dtype, bound):
    def both(dtype):
        x = X.to(dtype).requires_grad_(True)
        z = dw.fixed_point(
            lambda z, x: torch.tanh(z @ W.T.to(dtype) + x), torch.zeros(B, D, dtype=dtype), x,
            gradient=gradient,
        ).z  # fmt: skip
        return z.detach(), torch.autograd.grad(z, x, V.to(dtype))[0]

    for got, exact in zip(both(dtype), both(torch.float64), strict=True):
        assert got.dtype == dtype
        assert float((got.double() - exact).norm() / exact.norm()) < bound


def test_without_grad_mode_nothing_is_recorded():
    with torch.no_grad():
        z = dw.fixed_point(torch.cos, torch.zeros(1, 1, requires_grad=True), gradient=Phantom(2)).z
    assert not z.requires_grad


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Phantom(0), "Phantom.k=....*at least 1, got 0"),
        (lambda: Phantom(2.0), "Phantom.k=....*integer.*got 2.0"),
        (lambda: Phantom(2, 0.0), r"Phantom.damping=....*in \(0, 1\], got 0.0"),
    ],
)
def test_bad_settings_are_refused(make, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        make()


def test_each_names_its_paper():
    assert "2103.12803" in cite(OneStep())
    assert "2111.05177" in cite(Phantom())
