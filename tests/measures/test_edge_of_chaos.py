"""Couplings, spectra, susceptibility and Lyapunov exponents against exact statements."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import Diverged, InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.measures import (
    critical_gain,
    lyapunov_exponents,
    random_couplings,
    spectral_radius,
    spectrum,
    susceptibility,
)


def draw(*shape: int, step: int = 0) -> Tensor:
    return normal(
        shape, seed=9, purpose=Purpose.USER, chains=shape[0], step=step, dtype=torch.float64
    )


# ------------------------------------------------------------------ couplings and spectra
@pytest.mark.parametrize("gamma", [-1.0, -0.5, 0.0, 0.4, 1.0])
def test_couplings_have_their_variance_and_correlation(gamma: float) -> None:
    n, g = 400, 1.7
    J = random_couplings(n, g, gamma, seed=1, dtype=torch.float64)
    upper = torch.triu_indices(n, n, 1)
    a, b = J[upper[0], upper[1]], J.T[upper[0], upper[1]]
    scatter = 5 * math.sqrt(2 / a.numel())
    assert float(a.square().mean()) * n / g**2 == pytest.approx(1.0, abs=scatter)
    assert float((a * b).mean()) * n / g**2 == pytest.approx(gamma, abs=scatter)


def test_couplings_are_keyed_and_may_lack_a_diagonal() -> None:
    J = random_couplings(20, 1.0, 0.3, seed=2)
    assert torch.equal(random_couplings(20, 1.0, 0.3, seed=2), J)
    assert not torch.equal(random_couplings(20, 1.0, 0.3, seed=3), J)
    hollow = random_couplings(20, 1.0, 0.3, seed=2, zero_diagonal=True)
    assert torch.equal(hollow, J - torch.diag(J.diagonal()))


@pytest.mark.parametrize("gamma", [-0.5, 0.0, 0.5])
def test_the_spectrum_fills_the_ellipse_and_touches_one_at_the_critical_gain(gamma: float) -> None:
    values = spectrum(random_couplings(600, critical_gain(gamma), gamma, seed=4))
    assert float(values.real.max()) == pytest.approx(1.0, abs=0.08)
    ratio = float(values.imag.max() / values.real.max())
    assert ratio == pytest.approx((1 - gamma) / (1 + gamma), rel=0.1)


def test_the_spectrum_is_sorted_and_holds_trace_and_determinant() -> None:
    J = draw(12, 12)
    values = spectrum(J)
    assert values.dtype == torch.complex128
    assert (values.real.diff() <= 1e-12).all()
    assert float(values.sum().real) == pytest.approx(float(J.trace()))
    assert float(values.prod().real) == pytest.approx(float(torch.linalg.det(J)))
    assert spectral_radius(J) == pytest.approx(float(values.abs().max()))
    assert spectral_radius(torch.tensor([[0.0, 3.0], [-3.0, 0.0]])) == pytest.approx(3.0)


# ------------------------------------------------------------------ susceptibility
def test_susceptibility_of_independent_states_is_the_variance() -> None:
    states = 0.3 * draw(50, 40, 30) + draw(30, 1)[:, 0]
    chi = susceptibility(states, T=0.05)
    exact = math.sqrt(2 / (50 * 40 * 30)) * 0.09 / 0.05
    assert chi.value == pytest.approx(0.09 / 0.05, abs=4 * exact)
    assert chi.error == pytest.approx(exact, rel=0.5)


def test_susceptibility_is_unbiased_for_few_correlated_chains() -> None:
    """Three chains that do not move at all within 10 steps: only their spread tells V."""
    values = []
    for step in range(200):
        still = draw(3, 50, step=step)[None].expand(10, 3, 50)
        values.append(susceptibility(still, T=1.0).value)
    scatter = torch.tensor(values).std() / math.sqrt(200)
    assert abs(sum(values) / 200 - 1.0) < 4 * float(scatter)


def test_susceptibility_of_the_linear_network_is_one_over_one_minus_g_squared() -> None:
    """x = (1 - J)^-1 sqrt(T) xi samples exp(-|x - J x|^2 / 2T) exactly."""
    n, g, T = 400, 0.7, 1e-3
    J = random_couplings(n, g, seed=5, dtype=torch.float64)
    identity = torch.eye(n, dtype=torch.float64)
    x = math.sqrt(T) * torch.linalg.solve(identity - J, draw(n, 500)).T
    chi = susceptibility(x, T)
    assert chi.value == pytest.approx(1 / (1 - g**2), rel=0.05)
    assert 0.0 < chi.error < 0.05


def test_two_chains_have_no_error_bar() -> None:
    assert math.isnan(susceptibility(draw(5, 2, 3), T=1.0).error)


# ------------------------------------------------------------------ Lyapunov exponents
def test_a_linear_map_has_the_logarithms_of_its_eigenvalues() -> None:
    A = draw(6, 6) / 2
    expected = torch.linalg.eigvals(A).abs().log().sort(descending=True).values
    found = lyapunov_exponents(lambda x: A @ x, draw(6, 1)[:, 0] * 0, 6, steps=3000, transient=300)
    assert torch.allclose(found, expected, atol=2e-3)
    assert float(found.sum()) == pytest.approx(float(torch.linalg.slogdet(A).logabsdet))


def test_the_henon_map_contracts_areas_by_its_b() -> None:
    def henon(x: Tensor) -> Tensor:
        return torch.stack([1 - 1.4 * x[0] ** 2 + x[1], 0.3 * x[0]])

    found = lyapunov_exponents(henon, torch.zeros(2).double(), 2, steps=1500, transient=50)
    assert float(found.sum()) == pytest.approx(math.log(0.3), abs=1e-12)
    assert float(found[0]) == pytest.approx(0.419, abs=0.03)


def test_the_logistic_map_doubles_angles() -> None:
    """x = sin^2(a) is conjugate to doubling a, so the error is a boundary term of order 1/steps."""
    found = lyapunov_exponents(
        lambda x: 4 * x * (1 - x), torch.tensor([0.2345]).double(), 1, steps=2000
    )
    assert float(found) == pytest.approx(math.log(2), abs=10 / 2000)


@pytest.mark.parametrize("n", [2, 4])
def test_a_product_of_random_matrices_has_newmans_exponents(n: int) -> None:
    """Entries N(0, 1/n): lambda_i = (digamma((n - i + 1)/2) + log(2/n)) / 2."""
    steps = 3000
    matrices = iter(draw(steps, n, n, step=1) / math.sqrt(n))
    found = lyapunov_exponents(lambda x: next(matrices) @ x, torch.zeros(n).double(), n, steps)
    order = torch.arange(n, 0, -1, dtype=torch.float64)
    expected = 0.5 * (torch.digamma(order / 2) + math.log(2 / n))
    # log of a chi variable with k degrees of freedom has the variance trigamma(k/2)/4.
    scatter = (torch.polygamma(1, order / 2) / 4 / steps).sqrt()
    assert ((found - expected).abs() < 4 * scatter + 2 / steps).all()


def test_a_flow_is_measured_in_its_own_time() -> None:
    found = lyapunov_exponents(lambda x: x - 0.01 * x, torch.ones(3).double(), 2, steps=50, dt=0.01)
    assert found.tolist() == pytest.approx([math.log(0.99) / 0.01] * 2)


def test_a_random_network_turns_chaotic_at_gain_one() -> None:
    """Discrete network x' = J tanh(x): below g = 1 the exponent is log of the spectral radius."""
    start = draw(150, 1)[:, 0]
    exponents = []
    for g in (0.7, 1.6):
        J = random_couplings(150, g, seed=6, dtype=torch.float64)
        exponents.append(float(lyapunov_exponents(lambda x, J=J: J @ x.tanh(), start, 1, 400, 400)))
    assert exponents[0] < -0.2
    assert exponents[1] > 0.02


