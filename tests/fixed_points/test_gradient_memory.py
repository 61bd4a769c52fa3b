"""What a solve holds until its backward pass, in measured bytes, over the number of steps."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import driftwell as dw
from driftwell.fixed_points import Implicit, Picard, Unrolled
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.one_step import OneStep
from driftwell.fixed_points.gradients.phantom import Phantom
from driftwell.fixed_points.gradients.reversible import Reversible

B, D = 64, 64
W = torch.eye(D).mul(-0.999).requires_grad_(True)  # slow: f is never hit exactly
X = torch.ones(B, D)
STATE = B * D * 4
INSIDE = 4  # states that one application of f keeps for its derivative


def layer(z: Tensor) -> Tensor:
    u = z @ W.T + X
    for _ in range(INSIDE):
        u = 10.0 * torch.sin(0.1 * u)
    return u


def solve(gradient: Gradient, steps: int) -> Tensor:
    how = {} if isinstance(gradient, Reversible) else {"solver": Picard()}
    return dw.fixed_point(
        layer, torch.zeros(B, D), gradient=gradient, tol=0.0, max_steps=steps, throw=False, **how
    ).z


def held(gradient: Gradient, steps: int) -> float:
    """Bytes that live on after the solve, in states."""
    solve(gradient, 2)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        z = solve(gradient, steps)
    del z  # only after the profile has ended
    return sum(event.self_cpu_memory_usage for event in seen.events()) / STATE


@pytest.mark.parametrize("gradient", [Implicit(), OneStep(), Phantom(3), Reversible(0.2)], ids=str)
def test_memory_does_not_grow_with_steps(gradient):
    few, many = held(gradient, 7), held(gradient, 27)
    assert many == pytest.approx(few, abs=1.0)
    assert 1.0 <= many <= 30.0


def test_unrolling_grows_by_all_that_f_keeps_and_with_checkpoints_by_the_iterates():
    whole = (held(Unrolled(), 15) - held(Unrolled(), 5)) / 10
    light = (held(Unrolled(checkpoint=True), 15) - held(Unrolled(checkpoint=True), 5)) / 10
    assert whole == pytest.approx(INSIDE + 1, abs=1.0)
    assert 0.9 <= light <= 2.0
    assert light < 0.5 * whole


@pytest.mark.parametrize(
    "gradient",
    [Implicit(), OneStep(), Phantom(3), Reversible(0.2), Unrolled(), Unrolled(checkpoint=True)],
    ids=str,
)
@pytest.mark.parametrize("backward", [True, False])
def test_nothing_is_left_behind(gradient, backward):
    """No reference cycle: the map goes with the result, without garbage collection."""

    def solved() -> tuple[Tensor, weakref.ref]:
        def f(z):
            return layer(z)

        how = {} if isinstance(gradient, Reversible) else {"solver": Picard()}
        z = dw.fixed_point(f, torch.zeros(B, D), gradient=gradient, tol=0.5, throw=False, **how).z
        return z, weakref.ref(f)

    gc.disable()
    try:
        z, ghost = solved()
        if backward:
            torch.autograd.grad(z.square().sum(), W)
        del z
        assert ghost() is None
    finally:
        gc.enable()


def test_a_checkpoint_passes_second_derivatives_and_random_maps():
    """What was forgotten is had again: with its graph, and with the random numbers of then."""
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def slopes(checkpoint):
        generator = torch.get_rng_state()
        z = dw.fixed_point(
            lambda z: torch.tanh(w * torch.dropout(z, 0.5, True) + 1.0),
            torch.ones(3, 5, dtype=torch.float64),
            gradient=Unrolled(checkpoint), solver=Picard(), tol=0.0, max_steps=4, throw=False,
        ).z  # fmt: skip
        (first,) = torch.autograd.grad(z.pow(3).sum(), w, create_graph=True)
        second = torch.autograd.grad(first, w)[0]
        torch.set_rng_state(generator)
        return first.detach(), second

    torch.testing.assert_close(slopes(True), slopes(False), rtol=1e-12, atol=0)
