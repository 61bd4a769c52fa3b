"""Edge of chaos: random couplings, their spectra, susceptibility and Lyapunov exponents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import Diverged, InvalidInput
from driftwell.core.noise import Purpose, normal

__all__ = [
    "Susceptibility",
    "critical_gain",
    "lyapunov_exponents",
    "random_couplings",
    "spectral_radius",
    "spectrum",
    "susceptibility",
]


def critical_gain(gamma: float = 0.0) -> float:
    """Gain at which a random network leaves its quiescent state: g (1 + gamma) = 1.

    The spectrum of J is an ellipse with the half axes g (1 + gamma) and g (1 - gamma)
    (Sommers, Crisanti, Sompolinsky and Stein, *Spectrum of large random asymmetric matrices*,
    1988); x = 0 is stable under dx/dt = -x + J tanh(x) while its rightmost point is below 1.

    Args:
        gamma: correlation of J_ij and J_ji, in (-1, 1].

    Raises:
        InvalidInput: gamma outside (-1, 1]; at -1 no gain is critical.

    Example:
        >>> critical_gain(), critical_gain(1.0)
        (1.0, 0.5)
    """
    if not -1.0 < gamma <= 1.0:
        raise InvalidInput(f"the correlation gamma is in (-1, 1], not {gamma:g}")
    return 1.0 / (1.0 + gamma)


def random_couplings(
    n: int,
    g: float,
    gamma: float = 0.0,
    *,
    seed: int,
    zero_diagonal: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Random couplings with E J_ij^2 = g^2/n and E J_ij J_ji = gamma g^2/n.

        J = a G + b G^T,   G_ij ~ N(0, g^2/n),   a^2 + b^2 = 1,   2ab = gamma

    Its diagonal has the variance (1 + gamma) g^2/n.

    Args:
        n: number of neurons, >= 1.
        g: gain, >= 0.
        gamma: correlation of J_ij and J_ji: 0 independent, 1 symmetric, -1 antisymmetric.
        seed: of the keyed noise; row i of G does not depend on n but for its scale and length.
        zero_diagonal: set J_ii = 0.
        dtype: floating.

    Returns:
        (n, n).

    Raises:
        InvalidInput: n < 1, g < 0, or gamma outside [-1, 1].

    Example:
        >>> J = random_couplings(4, g=1.0, gamma=1.0, seed=0)
        >>> torch.equal(J, J.T)
        True
    """
    if n < 1:
        raise InvalidInput(f"a network needs at least one neuron, not {n}")
    if not (math.isfinite(g) and g >= 0.0):
        raise InvalidInput(f"the gain g must be a number of at least 0, not {g}")
    if not -1.0 <= gamma <= 1.0:
        raise InvalidInput(f"the correlation gamma is in [-1, 1], not {gamma:g}")
    scale = g / math.sqrt(n)
    free = scale * normal(
        (n, n), seed=seed, purpose=Purpose.PARAMETERS, chains=n, step=20, dtype=dtype
    )
    total, difference = math.sqrt(1.0 + gamma), math.sqrt(1.0 - gamma)
    a, b = (total + difference) / 2.0, (total - difference) / 2.0
    couplings = free if gamma == 0.0 else a * free + b * free.T
    return couplings.fill_diagonal_(0.0) if zero_diagonal else couplings


def spectrum(J: Tensor) -> Tensor:
    """Eigenvalues of couplings (n, n) as complex (n,), in float64, largest real part first.

    Raises:
        InvalidInput: not a square matrix of finite numbers.

    Example:
        >>> spectrum(torch.tensor([[0.0, 2.0], [-2.0, 0.0]])).imag.round().tolist()
        [2.0, -2.0]
    """
    if J.ndim != 2 or J.shape[0] != J.shape[1] or J.numel() == 0:
        raise InvalidInput(f"couplings are a square matrix (n, n), not {tuple(J.shape)}")
    if not bool(torch.isfinite(J).all()):
        raise InvalidInput("the couplings hold NaN or infinite values")
    values: Tensor = torch.linalg.eigvals(J.detach().double())
    # Ties in the real part (conjugate pairs) by the imaginary part, so that order is fixed.
    values = values[torch.argsort(values.imag, descending=True, stable=True)]
    return values[torch.argsort(values.real, descending=True, stable=True)]


def spectral_radius(J: Tensor) -> float:
    """Largest modulus of the eigenvalues of couplings (n, n).

    Raises:
        InvalidInput: not a square matrix of finite numbers.

    Example:
        >>> spectral_radius(torch.diag(torch.tensor([0.5, -2.0])))
        2.0
    """
    return float(spectrum(J).abs().max())


@final
@dataclass(frozen=True)
class Susceptibility:
    """Static response of the states to a field, by fluctuation and response.

    Attributes:
        value: V/T, V the thermal variance of a coordinate, averaged over coordinates.
        error: standard error by the delete-one-chain jackknife; nan for fewer than 3 chains.
    """

    value: float
    error: float


