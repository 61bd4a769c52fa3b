"""Integration of ODEs: orders, tolerances, samples that do not see each other, derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import Diverged, InvalidInput, NotConverged
from driftwell.dynamics import FunctionField, OverdampedField
from driftwell.integration import (
    RK4,
    AdaptiveStep,
    Brownian,
    ConstantStep,
    DormandPrince,
    Euler,
    EulerMaruyama,
    Heun,
    Integrator,
    StochasticHeun,
    integrate,
)
from driftwell.integration.integrators.integrator import Step
from driftwell.testing import ConformanceError, check_integrator

ODE = [Euler(), Heun(), RK4(), DormandPrince()]
SDE = [EulerMaruyama(), StochasticHeun()]


def pendulum(t: Tensor, z: Tensor) -> Tensor:
    """Driven pendulum: nonlinear, and it depends on time."""
    return torch.stack([z[:, 1], torch.cos(2 * t) - torch.sin(z[:, 0])], dim=1)


START = torch.tensor([[0.3, 0.0], [1.5, -0.5], [2.5, 1.0]], dtype=torch.float64)
FINE = AdaptiveStep(rtol=1e-12, atol=1e-13)


@pytest.fixture(scope="module")
def reference() -> Tensor:
    return integrate(
        pendulum, START, [0.0, 2.0], integrator=DormandPrince(), step=FINE, max_steps=10**5
    ).z


def test_the_reference_agrees_with_scipy(reference):
    from scipy.integrate import solve_ivp

    for start, end in zip(START, reference, strict=True):
        other = solve_ivp(
            lambda t, z: [z[1], math.cos(2 * t) - math.sin(z[0])],
            (0, 2), start.tolist(), method="DOP853", rtol=1e-12, atol=1e-13,
        )  # fmt: skip
        torch.testing.assert_close(end, torch.from_numpy(other.y[:, -1]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("integrator", [*ODE, *SDE], ids=str)
def test_every_integrator_keeps_the_contract(integrator):
    check_integrator(integrator)


@pytest.mark.parametrize("integrator", ODE, ids=str)
def test_observed_order_per_sample(integrator, reference):
    errors = []
    for steps in (40, 80):
        z = integrate(
            pendulum, START, [0, 2], integrator=integrator, step=ConstantStep(2 / steps)
        ).z
        errors.append((z - reference).norm(dim=1))
    slopes = torch.log2(errors[0] / errors[1])
    assert bool(((slopes - integrator.order).abs() < 0.35).all()), slopes


@pytest.mark.parametrize(
    ("integrator", "tolerances"),
    [(Heun(), (1e-3, 1e-5)), (DormandPrince(), (1e-4, 1e-6, 1e-8))],
    ids=["Heun", "DormandPrince"],
)
def test_error_follows_the_tolerance(integrator, tolerances, reference):
    for tol in tolerances:
        flow = integrate(
            pendulum, START, [0, 2], integrator=integrator,
            step=AdaptiveStep(rtol=tol, atol=tol), max_steps=10**6,
        )  # fmt: skip
        error = (flow.z - reference).abs().max()
        assert 1e-3 * tol < error < 30 * tol, (tol, error)


def test_first_same_as_last_costs_six_evaluations_a_step():
    calls = 0

    def counted(t, z):
        nonlocal calls
        calls += 1
        return pendulum(t, z)

    flow = integrate(counted, START[:1], [0, 2], integrator=DormandPrince())
    tries = int(flow.steps[0] + flow.rejected[0])
    assert calls == 2 + 6 * tries  # two to choose the first step


def stiffness(t: Tensor, z: Tensor, x: Tensor) -> Tensor:
    return -x * (z - torch.cos(t)[:, None])


def test_a_stiff_neighbour_changes_nothing():
    x = torch.tensor([[1.0], [300.0], [3.0]], dtype=torch.float64)
    z0 = torch.zeros(3, 1, dtype=torch.float64)
    ts = [0.0, 0.3, 1.0]
    together = integrate(stiffness, z0, ts, x, integrator=DormandPrince())
    assert together.steps[1] > 3 * together.steps[0]
    for i in range(3):
        alone = integrate(stiffness, z0[i : i + 1], ts, x[i : i + 1], integrator=DormandPrince())
        assert alone.steps[0] == together.steps[i]
        assert alone.rejected[0] == together.rejected[i]
        torch.testing.assert_close(alone.zs[:, 0], together.zs[:, i], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("step", [ConstantStep(0.37), AdaptiveStep()], ids=str)
def test_outputs_are_exactly_at_the_times_asked_for(step):
    seen = []

    def clock(t, z):
        seen.append(float(t.max()))
        return torch.ones_like(z)

    ts = torch.tensor([0.0, 0.5, 0.51, 2.0], dtype=torch.float64)
    flow = integrate(clock, torch.zeros(2, 1, dtype=torch.float64), ts, step=step)
    torch.testing.assert_close(flow.zs[:, 0, 0], ts, rtol=0, atol=1e-12)
    assert max(seen) <= 2.0 + 1e-12
    assert torch.equal(flow.zs[-1], flow.z)
    assert flow.ts is ts


class Forgetful(Integrator):
    """Dormand and Prince's pair, evaluating every first slope anew."""

    order = 5
    error_order = 4

    def step(self, law, t, z, dt, dw=None, slope=None):
        return DormandPrince().step(law, t, z, dt)._replace(slope=None)


