"""A vector field on flat states, and the description of one integration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State, check_same_form, flatten, leaves, unflatten
from driftwell.dynamics.laws import VectorField
from driftwell.integration.integrators.integrator import Integrator


@dataclass(frozen=True, eq=False)
class FlatField:
    """b(t, z, x) and s(t, z, x) for flat states (B, D) in float32 or wider.

    The field itself sees the state's own shapes and dtypes; t comes in the state's real dtype.
    """

    law: VectorField
    x: Any
    like: State

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """Drift b, (B, D)."""
        state = unflatten(z, self.like)
        value = self.law.drift(self._time(t), state, self.x)
        return flatten(check_same_form(value, state, "the drift")).to(z.dtype)

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Diagonal diffusion s, (B, D); for a complex entry, of both its parts."""
        state = unflatten(z, self.like)
        value = self.law.diffusion(self._time(t), state, self.x)
        if value is None:
            raise InvalidInput(
                "the diffusion was a tree at the start and None later; return zeros instead"
            )
        return flatten(check_same_form(value, state, "the diffusion")).to(z.dtype)

    def is_stochastic(self, t: Tensor, z: Tensor) -> bool:
        """Whether the field has a diffusion."""
        with torch.no_grad():
            return self.law.diffusion(self._time(t), unflatten(z, self.like), self.x) is not None

    def _time(self, t: Tensor) -> Tensor:
        return t.to(real_dtype(self.like))


@dataclass(frozen=True, eq=False)
class Course:
    """One integration: the field, the start, the times, the rule and the budget."""

    field: FlatField
    integrator: Integrator
    z0: Tensor
    ts: list[float]
    max_steps: int

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the state's real coordinates, which says what time steps it can resolve."""
        return real_dtype(self.field.like)

    def time(self, value: float) -> Tensor:
        """`value` for every sample, (B,), in float64 where the device has it."""
        z = self.z0
        wide = torch.float32 if z.device.type == "mps" else torch.float64
        return torch.full((z.shape[0],), value, dtype=wide, device=z.device)


@dataclass(frozen=True, eq=False)
class Travelled:
    """Flat states at every time, and what happened to each sample (B,)."""

    zs: list[Tensor]
    status: Tensor
    steps: Tensor
    rejected: Tensor


def real_dtype(z: State) -> torch.dtype:
    """Dtype of a time for the state `z`: the real counterpart of its first leaf's."""
    first = leaves(z)[0]
    return first.real.dtype if first.is_complex() else first.dtype
