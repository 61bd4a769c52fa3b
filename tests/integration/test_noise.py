"""Brownian paths and SDEs: the path is one, its law is right, the schemes have their orders."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from driftwell.core.errors import InvalidInput
from driftwell.dynamics import FunctionField
from driftwell.integration import (
    Brownian,
    ConstantStep,
    EulerMaruyama,
    StochasticHeun,
    integrate,
)

# Statistical bounds below are met with probability above 999/1000 by right code; seeds are fixed.
SIGMAS = 4.0


def path(seed=0, samples=2000, shape=(1,), **settings):
    return Brownian(seed, **settings).path([shape], samples, dtype=torch.float64)


def walk(path, times):
    """W at each time, (K, B, D), from the first."""
    parts = [path.increment(a, b) for a, b in pairwise(times)]
    return torch.stack(parts).cumsum(0)


@pytest.mark.parametrize("pieces", [2, 7, 64, 1000])
def test_increments_add_up(pieces):
    whole = path(samples=5).increment(-0.3, 2.7)
    times = [-0.3 + 3.0 * i / pieces for i in range(pieces)] + [2.7]
    torch.testing.assert_close(walk(path(samples=5), times)[-1], whole, rtol=0, atol=1e-12)


def test_refining_keeps_the_path():
    coarse, fine = path(resolution=2**-4), path(resolution=2**-12)
    times = [i / 16 for i in range(33)]
    assert torch.equal(walk(coarse, times), walk(fine, times))


def test_a_time_inside_a_cell_is_the_next_refinement():
    a, b = path(resolution=2**-4), path(resolution=2**-5)
    torch.testing.assert_close(a.increment(0, 3 / 32), b.increment(0, 3 / 32))


def test_the_order_of_questions_does_not_matter():
    p = path(samples=3)
    forward = [p.increment(a, a + 0.1) for a in (0.0, 0.55, 0.2, 1.7)]
    q = path(samples=3)
    backward = [q.increment(a, a + 0.1) for a in (1.7, 0.2, 0.55, 0.0)]
    for u, v in zip(forward, reversed(backward), strict=True):
        torch.testing.assert_close(u, v, rtol=0, atol=1e-14)


def test_samples_and_leaves_have_their_own_paths_whatever_the_batch():
    law = Brownian(3)
    whole = law.path([(2,), (3,)], 6).increment(0.1, 0.9)
    part = Brownian(3, first_chain=4).path([(2,), (3,)], 2).increment(0.1, 0.9)
    assert torch.equal(whole[4:], part)
    assert len(whole.unique()) == whole.numel()


def test_covariance_is_the_smaller_time():
    times = [0.0, 0.3, 1 / 3, 0.75, 1.5, 2.2]
    n = 20_000
    w = walk(path(samples=n), times)[:, :, 0]
    t = torch.tensor(times[1:], dtype=torch.float64)
    expected = torch.minimum(t[:, None], t[None, :])
    error = ((t[:, None] * t[None, :] + expected**2) / n).sqrt()  # of a product of two normals
    assert bool(((w @ w.T / n - expected).abs() < SIGMAS * error).all())


@pytest.mark.parametrize("dt", [2**-6, 0.01, 0.0123])
def test_increments_are_independent_normals(dt):
    times = [i * dt for i in range(33)]
    w = walk(path(seed=1, samples=500), times)
    steps = torch.diff(w, dim=0, prepend=torch.zeros_like(w[:1])).reshape(32, -1) / math.sqrt(dt)
    assert stats.kstest(steps.flatten().numpy(), "norm").pvalue > 1e-3
    n = steps.shape[1]
    lag = (steps[1:] * steps[:-1]).mean(1)
    assert float(lag.abs().max()) < SIGMAS / math.sqrt(n)


def test_quadratic_variation_is_time():
    times = [i / 1024 for i in range(1025)]
    w = walk(path(seed=2, samples=50), times)
    variation = torch.diff(w, dim=0, prepend=torch.zeros_like(w[:1])).square().sum(0)
    error = math.sqrt(2 / 1024)
    assert float((variation - 1).abs().max()) < SIGMAS * error
    assert float(variation.mean() - 1) == pytest.approx(0, abs=SIGMAS * error / math.sqrt(50))


def test_times_too_far_from_zero_say_so():
    with pytest.raises(InvalidInput, match="raise Brownian"):
        path().increment(1e6, 1e6 + 1)


A, S = 0.6, 0.8
GEOMETRIC = FunctionField(lambda t, z: A * z, lambda t, z: S * z)


@pytest.mark.parametrize(
    ("integrator", "order"), [(EulerMaruyama(), 0.5), (StochasticHeun(), 1.0)], ids=str
)
def test_strong_order_along_one_path(integrator, order):
    """Mean |z(1) - exact| of geometric Brownian motion, the same path at five step sizes."""
    n = 1000
    noise = Brownian(seed=4, resolution=2**-10)
    w = noise.path([(1,)], n, dtype=torch.float64).increment(0, 1)
    drift = A - (S**2 / 2 if integrator.interpretation == "ito" else 0.0)
    exact = torch.exp(drift + S * w)
    levels = torch.arange(5, 10, dtype=torch.float64)
    errors = torch.tensor(
        [
            (
                integrate(
                    GEOMETRIC, torch.ones(n, 1, dtype=torch.float64), [0, 1],
                    integrator=integrator, step=ConstantStep(2.0 ** -int(k)), noise=noise,
                ).z - exact
            ).abs().mean()
            for k in levels
        ],
        dtype=torch.float64,
    )  # fmt: skip
    x, y = levels - levels.mean(), torch.log2(errors) - torch.log2(errors).mean()
    slope = -float((x * y).sum() / (x * x).sum())
    assert slope == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("integrator", "mean"),
    [(EulerMaruyama(), math.exp(A)), (StochasticHeun(), math.exp(A + S**2 / 2))],
    ids=str,
)
def test_weak_mean_within_its_error(integrator, mean):
    n = 20_000
    z = integrate(
        GEOMETRIC, torch.ones(n, 1, dtype=torch.float64), [0, 1],
        integrator=integrator, step=ConstantStep(2**-7), noise=Brownian(5),
    ).z  # fmt: skip
    error = float(z.std()) / math.sqrt(n)
    assert abs(float(z.mean()) - mean) < SIGMAS * error + 0.005 * mean  # order-1 bias at 2^-7


def test_stationary_variance_of_an_ornstein_uhlenbeck_process():
    """dz = -k z dt + s dW: variance s^2 / (2 k), which the scheme makes s^2 / (2 k - k^2 dt)."""
    k, s, dt, n = 1.5, 0.7, 2**-4, 20_000
    field = FunctionField(lambda t, z: -k * z, lambda t, z: torch.full_like(z, s))
    z = integrate(
        field, torch.zeros(n, 1, dtype=torch.float64), [0, 4],
        integrator=EulerMaruyama(), step=ConstantStep(dt), noise=Brownian(6),
    ).z  # fmt: skip
    expected = s**2 / (2 * k - k**2 * dt)
    error = expected * math.sqrt(2 / n)
    assert abs(float(z.square().mean()) - expected) < SIGMAS * error
    assert expected > s**2 / (2 * k) + SIGMAS * error  # the test can tell them apart


def test_a_run_in_two_parts_is_the_run():
    z0 = torch.ones(4, 2)
    how = dict(integrator=StochasticHeun(), step=ConstantStep(2**-5), noise=Brownian(7))
    whole = integrate(GEOMETRIC, z0, [0, 2], **how)
    half = integrate(GEOMETRIC, z0, [0, 0.75], **how)
    rest = integrate(GEOMETRIC, half.z, [0.75, 2], **how)
    torch.testing.assert_close(rest.z, whole.z, rtol=1e-5, atol=1e-6)


def test_gradient_along_a_path():
    def solve(a, s):
        field = FunctionField(lambda t, z: a * z, lambda t, z: s * torch.sin(z))
        return integrate(
            field, torch.ones(3, 1, dtype=torch.float64), [0, 1],
            integrator=StochasticHeun(), step=ConstantStep(0.25), noise=Brownian(8),
        ).z  # fmt: skip

    inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.5)]
    assert torch.autograd.gradcheck(solve, inputs)


def test_tree_and_complex_states():
    def drift(t, z):
        return {"a": -z["a"], "b": -z["b"]}

    def diffusion(t, z):
        return {"a": torch.ones_like(z["a"]), "b": torch.full_like(z["b"], 1 + 1j)}

    z0 = {"a": torch.zeros(500, 2), "b": torch.zeros(500, 1, dtype=torch.complex64)}
    z = integrate(
        FunctionField(drift, diffusion), z0, [0, 3],
        integrator=EulerMaruyama(), step=ConstantStep(2**-5), noise=Brownian(9),
    ).z  # fmt: skip
    for part in (z["a"][:, 0], z["a"][:, 1], z["b"].real[:, 0], z["b"].imag[:, 0]):
        assert float(part.var()) == pytest.approx(0.5, abs=0.15)
    assert abs(float((z["b"].real * z["b"].imag).mean())) < 0.1
