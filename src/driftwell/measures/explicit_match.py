"""Explicit networks with the kernel of an implicit one: activations that give its four scalars."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput, NotConverged
from driftwell.measures.activations import HardTanh, LeakyReLU
from driftwell.measures.kernel_equivalents import KernelScalars

__all__ = ["match_explicit"]

# Below this share of the linear part the two quadratic scalars count as those of an odd phi.
_ODD = 1e-9
_STARTS = (
    (1.0, 0.1, 1.0, 0.1),
    (1.0, -0.5, 1.0, -0.5),
    (1.5, 0.0, 0.7, 0.0),
    (2.0, -1.0, 0.5, 0.0),
)


def match_explicit(scalars: KernelScalars, tol: float = 1e-8) -> tuple[LeakyReLU | HardTanh, ...]:
    """Activations of a shallow explicit network with given scalars, from Ling et al., *Deep
    Equilibrium Models are Almost Equivalent to Not-so-deep Explicit Models*, 2024,
    arXiv:2402.02697.

    For an odd phi (alpha2 = alpha3 = 0) one hidden layer of a clamp(u, -c, c):

        alpha1 = (a erf(c / (sqrt(2) tau0)))^2,     diagonal = E[a^2 min(tau0^2 xi^2, c^2)]

    otherwise two of max(a_l u, b_l u), centred, whose four slopes solve four equations (see
    `explicit_scalars`) by damped least squares from several starts.

    Args:
        scalars: of the network to be matched.
        tol: relative error of each scalar that counts as matched.

    Returns:
        Activations, first layer first; to be centred, each layer divided by sqrt(width).

    Raises:
        NotConverged: no slopes give these scalars; the sentence says how near they come.

    Example:
        >>> from driftwell.measures.kernel_equivalents import implicit_scalars
        >>> from driftwell.measures.implicit_kernels import ImplicitNetwork
        >>> first, second = match_explicit(
        ...     implicit_scalars(ImplicitNetwork(LeakyReLU(), s=0.2, tau0=1.0))
        ... )
        >>> first.a > first.b
        True
    """
    if not tol > 0.0:
        raise InvalidInput(f"tol must be positive, got {tol}")
    if max(abs(scalars.alpha2), abs(scalars.alpha3)) <= _ODD * scalars.alpha1:
        return (_hard_tanh(scalars),)
    return _leaky_pair(scalars, tol)


def _hard_tanh(scalars: KernelScalars) -> HardTanh:
    """c from the ratio diagonal / (tau0^2 alpha1), which falls from infinity to 1; then a."""
    wanted = scalars.diagonal / (scalars.tau0**2 * scalars.alpha1)
    if wanted <= 1.0:
        raise NotConverged(
            f"no hard tanh has diagonal / (tau0^2 alpha1) = {wanted:.3g}: it is above 1 for all"
        )
    low, high = 1e-6, 10.0  # of c / tau0
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _clamp_ratio(middle) > wanted else (low, middle)
    inside = math.erf(low / math.sqrt(2))
    return HardTanh(math.sqrt(scalars.alpha1) / inside, low * scalars.tau0)


def _clamp_ratio(c: float) -> float:
    """E min(xi^2, c^2) / P(|xi| < c)^2."""
    inside = math.erf(c / math.sqrt(2))
    square = inside - 2 * c * math.exp(-c * c / 2) / math.sqrt(2 * math.pi)
    return (square + c * c * (1 - inside)) / inside**2


def _leaky_pair(scalars: KernelScalars, tol: float) -> tuple[LeakyReLU, LeakyReLU]:
    wanted = torch.tensor(
        [scalars.alpha1, scalars.alpha2, scalars.alpha3, scalars.diagonal], dtype=torch.float64
    )

    def gap(slopes: Tensor) -> Tensor:
        return _pair_scalars(slopes, scalars.tau0) / wanted - 1.0

    best, error = torch.zeros(4, dtype=torch.float64), math.inf
    for start in _STARTS:
        slopes = _least_squares(gap, torch.tensor(start, dtype=torch.float64))
        found = float(gap(slopes).abs().max())
        if found < error:
            best, error = slopes, found
        if error <= tol:
            return _ordered(*best[:2].tolist()), _ordered(*best[2:].tolist())
    raise NotConverged(
        f"no two layers of max(a u, b u) have these scalars: the nearest is off by {error:.2g}"
    )


def _ordered(a: float, b: float) -> LeakyReLU:
    """With a >= b; min(a u, b u) = -max(-a u, -b u) has the same kernel."""
    return LeakyReLU(a, b) if a >= b else LeakyReLU(-a, -b)


def _pair_scalars(slopes: Tensor, tau0: float) -> Tensor:
    """(A1, A2, A3, tau_2^2) of two leaky layers.

    d1^2 = (a+b)^2/4,   d2^2 = (a-b)^2 / (2 pi tau^2),   d3 = ((a^2+b^2)(pi-1) + 2ab) / pi
    """
    A1, A4 = slopes.new_ones(()), slopes.new_ones(())
    A2, A3 = slopes.new_zeros(()), slopes.new_zeros(())
    variance = slopes.new_tensor(tau0**2)
    for a, b in slopes.reshape(2, 2):
        g1, g2 = (a + b) ** 2 / 4, (a - b) ** 2 / (2 * math.pi * variance)
        g4 = ((a * a + b * b) * (math.pi - 1) + 2 * a * b) / math.pi
        A2, A3 = g1 * A2 + g2 * A4**2 / 4, g1 * A3 + g2 * A1**2 / 2
        A1, A4, variance = g1 * A1, g4 * A4 / 2, variance * g4 / 2
    return torch.stack([A1, A2, A3, variance])


def _least_squares(gap: Callable[[Tensor], Tensor], start: Tensor, steps: int = 150) -> Tensor:
    """Levenberg and Marquardt's method on |gap|^2."""
    at, damping = start, 1e-2
    value = gap(at)
    for _ in range(steps):
        J = torch.autograd.functional.jacobian(gap, at)
        normal = J.T @ J
        move = torch.linalg.solve(normal + damping * torch.eye(len(at)).to(at), J.T @ value)
        trial = gap(at - move)
        if float(trial.square().sum()) < float(value.square().sum()):
            at, value, damping = at - move, trial, damping / 3
        else:
            damping = min(4 * damping, 1e8)
        if float(value.abs().max()) < 1e-13:
            break
    return at
