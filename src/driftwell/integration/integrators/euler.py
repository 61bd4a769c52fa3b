"""Euler's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from driftwell.integration.integrators.integrator import Integrator, Law, Step
from driftwell.integration.integrators.runge_kutta import Tableau, explicit_step

TABLEAU = Tableau(a=((),), b=(1.0,), c=(0.0,))


@final
@dataclass(frozen=True)
class Euler(Integrator):
    """Explicit Euler method, from Euler, *Institutiones calculi integralis*, 1768; order 1.

    z' = z + b(t, z) dt. One evaluation of the drift a step; no error estimate.

    Example:
        >>> import torch, driftwell as dw
        >>> step = dw.ConstantStep(0.5)
        >>> dw.integrate(lambda t, z: -z, torch.ones(1, 1), [0, 1], integrator=Euler(), step=step).z
        tensor([[0.2500]])
    """

    order: ClassVar[int] = 1

    def step(
        self,
        law: Law,
        t: Tensor,
        z: Tensor,
        dt: Tensor,
        dw: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Step:
        """z + b(t, z) dt."""
        return explicit_step(TABLEAU, law, t, z, dt, slope)
