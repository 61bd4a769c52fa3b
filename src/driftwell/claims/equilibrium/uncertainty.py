"""The speed energy of an equilibrium layer, sampled: how uncertain an equilibrium is."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal
from driftwell.dynamics.linearization import jacobian_vector
from driftwell.dynamics.speed import QIU_HUANG, SpeedEnergy
from driftwell.fixed_points import fixed_point
from driftwell.sampling import MALA, sample

D, CHAINS, STEPS = 4, 4000, 600
TEMPERATURE = 1e-6  # states move by 1e-3: what bends the layer shifts the covariance by as much
SIGMAS = 4.5  # ten entries are looked at; a right answer fails once in 15,000 runs


@lru_cache(maxsize=4)
def _sampled(seed: int) -> tuple[Tensor, Tensor]:
    """Jacobian of z = tanh(W z + x) at its equilibrium, and end states of chains around it."""
    W = 0.8 * _numbers(seed, 0, D, D) / D**0.5
    x = _numbers(seed, 1, 1, D)

    def layer(z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(z @ W.T + x)

    found = fixed_point(layer, torch.zeros_like(x), x, tol=1e-12).z
    if not isinstance(found, Tensor):
        raise TypeError("the state of this layer is one tensor")
    rows = found.expand(D, D).contiguous()
    columns = jacobian_vector(layer, rows, torch.eye(D, dtype=x.dtype), x.expand(D, D))
    energy = SpeedEnergy(layer, of="map", temperature=TEMPERATURE)
    start = found.expand(CHAINS, D).contiguous()
    chains = sample(energy, start, x.expand(CHAINS, D), steps=STEPS, sampler=MALA(), seed=seed)
    if not isinstance(chains.z, Tensor) or not isinstance(columns, Tensor):
        raise TypeError("the state of this layer is one tensor")
    return columns.T, chains.z - found


def _numbers(seed: int, step: int, rows: int, columns: int) -> Tensor:
    return normal(
        (rows, columns), seed=seed, purpose=Purpose.DATA, chains=rows, step=step,
        dtype=torch.float64,
    )  # fmt: skip


def _judge(seed: int, use_jacobian: bool) -> Outcome:
    J, deviations = _sampled(seed)
    eye = torch.eye(D, dtype=J.dtype)
    A = eye - J if use_jacobian else eye
    # With C = T (A^T A)^-1 the states A z / sqrt(T) are white.
    white = deviations @ A.T / TEMPERATURE**0.5
    gap = white.T @ white / CHAINS - eye
    error = (torch.ones(D, D, dtype=J.dtype) + eye).sqrt() / CHAINS**0.5
    worst = float((gap / error).abs().max())
    return Outcome(
        holds=worst < SIGMAS,
        measured={
            "worst entry of the covariance (standard errors)": worst,
            "largest relative deviation": float(gap.abs().max()),
            "asymmetry of J": float((J - J.T).norm() / (2.0 * J.norm())),
        },
        bound=f"every entry of the whitened covariance within {SIGMAS} standard errors of I",
    )


@claim(
    id="deq-uncertainty",
    paper=QIU_HUANG,
    states="Langevin chains of the speed energy |f(z) - z|^2 / 2 around the equilibrium of a layer "
    "with an asymmetric Jacobian J have the covariance T (A^T A)^-1, A = I - J.",
    stated="exp(-E/T) concentrates on fixed points as T falls; the covariance is derived here",
    cpu_minutes=0.1,
    control=lambda seed: _judge(seed, use_jacobian=False),
    control_is="the Jacobian is left out: C = T I",
    fast=True,
)
def uncertainty(seed: int) -> Outcome:
    """Chains around an equilibrium against the linear answer."""
    return _judge(seed, use_jacobian=True)
