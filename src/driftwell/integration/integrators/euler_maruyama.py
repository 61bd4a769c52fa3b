"""The Euler-Maruyama scheme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.integration.integrators.integrator import Integrator, Law, Step


@final
@dataclass(frozen=True)
class EulerMaruyama(Integrator):
    """Euler-Maruyama scheme, from Maruyama, *Continuous Markov processes and stochastic
    equations*, 1955, for the Itô equation dz = b dt + s dW with diagonal noise.

    z' = z + b(t, z) dt + s(t, z) dW. Strong order 1/2 (1 if s does not depend on z), weak
    order 1; one evaluation of drift and diffusion a step.

    Example:
        >>> import torch, driftwell as dw
        >>> walk = dw.integrate(
        ...     dw.dynamics.OverdampedField(lambda z: 0.5 * (z**2).sum(1)), torch.zeros(2, 1),
        ...     [0, 1], integrator=EulerMaruyama(), step=dw.ConstantStep(0.25),
        ...     noise=dw.Brownian(seed=0))
        >>> walk.z.shape
        torch.Size([2, 1])
    """

    order: ClassVar[int] = 1
    strong_order: ClassVar[float | None] = 0.5
    interpretation: ClassVar[Literal["ito", "stratonovich"] | None] = "ito"

    def step(
        self,
        law: Law,
        t: Tensor,
        z: Tensor,
        dt: Tensor,
        dw: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Step:
        """z + b dt + s dW."""
        if dw is None:
            raise InvalidInput("EulerMaruyama() needs the Brownian increment dw of its step")
        drift = law.drift(t, z) if slope is None else slope
        return Step(z + drift * dt.to(z.dtype)[:, None] + law.diffusion(t, z) * dw)
