"""Activations as Gaussian theory sees them: expectations of one and of two normal inputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput

__all__ = ["Activation", "HardTanh", "LeakyReLU", "Smooth"]

# Panels of eight Gauss-Legendre nodes on [-10, 10]: kinks at 0 fall on an edge.
_PANELS, _REACH = 200, 10.0


class Activation(ABC):
    """phi, with the Gaussian expectations that kernels of wide networks are made of.

    All take the covariance of the inputs: variances q_i and, for pairs, L_ij with L_ii = q_i.

    Example:
        >>> relu: Activation = LeakyReLU()
        >>> relu.products(torch.eye(2))[0, 1]  # 1 / (2 pi)
        tensor(0.1592)
    """

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """phi(u), entry by entry."""

    @abstractmethod
    def slope(self, u: Tensor) -> Tensor:
        """phi'(u), entry by entry; any value of a kink's two at the kink."""

    @abstractmethod
    def products(self, L: Tensor) -> Tensor:
        """E[phi(u_i) phi(u_j)] for (u_i, u_j) ~ N(0, [[L_ii, L_ij], [L_ji, L_jj]]), (n, n)."""

    @abstractmethod
    def slopes(self, L: Tensor) -> Tensor:
        """E[phi'(u_i) phi'(u_j)], (n, n), likewise."""

    def mean(self, q: Tensor) -> Tensor:
        """E[phi(sqrt(q) xi)], like `q`."""
        return gaussian_mean(lambda xi: self(_scaled(q, xi)), q)


def gaussian_mean(function: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """E[function(xi)], xi ~ N(0, 1), by quadrature over the last dimension.

    Args:
        function: called with the nodes (N,); may return (..., N).
        like: gives dtype and device.

    Example:
        >>> gaussian_mean(lambda xi: xi**4, torch.zeros(1, dtype=torch.float64))
        tensor(3.0000, dtype=torch.float64)
    """
    nodes, weights = np.polynomial.legendre.leggauss(8)
    edges = np.linspace(-_REACH, _REACH, _PANELS + 1)
    half = _REACH / _PANELS
    xi = ((edges[:-1] + edges[1:])[:, None] / 2 + half * nodes).ravel()
    weight = np.tile(half * weights, _PANELS) * np.exp(-(xi**2) / 2) / math.sqrt(2 * math.pi)
    value: Tensor = function(torch.from_numpy(xi).to(like)) @ torch.from_numpy(weight).to(like)
    return value


@final
@dataclass(frozen=True)
class LeakyReLU(Activation):
    """phi(u) = max(a u, b u), in closed form; (1, 0) is ReLU.

    By Cho and Saul, *Kernel methods for deep learning*, 2009: with c = L_ij / sqrt(q_i q_j),

        E|u_i||u_j| = (2/pi) sqrt(q_i q_j) (sqrt(1 - c^2) + c arcsin c)
        E sgn u_i sgn u_j = (2/pi) arcsin c

    and phi(u) = (a + b)/2 u + (a - b)/2 |u|, for a >= b.

    Args:
        a: slope above zero.
        b: slope below zero, at most a.

    Raises:
        InvalidInput: a < b, or not finite.

    Example:
        >>> LeakyReLU(1.0, 0.5)(torch.tensor([-1.0, 2.0]))
        tensor([-0.5000,  2.0000])
    """

    a: float = 1.0
    b: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.a) and math.isfinite(self.b) and self.a >= self.b):
            raise InvalidInput(f"max(a u, b u) needs finite a >= b, got a={self.a}, b={self.b}")

    def __call__(self, u: Tensor) -> Tensor:
        """max(a u, b u)."""
        return torch.maximum(self.a * u, self.b * u)

    def slope(self, u: Tensor) -> Tensor:
        """a above zero, b below."""
        return torch.where(u > 0, self.a, self.b).to(u)

    def mean(self, q: Tensor) -> Tensor:
        """(a - b) sqrt(q / 2 pi)."""
        return (self.a - self.b) * (q / (2 * math.pi)).sqrt()

    def products(self, L: Tensor) -> Tensor:
        """(a+b)^2/4 L + (a-b)^2/4 E|u_i||u_j|."""
        c, size = correlations(L)
        sizes = (2 / math.pi) * size * ((1 - c * c).clamp_min(0).sqrt() + c * torch.asin(c))
        return (self.a + self.b) ** 2 / 4 * L + (self.a - self.b) ** 2 / 4 * sizes

    def slopes(self, L: Tensor) -> Tensor:
        """(a+b)^2/4 + (a-b)^2/4 (2/pi) arcsin c."""
        c, _ = correlations(L)
        signs = (2 / math.pi) * torch.asin(c)
        return (self.a + self.b) ** 2 / 4 + (self.a - self.b) ** 2 / 4 * signs


@dataclass(frozen=True)
class _Series(Activation, ABC):
    """Pairs by Mehler's series of Hermite polynomials, the diagonal by quadrature.

    With phi(sqrt(q) xi) = sum_k c_k(q) He_k(xi) / sqrt(k!):

        E phi(u_i) phi(u_j) = sum_k c_k(q_i) c_k(q_j) c^k,     c = L_ij / sqrt(q_i q_j)

    and E phi' phi' is its derivative with respect to L_ij.
    """

    def products(self, L: Tensor) -> Tensor:
        """The series; E phi^2 on the diagonal."""
        coefficients = self._coefficients(L.diagonal())
        c, _ = correlations(L)
        total = torch.zeros_like(L)
        for column in reversed(coefficients):
            total = total * c + torch.outer(column, column)
        q = L.diagonal()
        return _with_diagonal(total, gaussian_mean(lambda xi: self(_scaled(q, xi)).square(), q))

    def slopes(self, L: Tensor) -> Tensor:
        """The series' derivative; E phi'^2 on the diagonal."""
        coefficients = self._coefficients(L.diagonal())
        c, size = correlations(L)
        total = torch.zeros_like(L)
        for k in range(len(coefficients) - 1, 0, -1):
            total = total * c + k * torch.outer(coefficients[k], coefficients[k])
        q = L.diagonal()
        square = gaussian_mean(lambda xi: self.slope(_scaled(q, xi)).square(), q)
        return _with_diagonal(total / size, square)

    def _coefficients(self, q: Tensor) -> Tensor:
        """c_k(q_i), (terms, n)."""

        def integrand(xi: Tensor) -> Tensor:
            return self(_scaled(q, xi)) * _hermite(xi, self._terms())[:, None, :]

        return gaussian_mean(integrand, q)

    @abstractmethod
    def _terms(self) -> int:
        """Number of terms of the series."""


@final
@dataclass(frozen=True)
class HardTanh(_Series):
    """phi(u) = a clamp(u, -c, c).

    Args:
        a: slope at zero.
        c: where it saturates, positive.
        terms: of the Hermite series for pairs.

    Raises:
        InvalidInput: c not positive.

    Example:
        >>> HardTanh(2.0, 1.0)(torch.tensor([-3.0, 0.5]))
        tensor([-2.,  1.])
    """

    a: float = 1.0
    c: float = 1.0
    terms: int = 24

    def __post_init__(self) -> None:
        if not (math.isfinite(self.a) and self.c > 0):
            raise InvalidInput(f"a clamp(u, -c, c) needs a finite a and c > 0, got {self}")

    def __call__(self, u: Tensor) -> Tensor:
        """a clamp(u, -c, c)."""
        return self.a * u.clamp(-self.c, self.c)

    def slope(self, u: Tensor) -> Tensor:
        """a inside, 0 outside."""
        return self.a * (u.abs() < self.c).to(u)

    def _terms(self) -> int:
        return self.terms


@final
@dataclass(frozen=True)
class Smooth(_Series):
    """Any smooth activation; pairs by a Hermite series, as accurate as phi is smooth.

    Args:
        phi: entry by entry, differentiable by autograd, such as `torch.tanh`.
        terms: of the series; 24 gives tanh to 1e-6 for |c| <= 0.7.

    Raises:
        InvalidInput: terms below 2.

    Example:
        >>> L = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
        >>> Smooth(torch.erf).products(L)[0, 1]  # 2/pi arcsin(2 L_12 / 3)
        tensor(0.2163..., dtype=torch.float64)
    """

    phi: Callable[[Tensor], Tensor]
    terms: int = 24

    def __post_init__(self) -> None:
        if self.terms < 2:
            raise InvalidInput(f"a Hermite series needs at least 2 terms, got {self.terms}")

    def __call__(self, u: Tensor) -> Tensor:
        """phi(u)."""
        return self.phi(u)

    def slope(self, u: Tensor) -> Tensor:
        """phi'(u), by autograd."""
        with torch.enable_grad():
            at = u.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.phi(at).sum(), at)
        return slope

    def _terms(self) -> int:
        return self.terms


def correlations(L: Tensor) -> tuple[Tensor, Tensor]:
    """Correlations c_ij = L_ij / sqrt(q_i q_j), within [-1, 1], and sqrt(q_i q_j)."""
    root = L.diagonal().clamp_min(torch.finfo(L.dtype).tiny).sqrt()
    size = torch.outer(root, root)
    return (L / size).clamp(-1.0, 1.0), size


def _scaled(q: Tensor, xi: Tensor) -> Tensor:
    """sqrt(q) xi, (..., N)."""
    return q.sqrt()[..., None] * xi


def _hermite(xi: Tensor, terms: int) -> Tensor:
    """He_k(xi) / sqrt(k!), (terms, N)."""
    rows = [torch.ones_like(xi), xi]
    for k in range(1, terms - 1):
        rows.append((xi * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return torch.stack(rows[:terms])


def _with_diagonal(matrix: Tensor, diagonal: Tensor) -> Tensor:
    result = matrix.clone()
    result.diagonal().copy_(diagonal)
    return result
