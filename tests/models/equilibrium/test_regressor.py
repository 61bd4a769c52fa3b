"""Equilibrium regression: the hand-written gradient, the Gram matrix, and the monitor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Implicit
from driftwell.measures.implicit_kernels import deq_gram
from driftwell.models.equilibrium.regressor import DEQRegressor

F64 = torch.float64


def inputs(n: int, p: int) -> Tensor:
    x = torch.randn(n, p, generator=torch.Generator().manual_seed(0), dtype=F64)
    return x * math.sqrt(p) / x.norm(dim=1, keepdim=True)


def test_the_gradient_is_that_of_the_implicit_function_theorem() -> None:
    """With D = diag(1[z > 0]) and u = (I - W^T D)^-1 a r: dL/dW = D u z^T, dL/dU = D u x^T."""
    model = DEQRegressor(5, 12, tol=1e-12, gradient=Implicit(tol=1e-12), seed=2, dtype=F64)
    x, y = inputs(1, 5), torch.tensor([0.3], dtype=F64)
    loss = 0.5 * (model.predict(x) - y).square().sum()
    loss.backward()
    with torch.no_grad():
        z = model.equilibrium(x)[0]
        D = torch.diag((z > 0).double())
        r = z @ model.a - y[0]
        u = torch.linalg.solve(torch.eye(12, dtype=F64) - model.W.T @ D, model.a * r)
    assert torch.allclose(model.W.grad, torch.outer(D @ u, z), atol=1e-10)
    assert torch.allclose(model.U.grad, torch.outer(D @ u, x[0]), atol=1e-10)
    assert torch.allclose(model.a.grad, r * z, atol=1e-10)


def test_the_gradient_is_that_of_finite_differences() -> None:
    model = DEQRegressor(4, 10, tol=1e-13, gradient=Implicit(tol=1e-12), seed=1, dtype=F64)
    x, eps = inputs(3, 4), 1e-6
    (gradient,) = torch.autograd.grad(model.predict(x).sum(), model.W)
    for i, j in ((0, 0), (3, 7), (9, 2)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                model.W[i, j] += sign * eps
                values.append(float(model.predict(x).sum()))
                model.W[i, j] -= sign * eps
        slope = (values[0] - values[1]) / (2 * eps)
        assert float(gradient[i, j]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_the_norm_is_the_edge_of_the_circular_law_and_the_monitor_knows_one() -> None:
    """|W|_2 tends to sqrt(8 s_w2); at m = 400 it fluctuates by about m^(-2/3) = 2 %."""
    for s_w2, holds in ((0.08, True), (0.3, False)):
        seen = DEQRegressor(3, 400, s_w2=s_w2, seed=5).well_posedness()
        assert seen.norm == pytest.approx(math.sqrt(8 * s_w2), rel=0.08)
        assert seen.holds is holds


def test_the_gram_matrix_of_wide_networks_is_the_population_s() -> None:
    """Each entry is a mean over m units; 0.3 is six standard errors at m = 1500."""
    x = inputs(4, 6)
    with torch.no_grad():
        z = DEQRegressor(6, 1500, seed=3, dtype=F64).equilibrium(x)
    assert (z @ z.T / 1500 - deq_gram(x)).abs().max() < 0.3


def test_the_population_gram_matrix_has_its_closed_diagonal_and_solves_its_equation() -> None:
    x, s = inputs(4, 6) * torch.tensor([[1.0], [0.5], [2.0], [1.0]], dtype=F64), 0.2
    G = deq_gram(x, s)
    assert torch.allclose(G.diagonal(), x.square().sum(1) / 6 / (1 - s), rtol=1e-12)
    K = 2 * s * G + 2 * x @ x.T / 6
    size = torch.outer(K.diagonal(), K.diagonal()).sqrt()
    angle = torch.arccos((K / size).clamp(-1, 1))
    closed = size * (angle.sin() + (math.pi - angle) * angle.cos()) / (2 * math.pi)
    assert torch.allclose(G, closed, atol=1e-7)
    assert torch.linalg.eigvalsh(G)[0] > 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        DEQRegressor(0, 3)
    with pytest.raises(InvalidInput, match="s_w2"):
        DEQRegressor(2, 3, s_w2=-0.1)
    with pytest.raises(InvalidInput, match="from 1 on"):
        deq_gram(torch.ones(1, 2), 1.0)
