"""The classical Runge-Kutta method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from driftwell.integration.integrators.integrator import Integrator, Law, Step
from driftwell.integration.integrators.runge_kutta import Tableau, explicit_step

TABLEAU = Tableau(
    a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 0.5, 0.5, 1.0),
)


@final
@dataclass(frozen=True)
class RK4(Integrator):
    """Classical Runge-Kutta method, from Kutta, *Beitrag zur näherungsweisen Integration totaler
    Differentialgleichungen*, 1901; order 4.

    z' = z + (k1 + 2 k2 + 2 k3 + k4) dt / 6. Four evaluations of the drift a step; no error
    estimate.

    Example:
        >>> import torch, driftwell as dw
        >>> step = dw.ConstantStep(0.5)
        >>> dw.integrate(lambda t, z: -z, torch.ones(1, 1), [0, 1], integrator=RK4(), step=step).z
        tensor([[0.3682]])
    """

    order: ClassVar[int] = 4

    def step(
        self,
        law: Law,
        t: Tensor,
        z: Tensor,
        dt: Tensor,
        dw: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Step:
        """z + (k1 + 2 k2 + 2 k3 + k4) dt / 6."""
        return explicit_step(TABLEAU, law, t, z, dt, slope)
