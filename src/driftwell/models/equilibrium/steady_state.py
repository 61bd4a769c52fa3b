"""The state in which a neural ODE comes to rest, without integrating it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.results import FixedPoint
from driftwell.core.state import State, flatten, unflatten
from driftwell.dynamics import EulerMap
from driftwell.dynamics.laws import VectorField
from driftwell.dynamics.linearization import jacobian_vector
from driftwell.fixed_points import Anderson, Gradient, Implicit, Solver, fixed_point

CONTINUOUS_DEQ = Paper(
    key="pal2022continuous",
    title="Continuous Deep Equilibrium Models: Training Neural ODEs Faster by Integrating Them "
    "to Infinity",
    authors="Pal, Avik and Edelman, Alan and Rackauckas, Christopher",
    year=2022,
    arxiv="2201.12240",
)


@final
class SteadyState(nn.Module):
    """Steady state of an autonomous field, after Pal, Edelman and Rackauckas, *Continuous Deep
    Equilibrium Models*, 2022, arXiv:2201.12240.

    Where dz/dt = b(z, x) comes to rest, b(z*, x) = 0, is where an Euler step stands still:

        f(z, x) = z + dt b(z, x),     z* = f(z*, x) = lim z(t), t -> inf

    for every dt. A fixed-point solver gets there in far fewer evaluations than time does, and the
    implicit gradient is that of the limit, dz*/dx = -(db/dz)^-1 db/dx, in constant memory. But
    a solver may also stop where the flow does not: at an unstable rest point. `growth_rate` tells:
    z* attracts if and only if it is negative.

    Args:
        field: drift b of an ODE that does not depend on t, or a `VectorField`.
        dt: of the Euler step, positive; the best is near 1 / (the fastest rate of the field). It
            also sets what `tol` means: dt |b| <= tol |z + dt b|.
        solver: of the fixed point.
        gradient: how derivatives pass through the solve.
        tol: relative tolerance.
        max_steps: evaluations of the field that are allowed.

    Raises:
        InvalidInput: a dt that is not positive.

    Example:
        >>> decay = SteadyState(lambda t, z, x: x - z)
        >>> found = decay(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        >>> found.z, decay.growth_rate(found.z, torch.tensor([[3.0, 4.0]]))
        (tensor([[3., 4.]]), tensor([-1.]))
    """

    papers = (CONTINUOUS_DEQ,)

    def __init__(
        self,
        field: VectorField | Callable[..., State],
        *,
        dt: float = 1.0,
        solver: Solver = Anderson(),
        gradient: Gradient = Implicit(tol=1e-5),
        tol: float = 1e-5,
        max_steps: int = 200,
    ) -> None:
        super().__init__()
        if not 0.0 < dt < float("inf"):
            raise InvalidInput(f"dt must be positive and finite, got {dt}")
        self.step = EulerMap(field, dt)
        self.solver, self.gradient, self.tol, self.max_steps = solver, gradient, tol, max_steps

    def forward(self, z0: State, x: Any = None, *, throw: bool = False) -> FixedPoint:
        """Rest points reached from `z0` (B, ...) under the input `x`.

        Args:
            z0: start; with several rest points it decides which one is found, though not always
                the one that the flow itself would reach.
            x: input of the field.
            throw: raise if a sample does not come to rest; otherwise its status says so.
        """
        return fixed_point(
            self.step, z0, x, solver=self.solver, gradient=self.gradient, tol=self.tol,
            max_steps=self.max_steps, throw=throw,
        )  # fmt: skip

    def growth_rate(self, z: State, x: Any = None) -> Tensor:
        """Largest real part of the eigenvalues of db/dz per sample, (B,), per unit of time.

        Near z* a deviation grows or decays like exp(rate t). Exact and dense: meant for states of
        up to some hundred entries.
        """
        flat = flatten(z).detach()
        samples, size = flat.shape
        t = torch.zeros(samples, dtype=flat.dtype, device=flat.device)

        def drift(state: State, *rest: Any) -> State:
            return self.step.field.drift(t, state, *rest)

        columns = []
        for direction in torch.eye(size, dtype=flat.dtype, device=flat.device):
            v = unflatten(direction.expand(samples, -1), z)
            columns.append(flatten(jacobian_vector(drift, unflatten(flat, z), v, x)))
        J = torch.stack(columns, dim=2).detach()
        rate: Tensor = torch.linalg.eigvals(J).real.amax(dim=1)
        return rate
