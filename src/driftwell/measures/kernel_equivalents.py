"""High-dimensional equivalents of kernels: four scalars in place of an activation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.measures.activations import Activation, gaussian_mean
from driftwell.measures.implicit_kernels import ImplicitNetwork

__all__ = [
    "GaussianMixture",
    "KernelScalars",
    "explicit_scalars",
    "implicit_scalars",
    "implicit_tangent_scalars",
    "kernel_equivalent",
]


@final
@dataclass(frozen=True)
class GaussianMixture:
    """Classes of a Gaussian mixture in high dimension: x = mu_a / sqrt(p) + C_a^(1/2) g / sqrt(p).

    Args:
        means: mu_a, (K, p).
        covariances: C_a, (K, p, p), or their diagonals (K, p).

    Raises:
        InvalidInput: shapes that do not fit.

    Example:
        >>> GaussianMixture(torch.zeros(2, 3), torch.ones(2, 3)).means.shape
        torch.Size([2, 3])
    """

    means: Tensor
    covariances: Tensor

    def __post_init__(self) -> None:
        means, covariances = self.means, self.covariances
        fits = means.ndim == 2 and covariances.shape in (
            means.shape,
            (*means.shape, means.shape[-1]),
        )
        if not fits:
            raise InvalidInput(
                "a mixture needs means (K, p) and covariances (K, p) or (K, p, p), got "
                f"{tuple(means.shape)} and {tuple(covariances.shape)}"
            )

    def statistics(self, X: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t (K,), T (K, K) and psi (n,) of a sample X (n, p) with class indices (n,).

        With Cbar the sample's mean covariance:

            t_a = tr(C_a - Cbar) / sqrt(p),    T_ab = tr((C_a - Cbar)(C_b - Cbar)) / p
            psi_i = |x_i - mu_a / sqrt(p)|^2 - tr C_a / p
        """
        means, C = self.means.double(), self.covariances.double()
        p = means.shape[1]
        if X.ndim != 2 or X.shape[1] != p or labels.shape != X.shape[:1]:
            raise InvalidInput(
                f"a sample needs X (n, {p}) and labels (n,), got {tuple(X.shape)} "
                f"and {tuple(labels.shape)}"
            )
        C = torch.diag_embed(C) if C.ndim == 2 else C
        share = torch.bincount(labels, minlength=len(C)).double() / len(labels)
        excess = C - torch.einsum("a,aij->ij", share, C)
        trace = torch.einsum("aii->a", C)
        t = torch.einsum("aii->a", excess) / math.sqrt(p)
        T = torch.einsum("aij,bji->ab", excess, excess) / p
        centred = X.double() - means[labels] / math.sqrt(p)
        return t, T, centred.square().sum(dim=1) - trace[labels] / p


@final
@dataclass(frozen=True)
class KernelScalars:
    """What is left of activation and weight variances in a kernel of high-dimensional data.

        kernel ~ alpha1 X X^T + V C V^T + (diagonal - tau0^2 alpha1) I,     V = [J / sqrt(p), psi]
        C = [[alpha2 t t^T + alpha3 T, alpha2 t], [alpha2 t^T, alpha2]],    J one-hot labels

    Attributes:
        alpha1: weight of the linear kernel.
        alpha2: weight of what classes' traces and samples' lengths tell.
        alpha3: weight of what classes' covariances tell.
        diagonal: the kernel of an input of length tau0 with itself.
        tau0: root mean square length of the inputs.
    """

    alpha1: float
    alpha2: float
    alpha3: float
    diagonal: float
    tau0: float


@dataclass(frozen=True)
class _Moments:
    """Gaussian moments of a centred activation phi_c at tau, xi ~ N(0, 1).

    d1 = E xi phi / tau,  d2 = E (xi^2 - 1) phi / tau^2,  d3 = E (xi^2 - 1) phi^2 / tau^2,
    second = E phi^2,  slope = E phi'^2, all of phi_c(tau xi).
    """

    d1: float
    d2: float
    d3: float
    second: float
    slope: float


def _moments(phi: Activation, tau: float) -> _Moments:
    scalar = torch.tensor(tau, dtype=torch.float64)
    centre = phi.mean(scalar.square())

    def mean(weight: str) -> float:
        def integrand(xi: Tensor) -> Tensor:
            value = phi(tau * xi) - centre
            return {
                "d1": xi * value / tau,
                "d2": (xi.square() - 1) * value / tau**2,
                "d3": (xi.square() - 1) * value.square() / tau**2,
                "second": value.square(),
                "slope": phi.slope(tau * xi).square(),
            }[weight]

        return float(gaussian_mean(integrand, scalar))

    return _Moments(*(mean(weight) for weight in ("d1", "d2", "d3", "second", "slope")))


def implicit_scalars(net: ImplicitNetwork) -> KernelScalars:
    """Scalars of an implicit network's conjugate kernel, from Ling et al., *Deep Equilibrium
    Models are Almost Equivalent to Not-so-deep Explicit Models*, 2024, arXiv:2402.02697.

    With the moments d1, d2, d3 of phi_c at tau:

        a1 = (1-s) / (1 - s d1^2),             a4 = (1-s) / (1 - s d3 / 2)
        a2 = s d2^2 a4^2 / (4 (1 - s d1^2)),   a3 = s d2^2 a1^2 / (2 (1 - s d1^2))
        alpha1 = d1^2 a1,   alpha2 = a2 / s,   alpha3 = a3 / s,   diagonal = E phi_c^2

    Raises:
        NotConverged: no tau; see `ImplicitNetwork`.

    Example:
        >>> from driftwell.measures.activations import LeakyReLU
        >>> scalars = implicit_scalars(ImplicitNetwork(LeakyReLU(), s=0.2, tau0=1.0))
        >>> print(f"{scalars.alpha1:.4f}")  # (1-s) / 4 / (1 - s/4)
        0.2105
    """
    m, s = _moments(net.phi, net.tau), net.s
    linear = 1 - s * m.d1**2
    a1, a4 = (1 - s) / linear, (1 - s) / (1 - s * m.d3 / 2)
    return KernelScalars(
        alpha1=m.d1**2 * a1,
        alpha2=m.d2**2 * a4**2 / (4 * linear),
        alpha3=m.d2**2 * a1**2 / (2 * linear),
        diagonal=m.second,
        tau0=net.tau0,
    )


