"""Heun's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from driftwell.integration.integrators.integrator import Integrator, Law, Step
from driftwell.integration.integrators.runge_kutta import Tableau, explicit_step

TABLEAU = Tableau(a=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 1.0), e=(-0.5, 0.5))


@final
@dataclass(frozen=True)
class Heun(Integrator):
    """Heun's explicit trapezoidal method, from Heun, *Neue Methoden zur approximativen
    Integration der Differentialgleichungen*, 1900; order 2, with Euler's step embedded.

        k1 = b(t, z),   k2 = b(t + dt, z + k1 dt),   z' = z + (k1 + k2) dt / 2

    Two evaluations of the drift a step; error estimate (k2 - k1) dt / 2.

    Example:
        >>> import torch, driftwell as dw
        >>> step = dw.ConstantStep(0.5)
        >>> dw.integrate(lambda t, z: -z, torch.ones(1, 1), [0, 1], integrator=Heun(), step=step).z
        tensor([[0.3906]])
    """

    order: ClassVar[int] = 2
    error_order: ClassVar[int | None] = 1

    def step(
        self,
        law: Law,
        t: Tensor,
        z: Tensor,
        dt: Tensor,
        dw: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Step:
        """z + (k1 + k2) dt / 2."""
        return explicit_step(TABLEAU, law, t, z, dt, slope)
