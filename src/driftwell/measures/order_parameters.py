"""Replica-symmetric order parameters of the speed energy of a random network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput, NotConverged
from driftwell.core.papers import Paper
from driftwell.dynamics.speed import QIU_HUANG

__all__ = ["OrderParameters", "rs_order_parameters"]

# What a weight must reach, in nats below its peak, to be integrated over.
_DEPTH = 45.0


@final
@dataclass(frozen=True)
class OrderParameters:
    """Replica-symmetric saddle point of exp(-E/T), E = 1/2 |x - J phi(x)|^2, J_ij ~ N(0, g^2/N).

    <.> is the thermal mean of one draw of J, E the mean over draws.

    Attributes:
        Q: E<phi^2>, the activity.
        q: E<phi>^2, the overlap of two replicas (Edwards-Anderson); 0 in the paramagnet.
        V: E[<x^2> - <x>^2], the thermal variance.
        r: E(<x> - m)^2, what the mean state deviates from its Gaussian field m.
        second_moment: E<x^2>.
        energy: <E>/N, in energy units.
        linear_response: V/T, the static response of <x> to a small field in the energy.
        iterations: of the damped iteration.
        residual: largest last change of Q, q, V, r, relative to E<x^2>.
    """

    papers: ClassVar[tuple[Paper, ...]] = (QIU_HUANG,)

    Q: float
    q: float
    V: float
    r: float
    second_moment: float
    energy: float
    linear_response: float
    iterations: int
    residual: float


def rs_order_parameters(
    g: float,
    T: float,
    *,
    phi: Callable[[Tensor], Tensor] = torch.tanh,
    overlap: float = 0.0,
    anneal: Sequence[float] = (),
    nodes: int = 20,
    points: int = 600,
    damping: float = 0.5,
    tol: float = 1e-10,
    max_steps: int = 20_000,
) -> OrderParameters:
    """Replica-symmetric order parameters of a random network's speed energy, from Qiu and Huang,
    *An optimization-based equilibrium measure describes non-equilibrium steady state dynamics*,
    2025, arXiv:2401.10009.

    With z0, z1 ~ N(0, 1), beta = 1/T and

        A = beta / (1 + beta g^2 (Q - q)),    m = g sqrt(q) z0
        w(x | z0, z1) ~ exp[-A/2 (x - m)^2 + (A^2 g^2 V - A g^2)/2 phi^2 + A g sqrt(r) z1 phi]

    the saddle point is

        Q = E<phi^2>,  q = E<phi>^2,  V = E[<x^2> - <x>^2],  r = E(<x> - m)^2

    found by damped iteration in float64, the z by Gauss-Hermite nodes, x on a grid fitted to
    each weight. At q = 0 integration by parts leaves V = 1/A = T + g^2 Q and a Gaussian x, so
    that Q = E phi^2(sqrt(T + g^2 Q) z); for phi(x) = x, V = Q = T / (1 - g^2).

    Args:
        g: gain of the couplings, J_ij ~ N(0, g^2/N), >= 0.
        T: temperature, > 0, in energy units.
        phi: the activation, elementwise on float64.
        overlap: the iteration starts at q = overlap Q, in [0, 1); an odd phi started at 0 stays
            in the paramagnet, q = r = 0.
        anneal: temperatures solved before T, each from the solution of the one before.
        nodes: Gauss-Hermite nodes for each z.
        points: of the grid of x.
        damping: share of the new value that is taken, in (0, 1].
        tol: largest relative change that counts as converged.
        max_steps: iterations at each temperature.

    Raises:
        InvalidInput: a setting outside its range.
        NotConverged: no saddle point after `max_steps`, or none finite (a linear phi at g >= 1).

    Example:
        >>> point = rs_order_parameters(0.5, 0.1)
        >>> round(point.Q, 4), round(point.second_moment, 4)
        (0.1018, 0.1255)
    """
    _check(g, T, overlap, anneal, nodes, points, damping)
    solver = _SaddlePoint(g, phi, nodes, points)
    # Any start leads to the paramagnet; this one is exact for g -> 0.
    values = torch.tensor([T, overlap * T, (1.0 - overlap) * T, 0.0], dtype=torch.float64)
    for temperature in (*anneal, T):
        values, moments, steps, residual = solver.solve(
            temperature, values, damping, tol, max_steps
        )
    Q, q, V, r = values.tolist()
    return OrderParameters(
        Q, q, V, r, moments, solver.energy(T, values, moments), V / T, steps, residual
    )


def _check(
    g: float,
    T: float,
    overlap: float,
    anneal: Sequence[float],
    nodes: int,
    points: int,
    damping: float,
) -> None:
    if not (math.isfinite(g) and g >= 0.0):
        raise InvalidInput(f"the gain g must be a number of at least 0, not {g}")
    for temperature in (*anneal, T):
        if not (math.isfinite(temperature) and temperature > 0.0):
            raise InvalidInput(f"order parameters need a temperature above 0, not {temperature}")
    if not 0.0 <= overlap < 1.0:
        raise InvalidInput(f"the overlap to start from is in [0, 1), not {overlap:g}")
    if nodes < 2 or points < 50:
        raise InvalidInput(
            f"the integrals need at least 2 nodes and 50 points, not {nodes} and {points}"
        )
    if not 0.0 < damping <= 1.0:
        raise InvalidInput(f"the damping is in (0, 1], not {damping:g}")


class _SaddlePoint:
    """The right-hand sides of the saddle-point equations for one g and phi."""

    def __init__(self, g: float, phi: Callable[[Tensor], Tensor], nodes: int, points: int) -> None:
        self.g, self.phi, self.points = g, phi, points
        z, weight = np.polynomial.hermite_e.hermegauss(nodes)
        self.z = torch.from_numpy(z)
        self.weight = torch.from_numpy(weight / weight.sum())

    def solve(
        self, T: float, values: Tensor, damping: float, tol: float, max_steps: int
    ) -> tuple[Tensor, float, int, float]:
        residual = math.inf
        for step in range(1, max_steps + 1):
            target, second = self.iterate(T, values)
            change = target - values
            residual = float(change.abs().max()) / second
            values = values + damping * change
            if not math.isfinite(residual):
                break
            if residual < tol:
                return values, second, step, residual
        raise NotConverged(
            f"no replica-symmetric saddle point at g = {self.g:g}, T = {T:g} after {step} steps "
            f"(relative change {residual:.1e}): try a smaller damping, more steps, or annealing "
            "from a higher temperature; a linear phi has none at g >= 1"
        )

    def iterate(self, T: float, values: Tensor) -> tuple[Tensor, float]:
        """New (Q, q, V, r) and E<x^2> for given ones."""
        Q, q, V, r = values.tolist()
        g = self.g
        A = 1.0 / (T + g**2 * max(Q - q, 0.0))
        frozen = q <= 0.0 and r <= 0.0
        z = torch.zeros(1, dtype=torch.float64) if frozen else self.z
        weight = torch.ones(1, dtype=torch.float64) if frozen else self.weight
        m = (g * math.sqrt(max(q, 0.0)) * z)[:, None, None]
        field = (A * g * math.sqrt(max(r, 0.0)) * z)[None, :, None]
        quadratic = 0.5 * A * g**2 * (A * V - 1.0)

        def log_weight(x: Tensor) -> tuple[Tensor, Tensor]:
            f = self.phi(x)
            return -0.5 * A * (x - m).square() + quadratic * f.square() + field * f, f

        x = self._grid(log_weight, m.expand(-1, len(z), 1), 1.0 / math.sqrt(A))
        log_w, f = log_weight(x)
        w = torch.softmax(log_w, dim=2)
        mean_x, mean_f = (w * x).sum(2), (w * f).sum(2)
        over = weight[:, None] * weight
        second = float((over * (w * x.square()).sum(2)).sum())
        thermal = float((over * (w * (x - mean_x[..., None]).square()).sum(2)).sum())
        new = [
            float((over * (w * f.square()).sum(2)).sum()),
            float((over * mean_f.square()).sum()),
            thermal,
            float((over * (mean_x - m[..., 0]).square()).sum()),
        ]
        if frozen and abs(float(mean_f)) < 1e-12:  # odd phi: rounding must not break the symmetry
            new[1] = new[3] = 0.0
        return torch.tensor(new, dtype=torch.float64), second

    def _grid(
        self,
        log_weight: Callable[[Tensor], tuple[Tensor, Tensor]],
        centre: Tensor,
        width: float,
    ) -> Tensor:
        """Equidistant points over where each weight is not negligible, (nodes, nodes, points)."""
        unit = torch.linspace(-1.0, 1.0, self.points, dtype=torch.float64)
        # Start wide enough for the force of phi to have shifted the weight, then close in.
        half = torch.full_like(centre, 12.0 * width + 6.0 * self.g + 1.0)
        for _ in range(3):
            x = centre + half * unit
            log_w = log_weight(x)[0]
            inside = log_w > log_w.amax(2, keepdim=True) - _DEPTH
            low = x.where(inside, math.inf).amin(2, keepdim=True)
            high = x.where(inside, -math.inf).amax(2, keepdim=True)
            spacing = 2.0 * half / (self.points - 1)
            centre, half = (low + high) / 2.0, (high - low) / 2.0 + spacing
        return centre + half * unit

    def energy(self, T: float, values: Tensor, second: float) -> float:
        """<E>/N = -d(log Z)/d(beta)/N at the saddle point."""
        Q, q, V, _ = values.tolist()
        g2 = self.g**2
        A = 1.0 / (T + g2 * (Q - q))
        tilted = A**2 * (second - 2.0 * A * g2 * q * V)
        return float(0.5 * T**2 * tilted + 0.5 * T * g2 * (A * Q - A**2 * g2 * q * (Q - q)))
