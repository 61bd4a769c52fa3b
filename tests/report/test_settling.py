"""How states settle, measured on maps whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from driftwell.fixed_points import Anderson, Picard
from driftwell.models.equilibrium.classifier import TiedLayer
from driftwell.report.settling import jacobian_eigenvalues, lyapunov_exponent, residual_trace


def halve(z: Tensor, x: Tensor) -> Tensor:
    return 0.5 * z + x


def test_residuals_of_plain_iteration_halve_at_every_evaluation() -> None:
    """z_k = 2 (1 - 2^-k): |f(z) - z| / |f(z)| = 2^-k / (2 - 2^-k)."""
    x = torch.ones(3, 2, dtype=torch.float64)
    trace = residual_trace(halve, torch.zeros_like(x), x, Picard(), 12)
    expected = [0.5**k / (2 - 0.5**k) for k in range(12)]
    assert trace.median == pytest.approx(expected)
    assert trace.low == trace.median == trace.high
    assert trace.reached(0.01) == next(k + 1 for k, r in enumerate(expected) if r <= 0.01)
    assert trace.reached(1e-9) is None
    assert trace.solver == "Picard"


def test_the_worst_sample_is_what_counts() -> None:
    rates = torch.tensor([[0.1], [0.9]], dtype=torch.float64)
    trace = residual_trace(lambda z, x: rates * z + x, torch.zeros_like(rates),
                           torch.ones_like(rates), Picard(), 30)  # fmt: skip
    slow = [0.9**k * 0.1 / (1 - 0.9 ** (k + 1)) for k in range(30)]
    assert trace.high == pytest.approx(slow)


def test_anderson_solves_a_line_at_once() -> None:
    x = torch.rand(4, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    trace = residual_trace(halve, torch.zeros_like(x), x, Anderson(), 6)
    assert trace.reached(1e-7) is not None
    assert trace.reached(1e-7) <= 4


def test_eigenvalues_at_rest_are_those_of_the_couplings() -> None:
    W = torch.tensor([[0.3, -0.8], [0.8, 0.3]], dtype=torch.float64)
    z, x = torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    found = jacobian_eigenvalues(TiedLayer(W, "relu"), z, x)
    assert found.shape == (2, 2)
    assert sorted(found[0].imag.tolist()) == pytest.approx([-0.8, 0.8])
    assert found.abs().flatten().tolist() == pytest.approx([math.hypot(0.3, 0.8)] * 4)
    silent = jacobian_eigenvalues(TiedLayer(W, "relu"), z, -x)
    assert float(silent.abs().max()) == 0.0


@pytest.mark.parametrize("rate", [0.4, 1.3])
def test_the_exponent_of_a_linear_map_is_the_logarithm_of_its_radius(rate: float) -> None:
    """A rotation by rate: no eigenvector for a tangent vector to turn to, |J v| = rate |v|."""
    J = rate * torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    z = torch.ones(3, 2, dtype=torch.float64)
    found = lyapunov_exponent(lambda z, x: z @ J.T + x, z, torch.ones_like(z), 60)
    assert found.tolist() == pytest.approx([math.log(rate)] * 3)


def test_the_exponent_of_the_logistic_map_is_log_2() -> None:
    """z <- 1 - 2 z^2 is conjugate to the tent map, whose exponent is log 2."""
    z = torch.linspace(0.1, 0.3, 40, dtype=torch.float64)[:, None]
    found = lyapunov_exponent(lambda z, x: 1 - 2 * z.square(), z, None, 1200)
    assert float(found.mean()) == pytest.approx(math.log(2), abs=0.02)


def test_states_of_any_shape() -> None:
    z = torch.ones(2, 3, 4, dtype=torch.float64)
    found = lyapunov_exponent(lambda z, x: 0.5 * z, z, None, 10)
    assert found.tolist() == pytest.approx([math.log(0.5)] * 2)


def test_the_best_iterate_so_far_is_what_is_shown() -> None:
    """The residual of a chaotic map goes up and down; what a solve returns never gets worse."""
    trace = residual_trace(
        lambda z, x: 4 * z * (1 - z), torch.full((1, 1), 0.1), None, Picard(), 30
    )
    assert all(a >= b for a, b in zip(trace.median, trace.median[1:], strict=False))
    assert trace.median[-1] < trace.median[0]
