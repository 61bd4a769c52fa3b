"""Singular values of residual Jacobians: closed forms, limits, and large random matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.measures.activations import LeakyReLU, Smooth
from driftwell.measures.residual_spectra import (
    JacobianSpectrum,
    jacobian_singular_values,
    residual_,
    resnet_jacobian_spectrum,
)

F64 = torch.float64


def grid(spectrum: JacobianSpectrum, points: int = 300) -> Tensor:
    low, high = spectrum.edges()
    return torch.exp(torch.linspace(math.log(max(low, 1e-8)), math.log(high), points, dtype=F64))


def test_one_layer_of_unit_variance_ends_at_27_over_4() -> None:
    """I + W with |W|_2 -> 2: the classical edge of the elliptic cubic."""
    low, high = JacobianSpectrum((1.0,)).edges()
    assert low == 0.0
    assert high == pytest.approx(6.75, rel=1e-9)


@pytest.mark.parametrize("v", [0.25, 1.0, 2.0])
def test_many_layers_end_where_the_limit_law_does(v: float) -> None:
    """x = (1 + y)/y exp(v (1 + 2 y)) is stationary at y = (-1 +- sqrt(1 + 2/v))/2."""
    low, high = JacobianSpectrum((v / 4000,) * 4000).edges()
    y = (-1 + math.sqrt(1 + 2 / v)) / 2
    limit = (1 + y) / y * math.exp(v * (1 + 2 * y))
    assert high == pytest.approx(limit, rel=2e-3)
    assert low == pytest.approx(1 / limit, rel=2e-3)


@pytest.mark.parametrize("depth", [2, 10])
def test_the_density_has_mass_one_and_the_exact_moments(depth: int) -> None:
    """Mean (1 + v)^L; variance from the S-transform: mean^2 L (2 v + v^2)/(1 + v)^2."""
    spectrum = resnet_jacobian_spectrum(depth, sigma=0.8)
    x = grid(spectrum)
    density, v = spectrum.density(x), 0.64 / depth
    assert float(torch.trapezoid(density, x)) == pytest.approx(1.0, abs=2e-3)
    mean = float(torch.trapezoid(density * x, x))
    assert mean == pytest.approx((1 + v) ** depth, rel=2e-3)
    spread = float(torch.trapezoid(density * x * x, x)) - mean**2
    assert spread == pytest.approx(mean**2 * depth * (2 * v + v * v) / (1 + v) ** 2, rel=1e-2)


def test_the_spectrum_of_a_large_linear_network_is_the_law_s() -> None:
    """Quantiles of 500 singular values, which are rigid: errors of order 1/N."""
    n, depth = 500, 6
    weights = [torch.empty(n, n) for _ in range(depth)]
    residual_(weights, seed=4)
    J = torch.eye(n)
    for W in weights:
        J = J + W @ J
    squares = torch.linalg.svdvals(J).double().square().flip(0)
    x = grid(resnet_jacobian_spectrum(depth), 2000)
    density = resnet_jacobian_spectrum(depth).density(x)
    mass = torch.cumulative_trapezoid(density, x)
    for share in (0.1, 0.5, 0.9):
        theory = float(x[1:][mass > share][0])
        assert float(squares[round(share * n)]) == pytest.approx(theory, rel=0.04)
    assert float(squares[-1]) == pytest.approx(float(x[-1]), rel=0.12)


def test_a_nonlinear_network_counts_the_slopes() -> None:
    relu = resnet_jacobian_spectrum(20, 1.0, LeakyReLU())
    assert relu.variances == pytest.approx((0.5 / 20,) * 20, rel=1e-9)
    linear = resnet_jacobian_spectrum(20, 1.0, Smooth(lambda u: u))
    assert linear.mean == pytest.approx(resnet_jacobian_spectrum(20).mean, rel=1e-9)
    tanh = resnet_jacobian_spectrum(20, 1.0, Smooth(torch.tanh), q=1e-3)
    assert tanh.variances[0] == pytest.approx(1 / 20, rel=1e-4)


def test_singular_values_are_those_of_the_jacobian_of_each_sample() -> None:
    M = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    found = jacobian_singular_values(lambda h: torch.tanh(h) @ M.T, x)
    for row, values in zip(x, found, strict=True):
        J = M * (1 - torch.tanh(row).square())
        assert torch.allclose(values, torch.linalg.svdvals(J), atol=1e-12)
    net = nn.Flatten()
    assert jacobian_singular_values(net, torch.zeros(2, 2, 3)).shape == (2, 6)


def test_residual_divides_the_variance_by_the_number_of_layers() -> None:
    """Relative error of a variance of 90 000 numbers: 0.5 %."""
    weights = [torch.empty(300, 300) for _ in range(7)]
    residual_(weights, sigma=1.5, seed=0)
    for W in weights:
        assert float(W.var()) == pytest.approx(2.25 / (300 * 7), rel=0.03)
    assert not torch.equal(weights[0], weights[1])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="positive variances"):
        JacobianSpectrum(())
    with pytest.raises(InvalidInput, match="depth"):
        resnet_jacobian_spectrum(0)
    with pytest.raises(InvalidInput, match="two or more dimensions"):
        residual_([torch.zeros(3)], seed=0)
    with pytest.raises(InvalidInput, match="floating"):
        jacobian_singular_values(lambda h: h, torch.zeros(2, 3, dtype=torch.int64))
