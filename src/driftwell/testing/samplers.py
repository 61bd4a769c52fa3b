"""Conformance of samplers and energies: run these on your own."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from driftwell.core.state import State, leaves, norm, tree_map
from driftwell.dynamics import Energy, FunctionEnergy, as_energy
from driftwell.sampling import Sampler, sample
from driftwell.testing.conformance import require_that

SIGMAS = 5.0


def check_sampler(sampler: Sampler, *, bias: float = 0.0, steps: int = 600) -> None:
    """Conformance of a sampler: frozen value, keyed noise, continuation, clamps, equipartition.

    Args:
        sampler: with a step size that is stable for curvature 1 (or None).
        bias: relative bias allowed in the variance of a harmonic well, beyond `SIGMAS` standard
            errors; 0 for an exact sampler.
        steps: length of the run that measures the variance.

    Raises:
        ConformanceError: names the property that failed.

    Example:
        >>> import driftwell as dw
        >>> check_sampler(dw.MALA(0.3))
    """
    _is_frozen_value(sampler)
    _is_keyed(sampler)
    _keeps_clamps(sampler)
    _equipartitions(sampler, bias, steps)


def _rippled_well(z: Tensor) -> Tensor:
    """Curvature between 0 and 2 everywhere, so that no step below 1 can run away."""
    return (0.5 * z**2 + torch.cos(z)).sum(dim=1)


def _is_frozen_value(sampler: Sampler) -> None:
    name = type(sampler).__name__
    require_that(dataclasses.is_dataclass(sampler), f"{name} must be a dataclass")
    require_that(hash(sampler) == hash(copy.copy(sampler)), f"{name} must be hashable")
    require_that(sampler == copy.copy(sampler), f"{name} must compare by value")


def _is_keyed(sampler: Sampler) -> None:
    z0 = torch.linspace(-1, 1, 12).reshape(6, 2)
    whole = sample(_rippled_well, z0, steps=20, sampler=sampler, seed=3)
    resolved = whole.state.sampler
    part = sample(_rippled_well, z0[2:4], steps=20, sampler=resolved, seed=3, first_chain=2)
    same = torch.allclose(_tensor(part.z), _tensor(whole.z)[2:4], rtol=1e-4, atol=1e-5)
    require_that(same, "a chain must not depend on the batch it sits in")
    first = sample(_rippled_well, z0, steps=9, sampler=resolved, seed=3)
    second = sample(_rippled_well, first, steps=11)
    require_that(
        torch.equal(_tensor(second.z), _tensor(whole.z)),
        "9 steps and 11 more must be the same as 20: keep what cannot be recomputed in `store`",
    )
    require_that(bool(torch.isfinite(_tensor(whole.z)).all()), "states must stay finite")


def _keeps_clamps(sampler: Sampler) -> None:
    z0 = torch.linspace(-1, 1, 12).reshape(6, 2)
    mask = torch.tensor([True, False])
    z = _tensor(sample(_rippled_well, z0, steps=10, sampler=sampler, seed=3, clamp=mask).z)
    require_that(torch.equal(z[:, 0], z0[:, 0]), "clamped coordinates must keep their value")


def _equipartitions(sampler: Sampler, bias: float, steps: int) -> None:
    T, chains = 0.7, 2000
    well = FunctionEnergy(lambda z: 0.5 * (z**2).sum(dim=1), temperature=T)
    run = sample(
        well, torch.zeros(chains, 1, dtype=torch.float64), steps=steps, sampler=sampler, seed=1,
        warmup=steps // 3, keep=5,
    )  # fmt: skip
    if run.kept is None:
        return
    per_chain = _tensor(run.kept).square().mean(dim=(0, 2))
    error = float(per_chain.std()) / math.sqrt(chains)
    gap = abs(float(per_chain.mean()) - T)
    require_that(
        gap < SIGMAS * error + bias * T,
        f"the variance in a harmonic well must be T = {T}, got {float(per_chain.mean()):.4f} "
        f"+- {error:.4f}",
    )


def check_energy(
    law: Energy | Callable[..., Tensor], z: State, x: Any = None, *, tolerance: float = 1e-5
) -> None:
    """Conformance of an energy: one number per sample, rows independent, force = -dE/dz.

    Args:
        law: the energy or callable.
        z: float64 states to try it at, (B, ...), B >= 2.
        x: its input.
        tolerance: relative error allowed against central differences.

    Raises:
        ConformanceError: names the property that failed.

    Example:
        >>> check_energy(lambda z: (z**4).sum(dim=1), torch.ones(2, 3, dtype=torch.float64))
    """
    energy = as_energy(law)
    require_that(
        all(leaf.dtype == torch.float64 for leaf in leaves(z)),
        "check_energy compares with finite differences and needs float64 states",
    )
    value, force = energy.energy_and_force(z, x)
    alone = energy.energy_and_force(
        tree_map(lambda leaf: leaf[:1], z), None if x is None else tree_map(lambda u: u[:1], x)
    )[0]
    require_that(torch.allclose(alone, value[:1]), "E of a sample must not depend on the others")
    h = 1e-5
    for seed in range(3):
        v = tree_map(lambda leaf: torch.cos(17.0 * leaf + seed), z)  # noqa: B023
        up = energy.energy_and_force(tree_map(lambda a, b: a + h * b, z, v), x)[0]
        down = energy.energy_and_force(tree_map(lambda a, b: a - h * b, z, v), x)[0]
        slope = (up - down) / (2 * h)
        from_force = -sum(
            (f * w).reshape(f.shape[0], -1).sum(1)
            for f, w in zip(leaves(force), leaves(v), strict=True)
        )
        scale = (norm(force) * norm(v)).clamp_min(1e-8)
        require_that(
            bool(((slope - from_force).abs() / scale < tolerance).all()),
            "the force must be minus the gradient of the energy (central differences disagree)",
        )


def _tensor(z: State) -> Tensor:
    return leaves(z)[0]