def implicit_tangent_scalars(net: ImplicitNetwork) -> KernelScalars:
    """Scalars of an implicit network's tangent kernel, from Ling et al., 2024, arXiv:2402.02697.

    With a1 and alpha1 .. alpha3 those of `implicit_scalars`, h = 1 - s d1^2:

        beta1 = alpha1 / h,   beta2 = alpha2 / h,   beta3 = (alpha3 + beta1 s d2^2 a1) / h
        diagonal = E phi_c^2 / (1 - s E phi'^2)

    Raises:
        NotConverged: no tau; see `ImplicitNetwork`.

    Example:
        >>> from driftwell.measures.activations import LeakyReLU
        >>> scalars = implicit_tangent_scalars(ImplicitNetwork(LeakyReLU(), s=0.2, tau0=1.0))
        >>> print(f"{scalars.alpha1:.4f}")
        0.2216
    """
    m, s = _moments(net.phi, net.tau), net.s
    of_state = implicit_scalars(net)
    linear = 1 - s * m.d1**2
    beta1 = of_state.alpha1 / linear
    bent = beta1 * s * m.d2**2 * (1 - s) / linear
    return KernelScalars(
        alpha1=beta1,
        alpha2=of_state.alpha2 / linear,
        alpha3=(of_state.alpha3 + bent) / linear,
        diagonal=m.second / (1 - s * m.slope),
        tau0=net.tau0,
    )


def explicit_scalars(layers: Sequence[Activation], tau0: float) -> KernelScalars:
    """Scalars of an explicit network's conjugate kernel, its activations centred layer by layer.

    From Ling et al., 2024, arXiv:2402.02697. Starting at (1, 0, 0, 1), with the moments of layer
    l at tau_{l-1}, where tau_l^2 = E phi_lc(tau_{l-1} xi)^2:

        A1 <- d1^2 A1,   A2 <- d1^2 A2 + d2^2 A4^2 / 4,   A3 <- d1^2 A3 + d2^2 A1^2 / 2
        A4 <- d3 A4 / 2

    Args:
        layers: activation of each hidden layer, as given: they are centred here.
        tau0: root mean square length of the inputs.

    Raises:
        InvalidInput: tau0 not positive.

    Example:
        >>> from driftwell.measures.activations import LeakyReLU
        >>> print(f"{explicit_scalars([LeakyReLU()], tau0=1.0).alpha1:.4f}")
        0.2500
    """
    if not 0.0 < tau0 < math.inf:
        raise InvalidInput(f"tau0 must be positive, got {tau0}")
    A1, A2, A3, A4, tau = 1.0, 0.0, 0.0, 1.0, tau0
    for phi in layers:
        m = _moments(phi, tau)
        A2 = m.d1**2 * A2 + m.d2**2 * A4**2 / 4
        A3 = m.d1**2 * A3 + m.d2**2 * A1**2 / 2
        A1, A4, tau = m.d1**2 * A1, m.d3 * A4 / 2, math.sqrt(m.second)
    return KernelScalars(A1, A2, A3, tau**2, tau0)


def kernel_equivalent(
    scalars: KernelScalars, X: Tensor, labels: Tensor, mixture: GaussianMixture
) -> Tensor:
    """The kernel that four scalars stand for, (n, n) in float64; see `KernelScalars`.

    Its distance to the exact kernel in spectral norm vanishes as n and p grow together, as Ling
    et al., 2024, arXiv:2402.02697, prove for the implicit kernels.

    Args:
        scalars: of the network.
        X: inputs, (n, p).
        labels: class indices, (n,).
        mixture: the law of the inputs.

    Raises:
        InvalidInput: X or labels that do not fit the mixture.

    Example:
        >>> from driftwell.measures.activations import LeakyReLU
        >>> mixture = GaussianMixture(torch.zeros(1, 4), torch.ones(1, 4))
        >>> labels = torch.zeros(2, dtype=torch.long)
        >>> scalars = explicit_scalars([LeakyReLU()], tau0=1.0)
        >>> kernel_equivalent(scalars, torch.eye(4)[:2], labels, mixture).shape
        torch.Size([2, 2])
    """
    t, T, psi = mixture.statistics(X, labels)
    rows = X.detach().double()
    p = rows.shape[1]
    # C V^T written out: alpha2 v v^T + alpha3 J T J^T / p with v = J t / sqrt(p) + psi.
    v = t[labels] / math.sqrt(p) + psi
    kernel = scalars.alpha1 * (rows @ rows.T) + scalars.alpha2 * torch.outer(v, v)
    kernel = kernel + scalars.alpha3 / p * T[labels][:, labels]
    lift = scalars.diagonal - scalars.tau0**2 * scalars.alpha1
    kernel.diagonal().add_(lift)
    return kernel
