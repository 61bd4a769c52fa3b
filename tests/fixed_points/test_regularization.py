"""The Jacobian regulariser: against the dense Jacobian, and through a solve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Implicit
from driftwell.fixed_points.regularization import jacobian_regularization

B, D = 3, 6


def gaussian(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


W, X, Z = 0.2 * gaussian(D, D, seed=0), gaussian(B, D, seed=1), gaussian(B, D, seed=2)


def f(z: Tensor, x: Tensor, W: Tensor = W) -> Tensor:
    return torch.tanh(z @ W.T + x)


def dense(z: Tensor, W: Tensor = W) -> Tensor:
    """|J|_F^2 / d of each sample."""
    J = (1 - f(z, X, W) ** 2)[:, :, None] * W
    return J.square().sum(dim=(1, 2)) / D


def test_it_is_unbiased():
    """20 seeds of 200 probes; var |J^T e|^2 = 2 |J J^T|_F^2 gives the Monte-Carlo error."""
    means = torch.stack(
        [jacobian_regularization(f, Z, X, seed=s, probes=200) for s in range(20)]
    ).detach()
    J = (1 - f(Z, X) ** 2)[:, :, None] * W
    spread = (2 * (J @ J.mT).square().sum(dim=(1, 2))).sqrt() / D / 4000**0.5
    assert bool(((means.mean(dim=0) - dense(Z)).abs() < 5 * spread).all())


def test_one_coordinate_is_exact_up_to_the_probe():
    """d = 1: the estimate is J^2 e^2, so the ratio of two maps at one probe is exact."""
    z = torch.ones(2, 1, dtype=torch.float64)
    a, b = (jacobian_regularization(lambda z, c=c: c * z, z, seed=3) for c in (0.5, 2.0))
    torch.testing.assert_close(b / a, torch.full((2,), 16.0, dtype=torch.float64))


def test_its_gradient_through_the_solve_is_the_whole_derivative():
    def penalty(W: Tensor) -> Tensor:
        z = dw.fixed_point(
            lambda z, x: f(z, x, W), torch.zeros_like(X), X,
            tol=1e-14, throw=False, gradient=Implicit(tol=1e-12),
        ).z  # fmt: skip
        return jacobian_regularization(lambda z, x: f(z, x, W), z, X, seed=0).sum()

    inside = W.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(penalty, (inside,), rtol=1e-5)


def test_the_papers_form_does_not_move_the_fixed_point():
    inside = W.clone().requires_grad_(True)
    z = Z.clone().requires_grad_(True)
    total = jacobian_regularization(lambda z, x: f(z, x, inside), z.detach(), X, seed=0).sum()
    slopes = torch.autograd.grad(total, (inside, z), allow_unused=True)
    assert slopes[0].abs().max() > 0
    assert slopes[1] is None


def test_probes_belong_to_samples_and_steps():
    rows = torch.tensor([5, 2, 9])
    whole = jacobian_regularization(f, Z, X, seed=0, samples=rows)
    part = jacobian_regularization(f, Z[1:], X[1:], seed=0, samples=rows[1:])
    torch.testing.assert_close(part, whole[1:])
    later = jacobian_regularization(f, Z, X, seed=0, samples=rows, step=1)
    assert not torch.allclose(later, whole)


def test_trees_and_no_grad_mode():
    def tree(z):
        return {"a": 0.5 * z["a"], "b": 2.0 * z["b"]}

    z = {"a": Z, "b": Z}
    with torch.no_grad():
        penalty = jacobian_regularization(tree, z, seed=0, probes=500)
    assert not penalty.requires_grad
    assert float(penalty.mean()) == pytest.approx((0.25 + 4.0) / 2, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "z", "sentence"),
    [({"probes": 0}, Z, "at least 1, got 0"), ({}, Z + 0j, "real state, got a complex")],
)
def test_bad_input_is_refused(settings, z, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        jacobian_regularization(lambda z: z, z, seed=0, **settings)