def susceptibility(states: Tensor, T: float) -> Susceptibility:
    """Susceptibility chi = V/T of sampled states, from Qiu and Huang, 2025, arXiv:2401.10009.

        V = 1/N sum_i ( <x_i^2> - <x_i>^2 )

    chi is the integrated response at a small T: 1/(1 - g^2) for the speed energy of a random
    tanh network as T -> 0 and g -> 1 from below. The mean <x_i> is over steps and chains
    together, so chains must share one J and have reached equilibrium; correlated steps within a
    chain are allowed, the jackknife leaves out whole chains.

    Args:
        states: (steps, chains, N), or (chains, N) for one state of each chain.
        T: temperature, > 0.

    Raises:
        InvalidInput: another shape, fewer than two states, NaN/Inf, or T not above 0.

    Example:
        >>> susceptibility(torch.tensor([[1.0], [-1.0]]), T=0.5).value
        4.0
    """
    if states.ndim not in (2, 3) or states.numel() == 0:
        raise InvalidInput(
            f"states have the shape (steps, chains, N) or (chains, N), not {tuple(states.shape)}"
        )
    if not T > 0.0:
        raise InvalidInput(f"a susceptibility needs a temperature above 0, not {T:g}")
    if not bool(torch.isfinite(states).all()):
        raise InvalidInput("the states hold NaN or infinite values: drop the diverged chains")
    x = states.detach().double()
    x = x[None] if x.ndim == 2 else x
    steps, chains, _ = x.shape
    if steps * chains < 2:
        raise InvalidInput("a variance needs at least two states, not one")
    x = x - x.mean((0, 1))
    means, squares = x.mean(0), x.square().mean(0)  # per chain, (chains, N)
    value = _thermal_variance(means, squares, steps) / T
    if chains < 3:
        return Susceptibility(value, math.nan)
    kept = ~torch.eye(chains, dtype=torch.bool, device=x.device)
    spread = torch.tensor(
        [_thermal_variance(means[row], squares[row], steps) / T for row in kept],
        dtype=torch.float64,
    )
    error = math.sqrt((chains - 1) / chains * float((spread - spread.mean()).square().sum()))
    return Susceptibility(value, error)


def _thermal_variance(means: Tensor, squares: Tensor, steps: int) -> float:
    """Mean over coordinates of <x^2> - <x>^2, unbiased if the chains are independent.

    The square of an estimated mean is too large by the mean's own variance. Chains tell it, as
    the variance of their means; a single chain's states are taken as independent instead.
    """
    chains = len(means)
    plain = squares.mean(0) - means.mean(0).square()
    if chains == 1:
        return float(plain.mean()) * steps / (steps - 1)
    return float((plain + means.var(0) / chains).mean())


def lyapunov_exponents(
    step_map: Callable[[Tensor], Tensor],
    x0: Tensor,
    k: int,
    steps: int,
    transient: int = 0,
    *,
    dt: float = 1.0,
) -> Tensor:
    """The k largest Lyapunov exponents of a map along one orbit, by Benettin et al.,
    *Lyapunov characteristic exponents for smooth dynamical systems*, 1980.

        V = DF(x) Q,   V = Q' R with R_ii > 0,   lambda_i = <log R_ii> / dt

    with exact Jacobian-vector products and a QR factorisation at every step.

    Args:
        step_map: x -> F(x) on (n,), differentiable by forward mode; called once a step.
        x0: (n,) start; in float32 exponents near zero are biased by about 1e-3, give float64.
        k: how many exponents, 1..n.
        steps: steps averaged over, >= 1.
        transient: steps before, to reach the attractor and align the directions.
        dt: time of a step, if the map is that of a flow.

    Returns:
        (k,) float64, largest first as a rule, in nats per unit of time; -inf where a direction
        is lost at once.

    Raises:
        InvalidInput: another shape, k outside 1..n, or no steps.
        Diverged: the orbit left the finite numbers.

    Example:
        >>> A = torch.diag(torch.tensor([2.0, 0.5], dtype=torch.float64))
        >>> lyapunov_exponents(lambda x: A @ x, torch.zeros(2).double(), 2, steps=10, transient=50)
        tensor([ 0.6931, -0.6931], dtype=torch.float64)
    """
    if x0.ndim != 1 or not x0.is_floating_point():
        raise InvalidInput(
            f"the start is a floating vector (n,), not {x0.dtype} of shape {tuple(x0.shape)}"
        )
    if not 1 <= k <= len(x0):
        raise InvalidInput(f"a map of {len(x0)} dimensions has 1 to that many exponents, not {k}")
    if steps < 1 or transient < 0 or not dt > 0.0:
        raise InvalidInput(
            f"exponents need steps >= 1, transient >= 0 and dt > 0, "
            f"not {steps}, {transient} and {dt:g}"
        )
    x = x0.detach()
    start = normal(
        (k, len(x)), seed=0, purpose=Purpose.PROBE, chains=k, step=21,
        dtype=torch.float64, device=x.device,
    )  # fmt: skip
    directions = torch.linalg.qr(start.T)[0].to(x.dtype)
    total = torch.zeros(k, dtype=torch.float64, device=x.device)
    for step in range(transient + steps):
        x, pushed = _push(step_map, x, directions)
        if not bool(torch.isfinite(x).all() and torch.isfinite(pushed).all()):
            raise Diverged(f"the orbit left the finite numbers at step {step}: check map and start")
        directions, upper = torch.linalg.qr(pushed)
        if step >= transient:
            total += upper.diagonal().abs().double().log()
    return total / (steps * dt)


def _push(
    step_map: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """F(x) and DF(x) Q, one Jacobian-vector product for each column of Q, batched."""

    def one(direction: Tensor) -> tuple[Tensor, Tensor]:
        pair = torch.func.jvp(step_map, (x,), (direction,))
        return pair[0], pair[1]

    images, tangents = torch.func.vmap(one, in_dims=1, out_dims=(0, 1))(directions)
    return images[0].detach(), tangents.detach()