@pytest.mark.parametrize(
    "how",
    [
        dict(integrator=DormandPrince(), step=FINE),
        dict(integrator=RK4(), step=ConstantStep(0.003)),
    ],
    ids=["adaptive", "constant"],
)
def test_backward_time_returns_to_the_start(how):
    there = integrate(pendulum, START, [0, 2], **how)
    back = integrate(pendulum, there.z, [2, 1, 0], **how)
    torch.testing.assert_close(back.z, START, rtol=0, atol=1e-9)


def test_steps_that_err_are_rejected_and_leave_no_trace():
    """z' = -k(t) z where k jumps from 1 to 400 at t = 1, into the middle of a long step."""

    def kick(t, z):
        return -(200.5 + 199.5 * torch.tanh((t - 1.0) / 0.002))[:, None] * z

    z0 = torch.ones(1, 1, dtype=torch.float64)
    flow = integrate(
        kick, z0, [0, 1.01], integrator=DormandPrince(), step=AdaptiveStep(rtol=1e-7, atol=1e-9)
    )
    plain = integrate(
        kick, z0, [0, 1.01], integrator=Forgetful(), step=AdaptiveStep(rtol=1e-7, atol=1e-9)
    )
    torch.testing.assert_close(flow.z, plain.z, rtol=1e-12, atol=0)
    assert torch.equal(flow.steps, plain.steps)
    # The integral of k: 200.5 t + 199.5 * .002 * ln cosh((t - 1) / .002), ln cosh u ~ |u| - ln 2.
    integral = 200.5 * 1.01 + 0.399 * (math.log(math.cosh(5.0)) - (500.0 - math.log(2.0)))
    assert int(flow.rejected[0]) > 0
    assert float(flow.z) == pytest.approx(math.exp(-integral), rel=1e-5)


def test_rk4_keeps_the_energy_of_an_oscillator_to_its_order():
    def oscillator(t, z):
        return torch.stack([z[:, 1], -z[:, 0]], dim=1)

    z0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    ts = torch.linspace(0, 2 * math.pi, 9, dtype=torch.float64)
    zs = integrate(oscillator, z0, ts, integrator=RK4(), step=ConstantStep(math.pi / 64)).zs
    torch.testing.assert_close(zs[:, 0, 0], torch.cos(ts), rtol=0, atol=1e-6)
    assert float((zs.square().sum(-1) - 1).abs().max()) < 1e-6


@pytest.mark.parametrize(
    "how",
    [
        dict(integrator=RK4(), step=ConstantStep(0.1)),
        dict(integrator=DormandPrince(), step=AdaptiveStep(rtol=1e-10, atol=1e-12)),
    ],
    ids=["constant", "adaptive"],
)
def test_gradient_through_the_steps(how):
    def solve(z0, w):
        return integrate(
            lambda t, z: torch.tanh(z @ w) * torch.cos(t)[:, None], z0, [0, 1], **how
        ).z

    g = torch.Generator().manual_seed(0)
    z0 = torch.randn(2, 2, generator=g, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        solve, (z0, w), eps=1e-5, atol=1e-5 if "RK4" not in str(how) else 1e-7
    )