def test_a_lost_direction_has_minus_infinity() -> None:
    A = torch.diag(torch.tensor([2.0, 0.0])).double()
    found = lyapunov_exponents(lambda x: A @ x, torch.zeros(2).double(), 2, steps=5)
    assert float(found[0]) == pytest.approx(math.log(2), abs=0.5)
    assert float(found[1]) == -math.inf


# ------------------------------------------------------------------ refusals
def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(InvalidInput, match=r"gamma is in \(-1, 1\], not -1"):
        critical_gain(-1.0)
    with pytest.raises(InvalidInput, match="at least one neuron, not 0"):
        random_couplings(0, 1.0, seed=0)
    with pytest.raises(InvalidInput, match="gain g must be a number of at least 0, not -1"):
        random_couplings(3, -1.0, seed=0)
    with pytest.raises(InvalidInput, match=r"gamma is in \[-1, 1\], not 2"):
        random_couplings(3, 1.0, 2.0, seed=0)
    with pytest.raises(InvalidInput, match=r"a square matrix \(n, n\), not \(2, 3\)"):
        spectrum(torch.zeros(2, 3))
    with pytest.raises(InvalidInput, match="couplings hold NaN or infinite"):
        spectrum(torch.full((2, 2), math.nan))
    with pytest.raises(InvalidInput, match=r"\(chains, N\), not \(3,\)"):
        susceptibility(torch.zeros(3), 1.0)
    with pytest.raises(InvalidInput, match="temperature above 0, not 0"):
        susceptibility(torch.zeros(3, 3), 0.0)
    with pytest.raises(InvalidInput, match="at least two states, not one"):
        susceptibility(torch.zeros(1, 3), 1.0)
    with pytest.raises(InvalidInput, match="the states hold NaN"):
        susceptibility(torch.full((3, 3), math.nan), 1.0)


def test_bad_orbits_get_one_sentence() -> None:
    start = torch.ones(2).double()
    with pytest.raises(InvalidInput, match=r"a floating vector \(n,\), not torch.float32 of shape"):
        lyapunov_exponents(lambda x: x, torch.ones(1, 2), 1, 5)
    with pytest.raises(InvalidInput, match="2 dimensions has 1 to that many exponents, not 3"):
        lyapunov_exponents(lambda x: x, start, 3, 5)
    with pytest.raises(InvalidInput, match="steps >= 1, transient >= 0 and dt > 0, not 0, 0 and 1"):
        lyapunov_exponents(lambda x: x, start, 1, 0)
    with pytest.raises(Diverged, match="the orbit left the finite numbers at step 10"):
        lyapunov_exponents(lambda x: x**2 + 1, start, 1, 50)
