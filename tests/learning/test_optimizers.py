"""Heavy ball, Laplacian smoothing, backward Euler: equivalences, dense checks, invariants."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput, NotConverged
from driftwell.fixed_points import Picard
from driftwell.learning.optimizers import (
    BackwardEuler,
    HeavyBall,
    LaplacianSmoothing,
    laplacian_smooth,
    white_noise_factor,
)


def gaussian(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def spd(n: int, seed: int) -> Tensor:
    M = gaussian(n, n, seed=seed)
    return M @ M.T / n + 0.1 * torch.eye(n, dtype=torch.float64)


# -------------------------------------------------------------------------------- heavy ball


def descend(optimizer, x: Tensor, A: Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * x @ A @ x).backward()
        optimizer.step()


def test_at_a_constant_step_it_is_momentum_sgd():
    A = spd(5, seed=0)
    ours, theirs = (gaussian(5, seed=1).requires_grad_(True) for _ in range(2))
    descend(HeavyBall([ours], lr=0.05, beta=0.9), ours, A, 100)
    descend(torch.optim.SGD([theirs], lr=0.05, momentum=0.9), theirs, A, 100)
    assert (ours - theirs).abs().max() < 1e-12


def test_one_step_is_the_equation():
    """x+ = x - lr g + beta (x - x_prev), with lr changed between the steps."""
    x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    ball = HeavyBall([x], lr=0.1, beta=0.5)
    seen = [x.item()]
    for lr in (0.1, 0.3):
        ball.param_groups[0]["lr"] = lr
        x.grad = x.detach().clone()
        ball.step()
        seen.append(x.item())
    x0, x1, x2 = seen
    assert x1 == pytest.approx(x0 - 0.1 * x0)
    assert x2 == pytest.approx(x1 - 0.3 * x1 + 0.5 * (x1 - x0))


def rises(beta: float, c: float, variant: str = "full") -> float:
    """Largest increase of the Lyapunov function on a quadratic of two blocks with L = 1."""
    blocks = [torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    ball = HeavyBall(blocks, lr=2 * (1 - beta) * c, beta=beta, variant=variant)
    seen = []
    for _ in range(300):
        ball.zero_grad()
        loss = sum(0.5 * b.square().sum() for b in blocks)
        loss.backward()
        seen.append(ball.lyapunov(loss.detach()))
        ball.step()
    return max(b - a for a, b in pairwise(seen))


@pytest.mark.parametrize("variant", ["full", "cyclic", "random"])
@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_the_lyapunov_function_never_grows_within_the_bound(beta, variant):
    assert rises(beta, 0.95, variant) <= 1e-14


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_beyond_the_bound_it_does(beta):
    assert rises(beta, 1.2) > 1e-3


def moved(variant: str, steps: int = 12, seed: int = 0) -> list[list[bool]]:
    blocks = [torch.zeros(1, requires_grad=True) for _ in range(3)]
    ball = HeavyBall(blocks, lr=0.1, beta=0.0, variant=variant, seed=seed)
    history = []
    for _ in range(steps):
        before = [b.item() for b in blocks]
        for b in blocks:
            b.grad = torch.ones(1)
        ball.step()
        history.append([b.item() != old for b, old in zip(blocks, before, strict=True)])
    return history


def test_block_variants_move_one_tensor_a_step():
    assert all(row == [True] * 3 for row in moved("full"))
    assert [row.index(True) for row in moved("cyclic")] == [0, 1, 2] * 4
    random = moved("random", steps=60)
    assert all(sum(row) == 1 for row in random)
    assert {row.index(True) for row in random} == {0, 1, 2}
    assert random == moved("random", steps=60)
    assert random != moved("random", steps=60, seed=1)


def test_a_saved_heavy_ball_goes_on_as_if_never_stopped():
    def make():
        x = gaussian(4, seed=2).requires_grad_(True)
        return x, HeavyBall([x], lr=0.05, beta=0.9, variant="cyclic")

    A = spd(4, seed=3)
    x, whole = make()
    descend(whole, x, A, 20)
    y, first = make()
    descend(first, y, A, 10)
    second = HeavyBall([y], lr=0.05, beta=0.9, variant="cyclic")
    second.load_state_dict(first.state_dict())
    descend(second, y, A, 10)
    assert torch.equal(x, y)


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"beta": 1.0}, {"variant": "all"}])
def test_heavy_ball_refuses(bad):
    with pytest.raises(InvalidInput):
        HeavyBall([torch.zeros(1, requires_grad=True)], **{"lr": 0.1, **bad})


# ------------------------------------------------------------------------- Laplacian smoothing


def dense_operator(m: int, sigma: float, order: int) -> Tensor:
    """1 + sigma (-Delta)^order with the periodic stencil (-1, 2, -1)."""
    eye = torch.eye(m, dtype=torch.float64)
    minus = 2 * eye - eye.roll(1, 0) - eye.roll(-1, 0)
    return eye + sigma * torch.linalg.matrix_power(minus, order)


@pytest.mark.parametrize("m", [2, 3, 8, 11])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_smoothing_solves_the_dense_system(m, order):
    g = gaussian(m, seed=m)
    truth = torch.linalg.solve(dense_operator(m, 1.7, order), g)
    assert (laplacian_smooth(g, 1.7, order) - truth).abs().max() < 1e-10


def test_a_single_entry_is_left_alone():
    assert laplacian_smooth(torch.tensor([3.0]), 10.0).item() == pytest.approx(3.0)


def test_smoothing_keeps_the_mean_shrinks_the_range_and_descends():
    g = gaussian(6, 7, seed=4)
    smooth = laplacian_smooth(g, 2.0)
    assert smooth.shape == g.shape
    assert smooth.mean() == pytest.approx(g.mean().item())
    assert smooth.max() <= g.max()
    assert smooth.min() >= g.min()
    assert (smooth * g).sum() > 0


def test_white_noise_factor_is_the_mean_of_inverse_squared_eigenvalues():
    angle = 2 * math.pi * torch.arange(4096, dtype=torch.float64) / 4096
    for sigma in (0.5, 1.0, 3.0):
        eigenvalues = 1 + sigma * (2 - 2 * angle.cos())
        assert eigenvalues.pow(-2).mean() == pytest.approx(white_noise_factor(sigma))


def test_any_optimizer_sees_the_smoothed_gradient_with_and_without_a_closure():
    g = gaussian(3, 4, seed=5)
    for with_closure in (False, True):
        matrix = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
        vector = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        optimizer = LaplacianSmoothing(torch.optim.SGD([matrix, vector], lr=1.0), sigma=1.0)

        def closure(matrix=matrix, vector=vector):
            matrix.grad, vector.grad = g.clone(), g[0].clone()
            return 1.5

        if with_closure:
            assert optimizer.step(closure) == 1.5
        else:
            closure()
            optimizer.step()
        assert torch.allclose(matrix, -laplacian_smooth(g, 1.0))
        assert torch.equal(vector, -g[0])


def test_vectors_are_smoothed_if_asked():
    g = gaussian(5, seed=6)
    vector = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = LaplacianSmoothing(torch.optim.SGD([vector], lr=1.0), skip_vectors=False)
    vector.grad = g.clone()
    optimizer.step()
    assert torch.allclose(vector, -laplacian_smooth(g, 1.0))


@pytest.mark.parametrize("bad", [{"sigma": -1.0}, {"sigma": math.inf}, {"order": 0}])
def test_smoothing_refuses(bad):
    with pytest.raises(InvalidInput):
        laplacian_smooth(torch.zeros(3), **{"sigma": 1.0, **bad})


# ------------------------------------------------------------------------------ backward Euler


def implicit_step(x: Tensor, f, lr: float, **how) -> BackwardEuler:
    euler = BackwardEuler([x], lr=lr, tol=1e-12, **how)

    def closure():
        euler.zero_grad()
        loss = f(x)
        loss.backward()
        return loss

    euler.step(closure)
    return euler


@pytest.mark.parametrize("lr", [0.1, 5.0])
def test_on_a_quadratic_it_is_the_proximal_step(lr):
    A, start = spd(4, seed=7), gaussian(4, seed=8)
    x = start.clone().requires_grad_(True)
    euler = implicit_step(x, lambda x: 0.5 * x @ A @ x, lr)
    truth = torch.linalg.solve(torch.eye(4, dtype=torch.float64) + lr * A, start)
    assert torch.allclose(x, truth, atol=1e-10)
    assert int(euler.last.steps) <= 20


def test_several_tensors_are_one_step_of_the_whole():
    x, y = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (1.0, -2.0))
    euler = BackwardEuler([x, y], lr=1.0, tol=1e-13)

    def closure():
        euler.zero_grad()
        loss = 0.5 * (x - y).square().sum()
        loss.backward()
        return loss

    assert euler.step(closure).item() == pytest.approx(4.5)  # the loss at the start
    # x+ - x = -(x+ - y+), y+ - y = x+ - y+: the difference 3 becomes 1, the sum stays
    assert [x.item(), y.item()] == pytest.approx([0.0, -1.0])


def test_where_the_step_cannot_be_solved_the_parameters_stay():
    x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    with pytest.raises(NotConverged):
        implicit_step(x, lambda x: x.square().sum(), 0.49, solver=Picard(), max_steps=3)
    assert x.item() == 1.0


def test_backward_euler_refuses():
    x = torch.zeros(1, requires_grad=True)
    with pytest.raises(InvalidInput, match="positive"):
        BackwardEuler([x], lr=0.0)
    with pytest.raises(InvalidInput, match="closure"):
        BackwardEuler([x], lr=1.0).step()