def test_tree_and_complex_states():
    def turn(t, z):
        return {"a": -z["a"], "b": (1j * z["b"][0],)}

    z0 = {"a": torch.ones(2, 3, 2), "b": (torch.ones(2, 1, dtype=torch.complex64),)}
    flow = integrate(turn, z0, [0, math.pi], integrator=DormandPrince())
    torch.testing.assert_close(
        flow.z["a"], torch.full((2, 3, 2), math.exp(-math.pi)), rtol=1e-2, atol=1e-4
    )
    assert flow.zs["b"][0].shape == (2, 2, 1)
    torch.testing.assert_close(flow.z["b"][0].real, -torch.ones(2, 1), rtol=1e-3, atol=1e-3)


def test_half_precision_states_are_accumulated_wider():
    z0 = torch.ones(1, 1, dtype=torch.bfloat16)
    flow = integrate(lambda t, z: -z, z0, [0, 1], integrator=RK4(), step=ConstantStep(1e-3))
    assert flow.z.dtype == torch.bfloat16
    assert float(flow.z) == pytest.approx(math.exp(-1), rel=1e-2)


def test_a_blow_up_is_reported_for_its_sample_only():
    z0 = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    flow = integrate(lambda t, z: z * z, z0, [0, 2], integrator=DormandPrince(), throw=False)
    assert flow.status[0] in (dw.Status.STEP_UNDERFLOW, dw.Status.DIVERGED)
    assert flow.status[1] == dw.Status.COMPLETED
    assert float(flow.z[1]) == pytest.approx(-1 / 3, rel=1e-4)
    assert bool(torch.isfinite(flow.z).all())
    with pytest.raises((Diverged, NotConverged), match=r"sample 0 .*\(1 of 2 samples failed\)"):
        integrate(lambda t, z: z * z, z0, [0, 2], integrator=DormandPrince())


def test_constant_steps_that_diverge_are_frozen_and_named():
    x = torch.tensor([[1.0], [1e4]])
    flow = integrate(
        lambda t, z, x: -x * z**3, torch.ones(2, 1), [0, 20], x,
        integrator=Euler(), step=ConstantStep(0.5), throw=False,
    )  # fmt: skip
    assert flow.status.tolist() == [dw.Status.COMPLETED, dw.Status.DIVERGED]
    assert bool(torch.isfinite(flow.z).all())
    assert flow.steps[1] < flow.steps[0] == 40


def test_budget_is_per_sample():
    x = torch.tensor([[1.0], [1e3]], dtype=torch.float64)
    z0 = torch.zeros(2, 1, dtype=torch.float64)
    flow = integrate(
        stiffness, z0, [0, 1], x, max_steps=120, throw=False, integrator=DormandPrince()
    )
    assert flow.status.tolist() == [dw.Status.COMPLETED, dw.Status.BUDGET_REACHED]
    assert int(flow.steps[1] + flow.rejected[1]) == 120
    with pytest.raises(NotConverged, match="sample 1 used up its steps"):
        integrate(stiffness, z0, [0, 1], x, max_steps=120, integrator=DormandPrince())


