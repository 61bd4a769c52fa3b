"""Dormand and Prince's 5(4) pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from driftwell.core.papers import Paper
from driftwell.integration.integrators.integrator import Integrator, Law, Step
from driftwell.integration.integrators.runge_kutta import Tableau, explicit_step

DORMAND_PRINCE = Paper(
    key="dormand1980family",
    title="A family of embedded Runge-Kutta formulae",
    authors="Dormand, John R. and Prince, Peter J.",
    year=1980,
    venue="Journal of Computational and Applied Mathematics 6(1)",
    doi="10.1016/0771-050X(80)90013-3",
)

_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)

TABLEAU = Tableau(
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _B,
    ),
    b=(*_B, 0.0),
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    e=tuple(high - low for high, low in zip((*_B, 0.0), _FOURTH, strict=True)),
    first_same_as_last=True,
)


@final
@dataclass(frozen=True)
class DormandPrince(Integrator):
    """Runge-Kutta pair 5(4) with local extrapolation, from Dormand and Prince, *A family of
    embedded Runge-Kutta formulae*, 1980; order 5, with an embedded solution of order 4.

    Seven stages, of which the last is the first of the next step: six evaluations of the drift a
    step.

    Example:
        >>> import torch, driftwell as dw
        >>> flow = dw.integrate(lambda t, z: -z, torch.ones(1, 1), [0, 1],
        ...                     integrator=DormandPrince(), step=dw.AdaptiveStep(rtol=1e-6))
        >>> flow.z
        tensor([[0.3679]])
    """

    papers = (DORMAND_PRINCE,)

    order: ClassVar[int] = 5
    error_order: ClassVar[int | None] = 4

    def step(
        self,
        law: Law,
        t: Tensor,
        z: Tensor,
        dt: Tensor,
        dw: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Step:
        """z + dt sum_i b_i k_i, the error estimate, and the slope at its end."""
        return explicit_step(TABLEAU, law, t, z, dt, slope)
