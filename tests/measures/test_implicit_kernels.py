"""Kernels of infinitely wide implicit networks: closed forms, Monte Carlo, and wide networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput, NotConverged
from driftwell.measures.activations import Activation, HardTanh, LeakyReLU, Smooth, gaussian_mean
from driftwell.measures.explicit_match import match_explicit
from driftwell.measures.implicit_kernels import (
    ImplicitNetwork,
    explicit_conjugate_kernel,
    implicit_conjugate_kernel,
    implicit_tangent_kernel,
)
from driftwell.measures.kernel_equivalents import (
    GaussianMixture,
    KernelScalars,
    explicit_scalars,
    implicit_scalars,
    implicit_tangent_scalars,
    kernel_equivalent,
)

F64 = torch.float64
ACTIVATIONS = [LeakyReLU(), LeakyReLU(1.2, -0.3), HardTanh(1.5, 0.8), Smooth(torch.tanh)]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(n: int, p: int, seed: int = 0) -> Tensor:
    return torch.randn(n, p, generator=generator(seed), dtype=F64) / math.sqrt(p)


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_expectations_of_pairs_are_those_of_a_double_quadrature(phi: Activation) -> None:
    """u = sqrt(q1) xi, v = (L12 / q1) u + rest eta: one quadrature inside the other."""
    L = torch.tensor([[1.3, 0.5], [0.5, 0.7]], dtype=F64)
    root, rest = L[0, 0].sqrt(), (L[1, 1] - L[0, 1] ** 2 / L[0, 0]).sqrt()

    def pairs(f: Callable[[Tensor], Tensor]) -> Tensor:
        def outer(xi: Tensor) -> Tensor:
            u = root * xi
            shift = L[0, 1] / L[0, 0] * u
            inner = gaussian_mean(lambda eta: f(shift[:, None] + rest * eta), shift)
            return f(u) * inner

        return gaussian_mean(outer, root)

    # Quadrature of what is bent, or jumps, inside a panel is itself good to 1e-4 and 5e-3.
    bent = not isinstance(phi, Smooth)
    assert float(phi.products(L)[0, 1]) == pytest.approx(float(pairs(phi)), abs=1e-4 * bent + 1e-7)
    slopes = float(pairs(phi.slope))
    assert float(phi.slopes(L)[0, 1]) == pytest.approx(slopes, abs=5e-3 * bent + 1e-6)


def test_arc_sine_law_of_the_error_function() -> None:
    """Williams 1997: E erf(u) erf(v) = 2/pi arcsin(2 L12 / sqrt((1 + 2 L11)(1 + 2 L22)))."""
    L = torch.tensor([[0.9, -0.4], [-0.4, 0.6]], dtype=F64)
    exact = 2 / math.pi * math.asin(-0.8 / math.sqrt(2.8 * 2.2))
    assert float(Smooth(torch.erf).products(L)[0, 1]) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_the_kernel_is_that_of_wide_networks(phi: Activation) -> None:
    """Mean over draws of z . z at m = 1000; entries scatter by 1/sqrt(m draws), times O(1)."""
    net, X, m, draws = ImplicitNetwork(phi, s=0.3, tau0=1.0), inputs(5, 12), 1000, 4
    exact, total = implicit_conjugate_kernel(X, net), torch.zeros(5, 5, dtype=F64)
    for seed in range(draws):
        A = torch.randn(m, m, generator=generator(10 + seed)).double()
        B = torch.randn(m, 12, generator=generator(50 + seed), dtype=F64)
        drive, z = math.sqrt(1 - net.s) * X @ B.T, torch.zeros(5, m, dtype=F64)
        for _ in range(25):
            z = (phi(math.sqrt(net.s) * z @ A.T + drive) - net.centre) / math.sqrt(m)
        total += z @ z.T / draws
    scale = float(exact.diagonal().max())
    assert (total - exact).abs().max() < 5.0 * scale * math.sqrt(2 / (m * draws))


def test_the_tangent_kernel_is_that_of_training_readout_and_state_weights() -> None:
    """Gradients of a.z* by the implicit function theorem in one wide network."""
    net, X, m = ImplicitNetwork(Smooth(torch.tanh), s=0.4, tau0=1.0), inputs(3, 6), 1200
    A = torch.randn(m, m, generator=generator(1), dtype=F64)
    B = torch.randn(m, 6, generator=generator(2), dtype=F64)
    a = torch.randn(m, generator=generator(3), dtype=F64)
    W, drive = math.sqrt(net.s / m) * A, math.sqrt(1 - net.s) * X @ B.T
    u = torch.zeros(3, m, dtype=F64)  # states times sqrt(m)
    for _ in range(60):
        u = torch.tanh(u @ W.T + drive)
    gate = 1 - u.square()
    one = torch.eye(m, dtype=F64)
    adjoint = torch.stack([torch.linalg.solve((one - g[:, None] * W).T, a) * g for g in gate])
    # d(a.z)/dA = sqrt(s/m) adjoint z^T, with a scaled by 1/sqrt(m)
    empirical = u @ u.T / m + net.s * (adjoint @ adjoint.T / m) * (u @ u.T / m)
    exact = implicit_tangent_kernel(X, net)
    assert (empirical - exact).abs().max() < 0.15 * exact.diagonal().max()


def test_tau_solves_its_equation_and_centres_the_activation() -> None:
    net = ImplicitNetwork(LeakyReLU(), s=0.2, tau0=1.3)
    spread = 0.5 - 0.5 / math.pi
    assert net.tau**2 == pytest.approx(0.8 * 1.69 / (1 - 0.2 * spread), rel=1e-12)
    assert net.centre == pytest.approx(net.tau / math.sqrt(2 * math.pi), rel=1e-12)


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_scalars_are_the_derivatives_of_the_kernel(phi: Activation) -> None:
    """alpha1 = dG_ij / d(x_i.x_j) at orthogonal inputs; diagonal = G_ii at |x| = tau0."""
    net = ImplicitNetwork(phi, s=0.3, tau0=1.1)
    for kernel, scalars in (
        (implicit_conjugate_kernel, implicit_scalars(net)),
        (implicit_tangent_kernel, implicit_tangent_scalars(net)),
    ):
        eps = 1e-3
        turned = torch.tensor([[1.0, 0.0], [eps, math.sqrt(1 - eps**2)]], dtype=F64) * net.tau0
        G = kernel(turned, net)
        assert float(G[0, 0]) == pytest.approx(scalars.diagonal, rel=1e-4)
        back = kernel(turned * torch.tensor([[1.0], [-1.0]], dtype=F64), net)
        odd = float(G[0, 1] - back[0, 1]) / 2
        assert odd / (eps * net.tau0**2) == pytest.approx(scalars.alpha1, rel=2e-4)


def test_quadratic_scalars_are_the_kernel_s_curvature() -> None:
    """alpha3 = half the second derivative in x_i.x_j; alpha2 from the lengths of both inputs."""
    net, eps = ImplicitNetwork(LeakyReLU(1.1, -0.2), s=0.3, tau0=1.0), 2e-2
    for kernel, scalars in (
        (implicit_conjugate_kernel, implicit_scalars(net)),
        (implicit_tangent_kernel, implicit_tangent_scalars(net)),
    ):
        turned = torch.tensor([[1.0, 0.0], [eps, math.sqrt(1 - eps**2)]], dtype=F64)
        back = turned * torch.tensor([[1.0], [-1.0]], dtype=F64)
        flat = kernel(torch.eye(2, dtype=F64), net)[0, 1]
        even = float(kernel(turned, net)[0, 1] + kernel(back, net)[0, 1]) / 2 - float(flat)
        assert even / eps**2 == pytest.approx(scalars.alpha3, rel=1e-2)
        longer = torch.eye(2, dtype=F64) * math.sqrt(1 + eps)
        shorter = torch.eye(2, dtype=F64) * math.sqrt(1 - eps)
        # with both lengths off by psi the entry is alpha2 psi^2
        both = float(kernel(longer, net)[0, 1] + kernel(shorter, net)[0, 1]) / 2
        assert both / eps**2 == pytest.approx(scalars.alpha2, rel=2e-2)


def test_explicit_scalars_of_relu_are_the_closed_forms() -> None:
    a, b, tau0 = 1.3, 0.2, 1.2
    scalars = explicit_scalars([LeakyReLU(a, b)], tau0)
    spread = ((a * a + b * b) * (math.pi - 1) + 2 * a * b) / (2 * math.pi)
    assert scalars.alpha1 == pytest.approx((a + b) ** 2 / 4, rel=1e-9)
    assert scalars.alpha2 == pytest.approx((a - b) ** 2 / (8 * math.pi * tau0**2), rel=1e-9)
    assert scalars.alpha3 == pytest.approx((a - b) ** 2 / (4 * math.pi * tau0**2), rel=1e-9)
    assert scalars.diagonal == pytest.approx(tau0**2 * spread, rel=1e-9)


@pytest.mark.parametrize("s", [0.1, 0.3, 0.6])
def test_a_matched_network_has_the_implicit_one_s_scalars(s: float) -> None:
    for phi, tol in ((LeakyReLU(), 1e-7), (Smooth(torch.tanh), 1e-4)):
        wanted = implicit_scalars(ImplicitNetwork(phi, s=s, tau0=1.1))
        layers = match_explicit(wanted)
        found = explicit_scalars(layers, 1.1)
        assert found.alpha1 == pytest.approx(wanted.alpha1, rel=tol)
        assert found.alpha2 == pytest.approx(wanted.alpha2, rel=tol, abs=1e-12)
        assert found.alpha3 == pytest.approx(wanted.alpha3, rel=tol, abs=1e-12)
        assert found.diagonal == pytest.approx(wanted.diagonal, rel=tol)


def test_a_matched_relu_network_has_the_implicit_one_s_kernel() -> None:
    X = inputs(30, 60)
    net = ImplicitNetwork(LeakyReLU(), s=0.2, tau0=1.0)
    exact = implicit_conjugate_kernel(X, net)
    matched = explicit_conjugate_kernel(X, match_explicit(implicit_scalars(net)), net.tau0)
    plain = explicit_conjugate_kernel(X, [LeakyReLU(), LeakyReLU()], net.tau0)
    error = torch.linalg.matrix_norm(matched - exact, 2)
    assert error < 1e-3 * torch.linalg.matrix_norm(exact, 2)
    assert error < torch.linalg.matrix_norm(plain - exact, 2) / 100


def test_the_equivalent_of_a_mixture_comes_nearer_as_the_dimension_grows() -> None:
    errors = []
    for p in (60, 480):
        n, labels = p // 2, (torch.arange(p // 2) % 2).long()
        covariances = torch.ones(2, p, dtype=F64)
        covariances[1] += 6 / math.sqrt(p)
        means = torch.zeros(2, p, dtype=F64)
        means[1, 0] = 4.0
        noise = torch.randn(n, p, generator=generator(p), dtype=F64)
        X = (means[labels] + covariances[labels].sqrt() * noise) / math.sqrt(p)
        net = ImplicitNetwork(LeakyReLU(), 0.2, math.sqrt(float(X.square().sum(1).mean())))
        mixture = GaussianMixture(means, covariances)
        near = kernel_equivalent(implicit_scalars(net), X, labels, mixture)
        dense = kernel_equivalent(
            implicit_scalars(net), X, labels, GaussianMixture(means, torch.diag_embed(covariances))
        )
        assert torch.allclose(near, dense, rtol=0, atol=1e-12)
        gap = implicit_conjugate_kernel(X, net) - near
        errors.append(float(torch.linalg.eigvalsh(gap).abs().max()))
    assert errors[1] < errors[0] / 2


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="s must be in"):
        ImplicitNetwork(LeakyReLU(), s=1.0, tau0=1.0)
    with pytest.raises(InvalidInput, match="a >= b"):
        LeakyReLU(0.0, 1.0)
    with pytest.raises(InvalidInput, match=r"\(n, p\)"):
        implicit_conjugate_kernel(torch.zeros(3), ImplicitNetwork(LeakyReLU(), 0.2, 1.0))
    with pytest.raises(InvalidInput, match="means"):
        GaussianMixture(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(NotConverged, match="nearest"):
        match_explicit(KernelScalars(1.0, 50.0, 0.01, 1.2, 1.0))
    with pytest.raises(NotConverged, match="smaller s"):
        _ = ImplicitNetwork(LeakyReLU(3.0, 0.0), s=0.9, tau0=1.0).tau
