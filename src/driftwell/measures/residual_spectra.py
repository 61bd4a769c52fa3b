"""Singular values of residual networks' Jacobians: free probability, measurement, start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper
from driftwell.measures.activations import Activation, gaussian_mean

__all__ = [
    "JacobianSpectrum",
    "jacobian_singular_values",
    "residual_",
    "resnet_jacobian_spectrum",
]

LING_RESIDUAL = Paper(
    key="ling2019spectrum",
    title="Spectrum concentration in deep residual learning: a free probability approach",
    authors="Ling, Zenan and He, Xing and Qiu, Robert C.",
    year=2019,
    arxiv="1807.11694",
    venue="IEEE Access 7",
)


@final
@dataclass(frozen=True)
class JacobianSpectrum:
    """Law of the squared singular values x of J = prod_l (I + W_l), from Ling, He and Qiu,
    *Spectrum concentration in deep residual learning: a free probability approach*, 2019,
    arXiv:1807.11694.

    W_l is N by N with entries N(0, v_l / N), N -> inf. One factor's S-transform, and from the
    product of all the Cauchy transform G of x:

        S_l(y) = 2 / (1 + v_l + 2 v_l y + sqrt((1 + v_l)^2 + 4 v_l y))
        x = (1 + y) / (y prod_l S_l(y)),     G(x) = (1 + y) / x

    For L layers of v/L each and L -> inf, S = exp(-v (1 + 2 y)).

    Attributes:
        variances: v_1 .. v_L.

    Raises:
        InvalidInput: no layer, or a variance that is not positive.

    Example:
        >>> deep = JacobianSpectrum((1 / 5000,) * 5000)
        >>> print(f"{deep.mean:.2f} {deep.edges()[1]:.1f}")  # e, and 3.732 exp(1.732)
        2.72 21.1
    """

    papers = (LING_RESIDUAL,)

    variances: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.variances or not all(0.0 < v < math.inf for v in self.variances):
            raise InvalidInput(f"layers need positive variances, got {self.variances}")

    @property
    def mean(self) -> float:
        """Mean squared singular value, prod_l (1 + v_l)."""
        return math.prod(1 + v for v in self.variances)

    def edges(self) -> tuple[float, float]:
        """Smallest and largest x of the support: the stationary values of x(y) on the real line."""
        largest = math.exp(_lowest(lambda s: self._log_x(math.exp(s)), -40.0, 20.0))
        # below -1 y is bounded by the branch point of the root; from v = 1 on zero is reached
        reach = min((1 + v) ** 2 / (4 * v) for v in self.variances) - 1
        if max(self.variances) >= 1.0 or reach <= 0:
            return 0.0, largest
        negative = _lowest(lambda s: -self._log_x(-1 - math.exp(s)), -40.0, math.log(reach))
        return math.exp(-negative), largest

    def density(self, x: Tensor) -> Tensor:
        """Density at x > 0, in float64: -Im G(x + i0) / pi.

        Newton's method on y S(y) / (1 + y) = 1 / x, from far above the real line down to it.
        """
        real = x.detach().double()
        y = torch.zeros_like(real, dtype=torch.complex128)
        top = 10 * self.edges()[1]
        for step in range(121):
            point = torch.complex(real, torch.full_like(real, top * 10 ** (-step / 8)))
            y = self.mean / point if step == 0 else y
            for _ in range(4):
                chi, slope = self._chi(y)
                y = y - (chi - 1 / point) / slope
        return (-((1 + y) / real).imag / math.pi).clamp_min(0)

    def _log_x(self, y: float) -> float:
        """log of x(y) for real y > 0 or y < -1."""
        value = math.log((1 + y) / y)
        for v in self.variances:
            root = math.sqrt(max((1 + v) ** 2 + 4 * v * y, 0.0))
            value += math.log((1 + v + 2 * v * y + root) / 2)
        return value

    def _chi(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """1 / x as a function of y, and its derivative."""
        log, slope = torch.zeros_like(y), 1 / y - 1 / (1 + y)
        for v in set(self.variances):
            count = self.variances.count(v)
            root = ((1 + v) ** 2 + 4 * v * y).sqrt()
            below = 1 + v + 2 * v * y + root
            log = log + count * (math.log(2) - below.log())
            slope = slope - count * (2 * v + 2 * v / root) / below
        chi = y / (1 + y) * log.exp()
        return chi, chi * slope


def resnet_jacobian_spectrum(
    depth: int, sigma: float = 1.0, phi: Activation | None = None, q: float = 1.0
) -> JacobianSpectrum:
    """Spectrum of the input-output Jacobian of h_l = h_{l-1} + W_l phi(h_{l-1}), l = 1 .. L, from
    Ling, He and Qiu, 2019, arXiv:1807.11694.

    W_l has entries N(0, sigma^2 / (N L)): the variance is divided by the number of layers.

        v_l = sigma^2 c_l / L,   c_l = E phi'(q_l xi)^2,   q_1 = q
        q_{l+1}^2 = q_l^2 + sigma^2 / L E phi(q_l xi)^2

    Exact for the linear network (phi=None, c = 1). Otherwise the mean is right and the spread too
    small: the theory takes the slopes phi'(h_l) of different layers as free of each other, and in
    a residual network h_l, and so the slopes, hardly change from layer to layer. For ReLU and
    L = 10 the largest squared value is 8.9 where the theory says 7.4 (the claim
    ``resnet-jacobian-relu-edge`` prints it).

    Args:
        depth: L, at least 1.
        sigma: of the weights, positive.
        phi: activation, or None for a linear network.
        q: root mean square entry of h_0, positive.

    Raises:
        InvalidInput: an argument outside its range.

    Example:
        >>> print(f"{resnet_jacobian_spectrum(10).mean:.3f}")
        2.594
    """
    if depth < 1:
        raise InvalidInput(f"depth must be at least 1, got {depth}")
    if not (0.0 < sigma < math.inf and 0.0 < q < math.inf):
        raise InvalidInput(f"sigma and q must be positive, got {sigma} and {q}")
    share = sigma**2 / depth
    if phi is None:
        return JacobianSpectrum((share,) * depth)
    variances, variance = [], torch.tensor(q * q, dtype=torch.float64)
    for _ in range(depth):
        root = variance.sqrt()
        slope = gaussian_mean(lambda xi, root=root: phi.slope(root * xi).square(), root)  # type: ignore[misc]
        second = gaussian_mean(lambda xi, root=root: phi(root * xi).square(), root)  # type: ignore[misc]
        variances.append(share * float(slope))
        variance = variance + share * second
    return JacobianSpectrum(tuple(variances))


def residual_(weights: Sequence[Tensor], sigma: float = 1.0, *, seed: int) -> None:
    """Initialise the last weight of every residual branch, in place, from Ling, He and Qiu, 2019,
    arXiv:1807.11694: the variance divided by the number L of branches.

        W_l ~ N(0, sigma^2 / (N L)),     N = number of its columns,   L = len(weights)

    Args:
        weights: the L matrices, (rows, N); convolutions count all but the first dimension as N.
        sigma: in units where 1 keeps a plain layer's scale; not negative.
        seed: of the keyed noise.

    Raises:
        InvalidInput: no weight, one without columns, or a negative sigma.

    Example:
        >>> branches = [torch.empty(64, 64) for _ in range(16)]
        >>> residual_(branches, seed=0)
        >>> print(f"{branches[3].std() * 32:.1f}")
        1.0
    """
    if not weights or any(W.ndim < 2 or W.numel() == 0 for W in weights):
        raise InvalidInput("residual_ needs at least one weight of two or more dimensions")
    if not 0.0 <= sigma < math.inf:
        raise InvalidInput(f"sigma must not be negative, got {sigma}")
    with torch.no_grad():
        for layer, W in enumerate(weights):
            noise = normal(
                tuple(W.shape), seed=seed, purpose=Purpose.INIT, chains=W.shape[0], step=layer,
                dtype=W.dtype, device=W.device,
            )  # fmt: skip
            W.copy_(sigma / math.sqrt(W[0].numel() * len(weights)) * noise)


def jacobian_singular_values(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Singular values of d net(x) / d x per sample, largest first, (B, min(inputs, outputs)).

    Args:
        net: row-wise map of (B, ...) to (B, ...).
        x: where it is linearised, (B, ...), floating.

    Raises:
        InvalidInput: x without a batch, or not floating.

    Example:
        >>> jacobian_singular_values(lambda x: 2 * x, torch.ones(1, 3))
        tensor([[2., 2., 2.]])
    """
    if x.ndim < 2 or not x.is_floating_point():
        raise InvalidInput(f"x must be a floating tensor (B, ...), got {tuple(x.shape)} {x.dtype}")

    def of_one(row: Tensor) -> Tensor:
        return net(row.reshape(1, *x.shape[1:])).reshape(-1)

    jacobian = torch.func.vmap(torch.func.jacrev(of_one))(x.detach().reshape(len(x), -1))
    values: Tensor = torch.linalg.svdvals(jacobian)
    return values


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Minimum of a unimodal function, by golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(120):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = function(b)
    return min(at_a, at_b)
