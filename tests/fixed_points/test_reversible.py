"""The coupled iteration that is run backwards: against back-propagation through the same steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import DriftwellError, InvalidInput
from driftwell.fixed_points import FixedBudget, Implicit, Picard
from driftwell.fixed_points.gradients.reversible import Reversible

B, D = 3, 5


def gaussian(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def problem(dtype=torch.float64) -> tuple[Tensor, ...]:
    leaves = 0.2 * gaussian(D, D, seed=0), gaussian(B, D, seed=1), gaussian(B, D, seed=2)
    return tuple(leaf.to(dtype).requires_grad_(True) for leaf in leaves)


def layer(z: Tensor, W: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(z @ W.T + x)


def coupled(W: Tensor, x: Tensor, z0: Tensor, b: float, steps: int) -> Tensor:
    """The iteration as it is written in the paper, recorded step by step."""
    y = z = z0
    for _ in range(steps):
        y = (1 - b) * y + b * layer(z, W, x)
        z = (1 - b) * z + b * layer(y, W, x)
    return z


def reversed_(W, x, z0, b, steps=None, **settings):
    limit = {} if steps is None else {"tol": 0.0, "max_steps": 2 * steps + 1, "throw": False}
    return dw.fixed_point(
        lambda z, x: layer(z, W, x), z0, x, gradient=Reversible(b), **{**limit, **settings}
    )


def error(a, b) -> float:
    return max(float((p - q).norm() / q.norm()) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize(("b", "steps"), [(0.5, 1), (0.5, 8), (0.2, 30), (0.8, 5), (0.05, 100)])
def test_equals_back_propagation_through_the_same_steps(b, steps):
    leaves = problem()
    got, wanted = reversed_(*leaves, b, steps).z, coupled(*leaves, b, steps)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-14)
    slopes = (torch.autograd.grad(z.pow(3).sum(), leaves) for z in (got, wanted))
    assert error(*slopes) < 1e-10


def test_passes_gradcheck():
    leaves = problem()
    assert torch.autograd.gradcheck(lambda *leaves: reversed_(*leaves, 0.4, 3).z, leaves)


@pytest.mark.parametrize(("steps", "bound"), [(5, 1e-6), (20, 1e-4)])
def test_float32_loses_little(steps, bound):
    """Rounding grows by 4 a step back at b = 1/2, where the gradient has shrunk by as much."""
    leaves = problem(torch.float32)
    slopes = (
        torch.autograd.grad(z.pow(3).sum(), leaves[:2])
        for z in (reversed_(*leaves, 0.5, steps).z, coupled(*leaves, 0.5, steps))
    )
    assert error(*slopes) < bound


def test_approaches_the_implicit_gradient_with_the_tolerance():
    W, x, z0 = problem()
    found = reversed_(W, x, z0, 0.3, tol=1e-7, max_steps=400)
    z = dw.fixed_point(
        lambda z, x: layer(z, W, x), z0, x, tol=1e-13, gradient=Implicit(tol=1e-12)
    ).z
    assert found.status.tolist() == [dw.Status.CONVERGED] * B
    assert float((found.z - z).detach().norm()) < 1e-6
    slopes = (torch.autograd.grad(z.pow(3).sum(), (W, x)) for z in (found.z, z))
    assert error(*slopes) < 1e-5


def test_a_sample_does_not_depend_on_its_neighbours():
    """Samples that stop at different steps: values and gradients are those of each alone."""
    W, x, z0 = problem()
    x = (x * torch.tensor([[0.1], [1.0], [3.0]])).detach().requires_grad_(True)
    found = reversed_(W, x, z0, 0.3, tol=1e-6, max_steps=400)
    assert len(set(found.steps.tolist())) > 1
    (together,) = torch.autograd.grad(found.z.pow(3).sum(), x)
    for i in range(B):
        one = x[i : i + 1].detach().requires_grad_(True)
        alone = reversed_(W, one, z0[i : i + 1], 0.3, tol=1e-6, max_steps=400)
        torch.testing.assert_close(alone.z[0], found.z[i], rtol=0, atol=1e-14)
        assert alone.steps.item() == found.steps[i]
        (slope,) = torch.autograd.grad(alone.z.pow(3).sum(), one)
        torch.testing.assert_close(slope[0], together[i], rtol=1e-9, atol=1e-13)


def test_the_residual_is_that_of_the_state_returned():
    found = reversed_(*problem(), 0.5, 3)
    W, x, _ = problem()
    z = found.z
    gap = (layer(z, W, x) - z).norm(dim=1) / layer(z, W, x).norm(dim=1)
    torch.testing.assert_close(found.residual, gap.detach())
    assert found.steps.tolist() == [7] * B


def test_a_diverged_sample_sends_no_gradient():
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def f(z):
        return w * z + torch.tensor([[1.0], [3.0]]).double() + 0.0 * torch.sqrt(4.0 - z)

    found = dw.fixed_point(
        f, torch.ones(2, 1).double(), gradient=Reversible(0.2), throw=False, tol=1e-6, max_steps=300
    )
    assert found.status.tolist() == [dw.Status.CONVERGED, dw.Status.DIVERGED]
    (slope,) = torch.autograd.grad(found.z.sum(), w)
    assert float(slope) == pytest.approx(4.0, rel=1e-4)


def test_a_trajectory_that_is_lost_is_refused():
    """A map that hardly contracts, and b = 0.95: a step back multiplies rounding by up to 400."""
    W = 0.99 * torch.linalg.qr(gaussian(D, D, seed=3))[0]
    _, x, z0 = problem()
    z = reversed_(W.requires_grad_(True), 0.01 * x, 0.01 * z0, 0.95, 40).z
    with pytest.raises(DriftwellError, match=r"lost the way back: sample \d missed its start"):
        z.sum().backward()


def test_a_second_derivative_is_refused():
    leaves = problem()
    z = reversed_(*leaves, 0.5, 3).z
    (slope,) = torch.autograd.grad(z.pow(3).sum(), leaves[1], create_graph=True)
    with pytest.raises(RuntimeError):
        slope.sum().backward()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(solver=Picard()), "an iteration of its own, in which Picard.*leave solver= out"),
        (dict(compact=True), "use compact=False"),
        (dict(loop=FixedBudget(), throw=False), "with the default loop only"),
    ],
)
def test_what_has_no_part_in_it_is_refused(settings, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        reversed_(*problem(), 0.5, **settings)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Reversible(1.0), r"damping=....*in \(0, 1\), got 1.0"),
        (lambda: Reversible(0.5, 0.0), "drift=....*positive, got 0.0"),
    ],
)
def test_bad_settings_are_refused(make, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        make()
