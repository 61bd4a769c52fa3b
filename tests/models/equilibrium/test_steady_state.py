"""Steady states of fields: against closed forms and against time integration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.dynamics import VectorField
from driftwell.fixed_points import Implicit
from driftwell.models.equilibrium.steady_state import SteadyState

D, B = 6, 4


def gaussian(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


class Rates(VectorField):
    """A rate network: b = -z + tanh(z W^T + x)."""

    def __init__(self, gain: float = 0.35) -> None:
        super().__init__()
        self.W = nn.Parameter(gain * gaussian(D, D, seed=0))

    def drift(self, t, z, x=None):
        return torch.tanh(z @ self.W.T + x) - z


def exact(field: VectorField, **settings: object) -> SteadyState:
    return SteadyState(field, tol=1e-13, gradient=Implicit(tol=1e-13), **settings)


def test_it_is_where_the_flow_ends_with_the_gradients_of_the_flow() -> None:
    """z(t = 40) is z* to exp(-40 |rate|), far below the integrator's own tolerance."""
    field, start = Rates(), torch.zeros(B, D, dtype=torch.float64)
    found = []
    for how in ("rest", "time"):
        x = gaussian(B, D, seed=1).requires_grad_(True)
        if how == "rest":
            z = exact(field)(start, x, throw=True).z
        else:
            z = dw.integrate(field, start, [0.0, 40.0], x, integrator=dw.DormandPrince(),
                             step=dw.AdaptiveStep(1e-10, 1e-12)).z  # fmt: skip
        grads = torch.autograd.grad(z.pow(3).sum(), (x, field.W))
        found.append((z.detach(), *grads))
    for rest, time in zip(*found, strict=True):
        assert float((rest - time).norm() / time.norm()) < 1e-8


def test_linear_field_in_closed_form() -> None:
    A = gaussian(D, D, seed=2) * 0.2 - torch.eye(D, dtype=torch.float64)
    x = gaussian(B, D, seed=3).requires_grad_(True)
    start = torch.zeros(B, D, dtype=torch.float64)
    found = exact(lambda t, z, x: z @ A.T + x)(start, x, throw=True)
    inverse = torch.linalg.inv(A)
    torch.testing.assert_close(found.z, -x @ inverse.T)
    v = gaussian(B, D, seed=4)
    torch.testing.assert_close(torch.autograd.grad(found.z, x, v)[0], -v @ inverse)


@pytest.mark.parametrize("dt", [0.2, 0.7, 1.5])
def test_the_step_of_the_euler_map_does_not_matter(dt: float) -> None:
    x, start = gaussian(B, D, seed=1), torch.zeros(B, D, dtype=torch.float64)
    reference = exact(Rates())(start, x, throw=True).z
    torch.testing.assert_close(exact(Rates(), dt=dt)(start, x, throw=True).z, reference)


def test_the_drift_vanishes_and_the_residual_is_that_of_what_is_returned() -> None:
    x, start = gaussian(B, D, seed=1), torch.zeros(B, D, dtype=torch.float64)
    found = SteadyState(Rates(), dt=0.5, tol=1e-6)(start, x, throw=True)
    z = found.z.detach()
    step = 0.5 * Rates()(torch.zeros(B), z, x).detach()
    residual = step.norm(dim=1) / (z + step).norm(dim=1)
    torch.testing.assert_close(found.residual, residual, rtol=1e-6, atol=0.0)
    assert float(residual.max()) <= 1e-6


def test_growth_rate_is_the_rate_at_which_the_flow_approaches() -> None:
    """A linear field: exactly the spectral abscissa. A nonlinear one: the slope of log |z - z*|."""
    A = gaussian(D, D, seed=5) * 0.3 - torch.eye(D, dtype=torch.float64)
    linear = SteadyState(lambda t, z: z @ A.T)
    rate = linear.growth_rate(torch.zeros(2, D, dtype=torch.float64))
    torch.testing.assert_close(rate, torch.linalg.eigvals(A).real.max().expand(2))

    def field(t: Tensor, z: Tensor) -> Tensor:  # symmetric: real eigenvalues, a clean exponential
        S = 0.5 * (A + A.T)
        return torch.tanh(z @ S.T) + 0.1

    found = exact(field)(torch.zeros(1, D, dtype=torch.float64), throw=True)
    late = dw.integrate(field, found.z + 1e-3, [0.0, 30.0, 32.0], integrator=dw.RK4(),
                        step=dw.ConstantStep(0.05)).zs  # fmt: skip
    slope = ((late[2] - found.z).norm() / (late[1] - found.z).norm()).log() / 2.0
    rate = SteadyState(field).growth_rate(found.z)
    torch.testing.assert_close(rate[0], slope, rtol=2e-2, atol=0.0)


def test_an_unstable_rest_point_is_told_by_its_growth_rate() -> None:
    """b = z - z^3 rests at 0, which repels, and at 1, which attracts."""
    bistable = SteadyState(lambda t, z: z - z**3, dt=0.3)
    rates = bistable.growth_rate(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    torch.testing.assert_close(rates, torch.tensor([1.0, -2.0], dtype=torch.float64))


def test_a_tree_of_states_settles_as_one() -> None:
    def field(t: Tensor, z: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"u": 1.0 - z["u"], "v": z["u"] - 2.0 * z["v"]}

    start = {"u": torch.zeros(1, 1), "v": torch.zeros(1, 1)}
    module = SteadyState(field)
    found = module(start, throw=True)
    assert float(found.z["v"]) == pytest.approx(0.5, abs=1e-4)
    assert float(module.growth_rate(found.z)) == pytest.approx(-1.0, abs=1e-6)


def test_the_field_is_held_once() -> None:
    assert list(SteadyState(Rates()).state_dict()) == ["step.field.W"]


@pytest.mark.parametrize("dt", [0.0, -1.0, float("inf")])
def test_bad_steps_are_refused(dt: float) -> None:
    with pytest.raises(InvalidInput, match="dt must be positive"):
        SteadyState(Rates(), dt=dt)
