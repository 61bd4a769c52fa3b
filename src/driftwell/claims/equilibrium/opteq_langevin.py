"""Claim on OptEq: its equilibrium is the cold limit of a Gibbs law that Langevin chains sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.claims.langevin.digit_machines import chain_mean
from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal
from driftwell.core.state import leaves
from driftwell.models.equilibrium.opteq import OPTEQ, OptEqEnergy, OptEqLayer
from driftwell.models.equilibrium.primitives import Identity, Integrable, ReLU, Tanh
from driftwell.sampling import Langevin, sample

# A comparison that is right fails once in 150,000; a run makes 32.
_SIGMAS = 4.5
_CHAINS, _DT, _TIME = 2048, 0.1, 60.0


@final
@dataclass(frozen=True)
class _Negated(Integrable):
    """-s: the sign error that turns E into 1/2 |z|^2 + sum S."""

    s: Integrable

    def value(self, u: Tensor) -> Tensor:
        return -self.s.value(u)

    def primitive(self, u: Tensor) -> Tensor:
        return -self.s.primitive(u)

    def slope(self, u: Tensor) -> Tensor:
        return -self.s.slope(u)


def _layer(d: int, s: Integrable, seed: int) -> OptEqLayer:
    layer = OptEqLayer(2, d, d + 2, s, 0.9, seed=seed, dtype=torch.float64).eval()
    with torch.no_grad():
        layer.W0.mul_(2.0)  # so that |W| is the bound, 0.9
    return layer


def _input(seed: int, samples: int) -> Tensor:
    row = normal((1, 2), seed=seed, purpose=Purpose.PROBE, chains=1, step=0, dtype=torch.float64)
    return row.expand(samples, -1)


def _settled(layer: OptEqLayer, x: Tensor) -> Tensor:
    return leaves(layer.equilibrium(x, tol=1e-12, max_steps=1000).z)[0].detach()


def _chains(layer: OptEqLayer, temperature: float, negated: bool, seed: int) -> Tensor:
    """Kept states (K, B, d) of chains that start at the equilibrium."""
    law, x = layer.energy_law(temperature), _input(seed, _CHAINS)
    if negated:
        law = OptEqEnergy(law.W, law.U, law.b, _Negated(layer.activation), temperature)
    start = _settled(layer, x[:1]).expand(_CHAINS, -1)
    steps = round(_TIME / _DT)
    run = sample(
        law, start, x, steps=steps, sampler=Langevin(_DT), seed=seed, warmup=steps // 2, keep=10,
        diagnostics=False,
    )  # fmt: skip
    return torch.empty(0) if run.kept is None else leaves(run.kept)[0]


def _deviations(records: Tensor, exact: Tensor) -> float:
    """Largest deviation of the means of records (K, B, n) from `exact` (n,), in their errors."""
    worst = 0.0
    for i in range(records.shape[2]):
        mean, error = chain_mean(records[..., i])
        worst = max(worst, abs(mean - float(exact[i])) / error)
    return worst


def _covariance_score(s: Integrable, temperature: float, negated: bool, seed: int) -> float:
    """Covariance around the equilibrium against T (I - W^T s' W)^-1, in standard errors."""
    layer = _layer(4, s, seed)
    law, x = layer.energy_law(temperature), _input(seed, 1)
    centre = _settled(layer, x)
    basis = torch.eye(4, dtype=torch.float64)
    hessian = leaves(law.hessian_vector(centre.expand(4, -1), basis, x.expand(4, -1)))[0]
    away = _chains(layer, temperature, negated, seed) - centre
    rows, columns = torch.triu_indices(4, 4)
    products = away[..., rows] * away[..., columns]
    return _deviations(products, temperature * torch.linalg.inv(hessian)[rows, columns])


def _quadrature_score(s: Integrable, negated: bool, seed: int) -> float:
    """Moments and energy of two units at T = 0.5 against quadrature, in standard errors."""
    temperature, layer = 0.5, _layer(2, s, seed)
    law, x = layer.energy_law(temperature), _input(seed, 1)
    axis = torch.linspace(-14.0, 14.0, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    weight = torch.softmax(-law.energy(grid, x.expand(len(grid), -1)).detach() / temperature, 0)

    def observables(z: Tensor) -> Tensor:
        flat = z.reshape(-1, 2)
        e = law.energy(flat, x.expand(len(flat), -1)).detach()
        z1, z2 = flat[:, 0], flat[:, 1]
        found = torch.stack([z1, z2, z1 * z1, z2 * z2, z1 * z2, e], dim=1)
        return found.reshape(*z.shape[:-1], 6)

    exact = (weight[:, None] * observables(grid)).sum(0)
    return _deviations(observables(_chains(layer, temperature, negated, seed)), exact)


def _judge(negated: bool, seed: int) -> Outcome:
    measured = {
        "covariance, linear, T = 0.3": _covariance_score(Identity(), 0.3, negated, seed),
        "covariance, tanh, T = 1e-4": _covariance_score(Tanh(), 1e-4, negated, seed),
        "quadrature, tanh, T = 0.5": _quadrature_score(Tanh(), negated, seed),
        "quadrature, ReLU, T = 0.5": _quadrature_score(ReLU(), negated, seed),
    }
    return Outcome(
        holds=max(measured.values()) <= _SIGMAS,
        measured=measured,
        bound=f"every covariance within {_SIGMAS} standard errors of T (I - W^T s' W)^-1, every "
        "mean of z, z z^T and E of two units within as many of quadrature",
    )


def _wrong_sign(seed: int) -> Outcome:
    return _judge(True, seed)


@claim(
    id="opteq-langevin",
    paper=OPTEQ,
    states="the energy an OptEq layer descends is a Gibbs energy: chains of exp(-E / T) fluctuate "
    "about the equilibrium with covariance T (I - W^T s' W)^-1",
    stated="our bridge from equilibria to sampling; exact for linear s, and as T -> 0 for any",
    cpu_minutes=1.0,
    control=_wrong_sign,
    control_is="the sign of the second term of E reversed",
)
def langevin(seed: int) -> Outcome:
    """Langevin chains about the equilibrium, against linear response and quadrature."""
    return _judge(False, seed)
