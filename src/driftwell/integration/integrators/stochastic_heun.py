"""The stochastic Heun scheme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.integration.integrators.integrator import Integrator, Law, Step


@final
@dataclass(frozen=True)
class StochasticHeun(Integrator):
    """Heun's scheme for SDEs, from Rümelin, *Numerical treatment of stochastic differential
    equations*, 1982, for the Stratonovich equation dz = b dt + s o dW with diagonal noise.

        y  = z + b(t, z) dt + s(t, z) dW
        z' = z + (b(t, z) + b(t + dt, y)) dt / 2 + (s(t, z) + s(t + dt, y)) dW / 2

    Strong order 1, weak order 1 (order 2 without noise). Beware: for s that depends on z, the
    same b and s mean another process than under Itô; b_ito = b_stratonovich + s ds/dz / 2.

    Example:
        >>> import torch, driftwell as dw
        >>> field = dw.dynamics.FunctionField(lambda t, z: 0.0 * z, lambda t, z: z)
        >>> grown = dw.integrate(field, torch.ones(2, 1), [0, 1], integrator=StochasticHeun(),
        ...                      step=dw.ConstantStep(2**-6), noise=dw.Brownian(seed=0))
        >>> bool((grown.z > 0).all())
        True
    """

    order: ClassVar[int] = 1
    strong_order: ClassVar[float | None] = 1.0
    interpretation: ClassVar[Literal["ito", "stratonovich"] | None] = "stratonovich"

    def step(
        self,
        law: Law,
        t: Tensor,
        z: Tensor,
        dt: Tensor,
        dw: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Step:
        """z + mean drift * dt + mean diffusion * dW."""
        if dw is None:
            raise InvalidInput("StochasticHeun() needs the Brownian increment dw of its step")
        h = dt.to(z.dtype)[:, None]
        drift = law.drift(t, z) if slope is None else slope
        noise = law.diffusion(t, z)
        ahead = z + drift * h + noise * dw
        drift = 0.5 * (drift + law.drift(t + dt, ahead))
        noise = 0.5 * (noise + law.diffusion(t + dt, ahead))
        return Step(z + drift * h + noise * dw)
