"""Conjugate and tangent kernels of infinitely wide networks, implicit and explicit, exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput, NotConverged
from driftwell.core.papers import Paper
from driftwell.measures.activations import Activation, LeakyReLU, gaussian_mean

__all__ = [
    "LING_EXPLICIT",
    "LING_VIEWPOINT",
    "ImplicitNetwork",
    "deq_gram",
    "explicit_conjugate_kernel",
    "implicit_conjugate_kernel",
    "implicit_tangent_kernel",
]

LING_EXPLICIT = Paper(
    key="ling2024explicit",
    title="Deep Equilibrium Models are Almost Equivalent to Not-so-deep Explicit Models for "
    "High-dimensional Gaussian Mixtures",
    authors="Ling, Zenan and Li, Longbo and Feng, Zhanbo and Zhang, Yixuan and Zhou, Feng and "
    "Qiu, Robert C. and Liao, Zhenyu",
    year=2024,
    arxiv="2402.02697",
    venue="ICML 2024",
)
LING_VIEWPOINT = Paper(
    key="ling2023viewpoint",
    title="On the Equivalence between Implicit and Explicit Neural Networks: A High-dimensional "
    "Viewpoint",
    authors="Ling, Zenan and Liao, Zhenyu and Qiu, Robert C.",
    year=2023,
    arxiv="2308.16425",
)
_STEPS = 500


@final
@dataclass(frozen=True)
class ImplicitNetwork:
    """A random equilibrium network of infinite width, from Ling et al., *Deep Equilibrium Models
    are Almost Equivalent to Not-so-deep Explicit Models for High-dimensional Gaussian Mixtures*,
    2024, arXiv:2402.02697.

        z = phi_c(sqrt(s) A z + sqrt(1-s) B x) / sqrt(m),    A, B with entries N(0, 1),  m -> inf
        phi_c = phi - E phi(tau xi),    tau^2 = s E phi_c(tau xi)^2 + (1-s) tau0^2

    Args:
        phi: activation, as given: it is centred here.
        s: share of the state in the input of phi, in (0, 1).
        tau0: root mean square length of the inputs x, positive.

    Raises:
        InvalidInput: s or tau0 outside its range.
        NotConverged: tau has no finite value: s is too large for phi.

    Example:
        >>> from driftwell.measures.activations import LeakyReLU
        >>> net = ImplicitNetwork(LeakyReLU(), s=0.2, tau0=1.0)
        >>> print(f"{net.tau**2:.4f}")  # (1-s) / (1 - s (1/2 - 1/2pi))
        0.8585
    """

    papers = (LING_EXPLICIT, LING_VIEWPOINT)

    phi: Activation
    s: float
    tau0: float

    def __post_init__(self) -> None:
        if not 0.0 < self.s < 1.0:
            raise InvalidInput(f"s must be in (0, 1), got {self.s}")
        if not 0.0 < self.tau0 < float("inf"):
            raise InvalidInput(f"tau0 must be positive, got {self.tau0}")

    @property
    def tau(self) -> float:
        """Root mean square input of phi at the equilibrium."""

        def again(variance: Tensor) -> Tensor:
            second = gaussian_mean(lambda xi: self.phi(variance.sqrt() * xi).square(), variance)
            spread = second - self.phi.mean(variance).square()
            return self.s * spread + (1 - self.s) * self.tau0**2

        start = torch.tensor(self.tau0**2, dtype=torch.float64)
        return float(_fixed(again, start, "tau^2").sqrt())

    @property
    def centre(self) -> float:
        """E phi(tau xi), what is taken from phi."""
        return float(self.phi.mean(torch.tensor(self.tau, dtype=torch.float64).square()))


def implicit_conjugate_kernel(X: Tensor, net: ImplicitNetwork) -> Tensor:
    """Conjugate kernel of an implicit network, from Ling et al., 2024, arXiv:2402.02697.

    Elementwise fixed point, no sampling:

        G_ij = E[phi_c(u_i) phi_c(u_j)],    (u_i, u_j) ~ N(0, L),   L = s G + (1-s) X X^T

    Args:
        X: inputs, (n, p).
        net: the network; its `tau0` should be the root mean square length of the rows of X.

    Returns:
        G, (n, n), the limit of z_i . z_j, in float64.

    Raises:
        InvalidInput: X not of shape (n, p).
        NotConverged: the fixed point was not found.

    Example:
        >>> from driftwell.measures.activations import LeakyReLU
        >>> net = ImplicitNetwork(LeakyReLU(), s=0.2, tau0=1.0)
        >>> G = implicit_conjugate_kernel(torch.eye(2), net)
        >>> print(f"{G[0, 0]:.4f} {G[0, 1]:.4f}")  # tau^2 - (1-s) over s, and nearly 0
        0.2926 0.0000
    """
    outer = _gram(X)
    centre = net.centre

    def again(G: Tensor) -> Tensor:
        return _centred(net.phi, net.s * G + (1 - net.s) * outer, centre)

    return _fixed(again, torch.zeros_like(outer), "the conjugate kernel")


def implicit_tangent_kernel(X: Tensor, net: ImplicitNetwork) -> Tensor:
    """Neural tangent kernel of an implicit network, from Ling et al., 2024, arXiv:2402.02697.

        K_ij = G_ij / (1 - s E[phi'(u_i) phi'(u_j)])

    It is that of training the read-out and A, with B as drawn.

    Args:
        X: inputs, (n, p).
        net: the network.

    Returns:
        K, (n, n), in float64.

    Raises:
        InvalidInput: X not of shape (n, p).
        NotConverged: the conjugate kernel was not found.

    Example:
        >>> from driftwell.measures.activations import LeakyReLU
        >>> net = ImplicitNetwork(LeakyReLU(), s=0.2, tau0=1.0)
        >>> K = implicit_tangent_kernel(torch.eye(2), net)
        >>> print(f"{K[0, 0]:.4f}")  # G_00 / (1 - s/2)
        0.3251
    """
    G = implicit_conjugate_kernel(X, net)
    slopes = net.phi.slopes(net.s * G + (1 - net.s) * _gram(X))
    return G / (1 - net.s * slopes)


def explicit_conjugate_kernel(X: Tensor, layers: Sequence[Activation], tau0: float) -> Tensor:
    """Conjugate kernel of an explicit network of infinite width with centred activations.

        L_0 = X X^T,    L_l = E[phi_lc(u) phi_lc(v)],  (u, v) ~ N(0, L_{l-1})

    with phi_lc = phi_l - E phi_l(tau_{l-1} xi) and tau_l^2 = E phi_lc(tau_{l-1} xi)^2.

    Args:
        X: inputs, (n, p).
        layers: activation of each hidden layer, as given: they are centred here.
        tau0: root mean square length of the inputs, positive.

    Returns:
        L of the last layer, (n, n), in float64.

    Raises:
        InvalidInput: X not of shape (n, p).

    Example:
        >>> from driftwell.measures.activations import LeakyReLU
        >>> L = explicit_conjugate_kernel(torch.eye(2), [LeakyReLU()], tau0=1.0)
        >>> print(f"{L[0, 0]:.4f}")  # 1/2 - 1/2pi
        0.3408
    """
    L = _gram(X)
    variance = torch.tensor(tau0, dtype=torch.float64).square()
    for phi in layers:
        centre = phi.mean(variance)
        L = _centred(phi, L, float(centre))
        second = _second_moment(phi, variance)
        variance = second - centre.square()
    return L


def deq_gram(X: Tensor, s_w2: float = 0.08) -> Tensor:
    """Gram matrix of the equilibria of a wide `DEQRegressor`, from Ling et al., *Global
    Convergence of Over-parameterized Deep Equilibrium Models*, 2023, arXiv:2205.13814.

        G_ij = lim z_i . z_j / m = E[relu(u_i) relu(u_j)],    (u_i, u_j) ~ N(0, K)
        K = 2 s_w2 G + 2 X X^T / p,        so that  G_ii = |x_i|^2 / p / (1 - s_w2)

    Args:
        X: inputs, (n, p).
        s_w2: variance of the state weights in units of 2/m, in [0, 1).

    Returns:
        (n, n), in float64.

    Raises:
        InvalidInput: X not of shape (n, p), or s_w2 outside [0, 1).

    Example:
        >>> print(f"{deq_gram(torch.ones(1, 3), s_w2=0.2).item():.4f}")
        1.2500
    """
    if not 0.0 <= s_w2 < 1.0:
        raise InvalidInput(f"s_w2 must be in [0, 1), got {s_w2}: from 1 on the Gram matrix grows")
    drive, relu = 2.0 * _gram(X) / X.shape[1], LeakyReLU()
    start = torch.zeros_like(drive)
    return _fixed(lambda G: relu.products(2.0 * s_w2 * G + drive), start, "the Gram matrix")


def _second_moment(phi: Activation, variance: Tensor) -> Tensor:
    return gaussian_mean(lambda xi: phi(variance.sqrt() * xi).square(), variance)


def _centred(phi: Activation, L: Tensor, centre: float) -> Tensor:
    """E[(phi(u_i) - centre) (phi(u_j) - centre)]."""
    mean = phi.mean(L.diagonal())
    return phi.products(L) - centre * (mean[:, None] + mean[None, :]) + centre**2


def _fixed(again: Callable[[Tensor], Tensor], start: Tensor, what: str) -> Tensor:
    """The fixed point of a contraction of kernels, to float64 rounding."""
    value = start
    for _ in range(_STEPS):
        value, last = again(value), value
        if bool((value - last).abs().max() <= 1e-13 * value.abs().max()):
            return value
    raise NotConverged(f"{what} has no fixed point here: take a smaller s or a flatter activation")


def _gram(X: Tensor) -> Tensor:
    if X.ndim != 2 or X.numel() == 0:
        raise InvalidInput(f"inputs must have the shape (n, p), got {tuple(X.shape)}")
    rows = X.detach().double()
    return rows @ rows.T
