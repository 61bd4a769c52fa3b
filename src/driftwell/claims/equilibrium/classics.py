"""Claims on classic equilibrium models: retrieval in one update, and limits of neural ODEs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import driftwell as dw
from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal, uniform
from driftwell.core.state import leaves
from driftwell.dynamics import VectorField
from driftwell.fixed_points import Implicit
from driftwell.models.equilibrium.hopfield import HOPFIELD, HopfieldEnergy, HopfieldUpdate
from driftwell.models.equilibrium.steady_state import CONTINUOUS_DEQ, SteadyState

_D, _N, _DISTANCE, _BETA = 64, 256, 0.5, 0.5


def _draw(*shape: int, seed: int, step: int) -> Tensor:
    return normal(
        shape, seed=seed, purpose=Purpose.DATA, chains=shape[0], step=step, dtype=torch.float64
    )


def _patterns(seed: int) -> Tensor:
    """N = 4 D patterns of random signs: thirty times what a classical network holds."""
    draws = uniform(
        (_N, _D), seed=seed, purpose=Purpose.DATA, chains=_N, step=0, dtype=torch.float64
    )
    return torch.where(draws < 0.5, -1.0, 1.0).double()


def _retrieval(seed: int, rule: Callable[[Tensor, HopfieldUpdate], Tensor]) -> Outcome:
    X = _patterns(seed)
    update, law = HopfieldUpdate(X, beta=_BETA), HopfieldEnergy(X, beta=_BETA)
    noise = _draw(_N, _D, seed=seed, step=1)
    noise = _DISTANCE * noise / noise.norm(dim=1, keepdim=True)
    error = (rule(X + noise, update) - X).norm(dim=1)
    bound = update.error_bound(torch.full((_N,), _DISTANCE, dtype=X.dtype))
    z, rise = 2.0 * _draw(_N, _D, seed=seed, step=2), -torch.inf
    for _ in range(30):
        after = rule(z, update)
        rise = max(rise, float((law(after) - law(z)).max()))
        z = after
    # In float64 the bound itself is below rounding for the best separated patterns.
    within = bool((error <= bound + 1e-12).all())
    return Outcome(
        holds=within and rise <= 1e-9 and float(error.median()) <= 1e-3,
        measured={
            "median error of one update": float(error.median()),
            "largest error": float(error.max()),
            "median bound": float(bound.median()),
            "largest error / bound": float((error / (bound + 1e-12)).max()),
            "largest rise of the energy": rise,
        },
        bound=f"for {_N} patterns of {_D} signs, queries at distance {_DISTANCE}, beta {_BETA}: "
        "every |f(z) - x_i| <= 2 M (N-1) exp(-beta (D_i - 2 M |z - x_i|)), the median <= 1e-3; "
        "from random states no update in 30 raises the energy by more than 1e-9",
    )


def _hebb(z: Tensor, update: HopfieldUpdate) -> Tensor:
    return torch.sign(z @ update.X.T @ update.X)


def _classical(seed: int) -> Outcome:
    return _retrieval(seed, _hebb)


@claim(
    id="hopfield-one-update",
    paper=HOPFIELD,
    states="with softmax in its update a Hopfield network holds more patterns than it has neurons, "
    "retrieves one in a single update with an error exponentially small in its separation, and "
    "never raises its energy",
    stated="paper, theorems 1, 4 and 5, and the retrieval error bound 2 (N-1) exp(-beta (D_i - 2 "
    "max(..) M)) M; the classical network fails beyond N = 0.138 D. beta = 0.5: at 1 the "
    "bound was 7e-12 and proved little",
    cpu_minutes=0.01,
    control=_classical,
    control_is="the classical network's sign(X^T X z) with the same patterns and queries",
    fast=True,
)
def one_update(seed: int) -> Outcome:
    """One update against its error bound, and the descent of the energy."""
    return _retrieval(seed, lambda z, update: leaves(update(z))[0])


class _Rates(VectorField):
    """A rate network b = -z + tanh(W z + x) with couplings of strength 0.8."""

    def __init__(self, seed: int, size: int = 64) -> None:
        super().__init__()
        self.W = torch.nn.Parameter(0.8 / size**0.5 * _draw(size, size, seed=seed, step=3))

    def drift(self, t: Tensor, z: Any, x: Any = None) -> Tensor:
        b: Tensor = torch.tanh(z @ self.W.T + x) - z
        return b


def _counted(field: _Rates) -> tuple[Callable[..., Tensor], list[int]]:
    calls = [0]

    def drift(t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        calls[0] += 1
        return field.drift(t, z, x)

    return drift, calls


def _limit(seed: int, time: float) -> Outcome:
    """Steady state and gradient by a fixed-point solve, against the flow at `time`."""
    field, start = _Rates(seed), torch.zeros(16, 64, dtype=torch.float64)
    found: list[tuple[Tensor, ...]] = []
    spent: list[int] = []
    for route in ("rest", "flow"):
        x = _draw(16, 64, seed=seed, step=4).requires_grad_(True)
        drift, calls = _counted(field)
        if route == "rest":
            settle = SteadyState(drift, tol=1e-9, gradient=Implicit(tol=1e-9))
            z = leaves(settle(start, x, throw=True).z)[0]
        else:
            step, ts = dw.AdaptiveStep(1e-8, 1e-10), [0.0, time]
            flow = dw.integrate(drift, start, ts, x, integrator=dw.DormandPrince(), step=step)
            z = leaves(flow.z)[0]
        spent.append(calls[0])
        found.append((z.detach(), *torch.autograd.grad(z.pow(2).sum(), (x, field.W))))
    gaps = [float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True)]
    return Outcome(
        holds=max(gaps) <= 1e-6 and spent[1] >= 2 * spent[0],
        measured={
            "gap of the state": gaps[0],
            "gap of dL/dx": gaps[1],
            "gap of dL/dW": gaps[2],
            "forward evaluations at rest": float(spent[0]),
            "forward evaluations in time": float(spent[1]),
        },
        bound=f"state, dL/dx and dL/dW of the rest point within 1e-6 of those of the flow at t = "
        f"{time:g}; the flow takes at least twice the evaluations forward",
    )


def _too_early(seed: int) -> Outcome:
    return _limit(seed, 4.0)


@claim(
    id="steady-state-limit",
    paper=CONTINUOUS_DEQ,
    states="a neural ODE integrated to infinity and the fixed point of its field are the same "
    "model: same state, same gradients; the fixed point costs fewer evaluations",
    stated="paper: an infinite-time neural ODE is an equilibrium model, its gradient that of the "
    "steady state, and training takes a fraction of the time",
    cpu_minutes=0.03,
    control=_too_early,
    control_is="the flow stopped at t = 4, before it rests",
    fast=True,
)
def steady_state(seed: int) -> Outcome:
    """A rate network at rest, by solving and by integrating to t = 80."""
    return _limit(seed, 80.0)
