"""Conversions between laws: small objects, so that one verb can serve another's law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State, leaves, tree_map
from driftwell.dynamics.laws import (
    Energy,
    Map,
    VectorField,
    as_energy,
    as_field,
    call,
    check_temperature,
)


@final
class ResidualField(VectorField):
    """Residual of a map as a field: dz/dt = f(z, x) - z; its rest points are f's fixed points.

    Example:
        >>> ResidualField(torch.cos)(torch.zeros(1), torch.zeros(1, 1))
        tensor([[1.]])
    """

    def __init__(self, f: Map | Callable[..., State]) -> None:
        super().__init__()
        self.f = f

    def drift(self, t: Tensor, z: State, x: Any = None) -> State:
        """f(z, x) - z."""
        return tree_map(torch.sub, call(self.f, z, x=x), z)


@final
class EulerMap(Map):
    """Euler step of a field as a map: f(z, x) = z + dt * b(t, z, x) at fixed t.

    Args:
        field: drift of an ODE.
        dt: step, in integration units; negative runs backwards.
        time: the fixed time t.
    """

    def __init__(
        self, field: VectorField | Callable[..., State], dt: float, time: float = 0.0
    ) -> None:
        super().__init__()
        self.field, self.dt, self.time = as_field(field), float(dt), float(time)

    def forward(self, z: State, x: Any = None) -> State:
        """z + dt * b(t, z, x)."""
        first = leaves(z)[0]
        t = torch.full((first.shape[0],), self.time, dtype=first.dtype, device=first.device)
        return tree_map(lambda u, b: u + self.dt * b, z, self.field.drift(t, z, x))


@final
class OverdampedField(VectorField):
    """Overdamped Langevin dynamics of an energy: dz = -dE/dz dt + sqrt(2 T) dW.

    Args:
        energy: the law; its temperature is used unless another is given.
        temperature: T in the energy's units; 0 gives the gradient flow.
    """

    def __init__(
        self, energy: Energy | Callable[..., Tensor], temperature: float | None = None
    ) -> None:
        super().__init__()
        self.law = as_energy(energy)
        if temperature is not None and temperature < 0:
            raise InvalidInput(f"a temperature must not be negative, got {temperature}")
        self.temperature = self.law.temperature if temperature is None else float(temperature)

    def drift(self, t: Tensor, z: State, x: Any = None) -> State:
        """The force -dE/dz."""
        return self.law.force(z, x)

    def diffusion(self, t: Tensor, z: State, x: Any = None) -> State | None:
        """sqrt(2 T) in every coordinate."""
        if self.temperature == 0.0:
            return None
        amplitude = (2.0 * check_temperature(self.temperature)) ** 0.5
        return tree_map(lambda u: torch.full_like(u, amplitude), z)