NOISY = FunctionField(lambda t, z: -z, lambda t, z: torch.ones_like(z))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(ts=[0.0]), "at least a start and an end"),
        (dict(ts=[0.0, 1.0, 0.5]), "strictly increasing or strictly decreasing"),
        (dict(ts=[0.0, math.inf]), "must be finite"),
        (dict(ts=torch.zeros(2, 2)), "one-dimensional"),
        (dict(field=3), "a vector field is"),
        (dict(field=lambda t, z: z[:, :1]), "the drift must keep the state's shape"),
        (dict(z0=torch.ones(2, 2, dtype=torch.int32)), "floating-point"),
        (dict(z0=torch.ones(0, 2)), "empty batch"),
        (dict(integrator="heun"), "integrator must be an Integrator"),
        (dict(step=0.1), "step must be ConstantStep"),
        (dict(gradient="adjoint"), "gradient must be None"),
        (dict(max_steps=0), "max_steps must be an integer"),
        (dict(step=ConstantStep(1e-6)), "takes 1000000 steps .* more than max_steps=10000"),
        (dict(integrator=RK4()), "needs an error estimate and RK4 has none"),
        (dict(noise=Brownian(0)), "the field has no diffusion; leave noise=None"),
        (dict(integrator=EulerMaruyama(), step=ConstantStep(0.1)), "EulerMaruyama is for SDEs"),
        (dict(field=NOISY, step=ConstantStep(0.1)), "Heun ignores noise"),
        (dict(field=NOISY, integrator=EulerMaruyama()), "AdaptiveStep would bias the noise"),
        (
            dict(field=NOISY, integrator=EulerMaruyama(), step=ConstantStep(0.1)),
            "give its path, noise=Brownian",
        ),
        (
            dict(
                field=NOISY, integrator=EulerMaruyama(), step=ConstantStep(0.1),
                noise=Brownian(0), ts=[1.0, 0.0],
            ),
            "runs forwards only",
        ),
        (
            dict(
                field=NOISY, integrator=EulerMaruyama(), step=ConstantStep(1e-3),
                noise=Brownian(0, resolution=0.01),
            ),
            "finer than the Brownian path",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(arguments, sentence):
    given = {"field": lambda t, z: -z, "z0": torch.ones(2, 2), "ts": [0.0, 1.0], **arguments}
    with pytest.raises(InvalidInput, match=sentence):
        integrate(given.pop("field"), given.pop("z0"), given.pop("ts"), **given)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConstantStep(0.0),
        lambda: ConstantStep(-0.1),
        lambda: AdaptiveStep(rtol=-1.0),
        lambda: AdaptiveStep(rtol=0.0, atol=0.0),
        lambda: AdaptiveStep(dt0=0.0),
        lambda: AdaptiveStep(shrink=2.0),
        lambda: Brownian(seed=-1),
        lambda: Brownian(seed=0, resolution=0.0),
        lambda: Brownian(seed=0, resolution=1e-9),
        lambda: Brownian(seed=0, first_chain=-1),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(InvalidInput):
        make()


# Members that break the contract: the suite must see each.
class WrongWeights(Integrator):
    order = 2

    def step(self, law, t, z, dt, dw=None, slope=None):
        k = law.drift(t, z)
        ahead = law.drift(t + dt, z + dt[:, None] * k)
        return Step(z + dt[:, None] * (0.6 * k + 0.4 * ahead))


class ForgetsTime(Integrator):
    order = 2

    def step(self, law, t, z, dt, dw=None, slope=None):
        k = law.drift(t, z)
        return Step(z + dt[:, None] * 0.5 * (k + law.drift(t, z + dt[:, None] * k)))


class OneStepForAll(Integrator):
    order = 1

    def step(self, law, t, z, dt, dw=None, slope=None):
        return Step(z + dt.max() * law.drift(t, z))


class ItoCalledStratonovich(Integrator):
    order = 1
    strong_order = 0.5
    interpretation = "stratonovich"

    def step(self, law, t, z, dt, dw=None, slope=None):
        return EulerMaruyama().step(law, t, z, dt, dw)


class WrongSlope(Integrator):
    order = 1

    def step(self, law, t, z, dt, dw=None, slope=None):
        k = law.drift(t, z)
        return Step(z + dt[:, None] * k, slope=k)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (WrongWeights(), "declares order 2 and shows"),
        (ForgetsTime(), "declares order 2 and shows"),
        (OneStepForAll(), "dt is 0"),
        (ItoCalledStratonovich(), "declares strong order 0.5"),
        (WrongSlope(), "misses the drift"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_suite_sees_a_broken_integrator(broken, sentence):
    with pytest.raises(ConformanceError, match=sentence):
        check_integrator(broken)


def test_an_energy_is_integrated_as_a_field():
    field = OverdampedField(lambda z: 0.5 * (z**2).sum(dim=1), temperature=0.0)
    flow = integrate(field, torch.ones(2, 2), [0, 1], integrator=DormandPrince())
    torch.testing.assert_close(flow.z, torch.full((2, 2), math.exp(-1)), rtol=1e-3, atol=0)
