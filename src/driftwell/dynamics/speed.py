"""Speed energy of a vector field or map: half its squared speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.state import State, inner, leaves, rebuild, tree_map
from driftwell.dynamics.laws import Energy, VectorField, call, check_temperature

QIU_HUANG = Paper(
    key="qiu2025quasipotential",
    title="An optimization-based equilibrium measure describes non-equilibrium steady state "
    "dynamics: application to edge of chaos",
    authors="Qiu, Junbin and Huang, Haiping",
    year=2025,
    arxiv="2401.10009",
    venue="Communications in Theoretical Physics 77, 035601",
)


@final
class SpeedEnergy(Energy):
    """Speed (kinetic) energy of a field, from Qiu and Huang, *An optimization-based equilibrium
    measure describes non-equilibrium steady state dynamics*, 2025, arXiv:2401.10009.

    E(z) = 1/2 ||f(z)||^2 with f a vector field b(t, z, x) at fixed t, or, for a map
    (``of="map"``), its residual f(z) - z. The force is -Df(z)^T f(z), one vector-Jacobian
    product. exp(-E/T) concentrates on fixed points as T -> 0; minima with E > 0 are slow points,
    not fixed points.

    Args:
        law: `VectorField`, callable b(t, z[, x]), or a map f(z[, x]) (an `nn.Module` will do).
        of: ``"field"`` or ``"map"``.
        time: the fixed time t, in integration units.
        temperature: T, in units of squared speed.

    Example:
        >>> energy = SpeedEnergy(torch.tanh, of="map")
        >>> energy(torch.zeros(1, 3))
        tensor([0.])
    """

    papers = (QIU_HUANG,)

    def __init__(
        self,
        law: VectorField | Callable[..., State],
        *,
        of: str = "field",
        time: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if of not in ("field", "map"):
            raise InvalidInput(f"SpeedEnergy(of=...) must be 'field' or 'map', got {of!r}")
        self.law, self.of, self.time = law, of, time
        self.temperature = check_temperature(temperature)

    def velocity(self, z: State, x: Any = None) -> State:
        """f(z), a tree like z."""
        if self.of == "map":
            moved: State = call(self.law, z, x=x)
            return tree_map(torch.sub, moved, z)
        first = leaves(z)[0]
        t = torch.full((first.shape[0],), self.time, dtype=first.dtype, device=first.device)
        speed: State = call(self.law, t, z, x=x)
        return speed

    def energy(self, z: State, x: Any = None) -> Tensor:
        """E = 1/2 ||f(z)||^2, (B,)."""
        f = self.velocity(z, x)
        return 0.5 * inner(f, f).to(leaves(z)[0].real.dtype)

    def energy_and_force(self, z: State, x: Any = None) -> tuple[Tensor, State]:
        """E (B,) and F = -Df^T f by one vector-Jacobian product, both detached."""
        with torch.enable_grad():
            inputs = [leaf.detach().requires_grad_(True) for leaf in leaves(z)]
            f = leaves(self.velocity(rebuild(z, inputs), x))
            gradient = torch.autograd.grad(
                f, inputs, grad_outputs=[part.detach() for part in f], allow_unused=True
            )
        speed = [part.detach() for part in f]
        energy = 0.5 * inner(rebuild(z, speed), rebuild(z, speed)).to(inputs[0].real.dtype)
        force = [
            torch.zeros_like(leaf) if g is None else -g
            for leaf, g in zip(inputs, gradient, strict=True)
        ]
        return energy, rebuild(z, force)
