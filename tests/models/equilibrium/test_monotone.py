"""The monotone classifier: it stays solvable under training, and learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points.solvers.forward_backward import ForwardBackward
from driftwell.models.equilibrium.monotone import MonotoneDEQ


def rings(samples: int, seed: int):
    """Two classes that no line divides: inside and outside of a circle, in 4 noisy dimensions."""
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, :2].norm(dim=1) > 1.18).long()


def test_it_learns_what_no_linear_model_can_and_every_solve_converges():
    x, y = rings(256, seed=0)
    model = MonotoneDEQ(4, 16, 2, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(40):  # a solve or an adjoint that fails raises
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        unseen, answer = rings(1000, seed=1)
        accuracy = float((model(unseen).argmax(dim=1) == answer).float().mean())
    assert accuracy > 0.85


def test_gradients_agree_with_finite_differences():
    model = MonotoneDEQ(3, 8, 2, gain=1.5, tol=1e-12, max_steps=3000, seed=2).double()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(A):
        return torch.func.functional_call(model, {"layer.A": A}, x).square().sum()

    A = model.layer.A.detach().clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(A), A)
    direction = torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        there, back = loss(A + 1e-5 * direction), loss(A - 1e-5 * direction)
    assert float((slope * direction).sum()) == pytest.approx(float(there - back) / 2e-5, rel=1e-5)


def test_solvers_give_the_same_logits():
    x, _ = rings(8, seed=3)
    one = MonotoneDEQ(4, 16, 2, tol=1e-6)
    other = MonotoneDEQ(4, 16, 2, tol=1e-6, solver=ForwardBackward(), max_steps=5000)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x), other(x), rtol=1e-3, atol=1e-4)
    assert bool(one.equilibrium(x).status.eq(dw.Status.CONVERGED).all())


def test_seeds_make_the_model():
    before = torch.get_rng_state()
    a, b = MonotoneDEQ(4, 8, 2, seed=4), MonotoneDEQ(4, 8, 2, seed=4)
    assert torch.equal(torch.cat([p.flatten() for p in a.parameters()]),
                       torch.cat([p.flatten() for p in b.parameters()]))  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(InvalidInput, match="classes"):
        MonotoneDEQ(4, 8, 0)
