"""How states settle: residuals evaluation by evaluation, Jacobians at rest, Lyapunov exponents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.noise import Purpose, normal
from driftwell.core.state import leaves
from driftwell.dynamics.linearization import jacobian_vector
from driftwell.fixed_points import Solver, fixed_point

Law = Callable[..., Tensor]


@final
@dataclass(frozen=True)
class ResidualTrace:
    """Relative residuals over the evaluations of the layer, quantiles over samples.

    Attributes:
        solver: its name.
        median: at evaluation 1, 2, ...
        low: the 10 % quantile.
        high: the largest.
    """

    solver: str
    median: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def reached(self, tol: float) -> int | None:
        """The first evaluation at which every sample is within the tolerance."""
        return next((i + 1 for i, value in enumerate(self.high) if value <= tol), None)


class _Recorder:
    """A law that notes the residual of every evaluation."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self.seen: list[Tensor] = []

    def __call__(self, z: Tensor, x: Any = None) -> Tensor:
        value = self.law(z, x)
        gap, size = ((t.double().flatten(1)).norm(dim=1) for t in (value - z, value))
        self.seen.append(gap / (size + 1e-30))
        return value


def residual_trace(law: Law, z0: Tensor, x: Any, solver: Solver, evaluations: int) -> ResidualTrace:
    """Residuals of a solver that is not stopped, (evaluations) by samples, as quantiles.

    Args:
        law: f(z, x).
        z0: start, (B, ...).
        x: input.
        solver: whose iterates they are.
        evaluations: how many.
    """
    recorder = _Recorder(law)
    with torch.no_grad():
        fixed_point(recorder, z0, x, solver=solver, tol=0.0, max_steps=evaluations, throw=False)
    seen = torch.stack(recorder.seen[:evaluations])
    # what later evaluations of rounding do is of no interest: the best so far is what is returned
    best = seen.cummin(0).values
    return ResidualTrace(
        type(solver).__name__,
        tuple(best.median(1).values.tolist()),
        tuple(best.quantile(0.1, dim=1).tolist()),
        tuple(best.max(1).values.tolist()),
    )


def jacobian_eigenvalues(law: Law, z: Tensor, x: Tensor) -> Tensor:
    """Eigenvalues of df/dz at states (B, D), complex (B, D), in float64."""

    def of_one(state: Tensor, given: Tensor) -> Tensor:
        return law(state[None], given[None])[0]

    jacobians = torch.func.vmap(torch.func.jacrev(of_one))(z, x)
    found: Tensor = torch.linalg.eigvals(jacobians.double())
    return found


def lyapunov_exponent(law: Law, z: Tensor, x: Any, steps: int = 200, seed: int = 0) -> Tensor:
    """Largest Lyapunov exponent of the iteration z <- f(z, x), per evaluation, (B,).

    lambda = lim 1/n log |J(z_n) ... J(z_1) v|; the first half of the steps lets v turn. At a
    fixed point it is the logarithm of the Jacobian's spectral radius.

    Args:
        law: f(z, x).
        z: start, (B, ...).
        x: input.
        steps: evaluations.
        seed: of the keyed tangent vectors v.

    Example:
        >>> turn = 0.5 * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> lyapunov_exponent(lambda z, x: z @ turn, torch.ones(1, 2), None).exp()
        tensor([0.5000], dtype=torch.float64)
    """
    v = normal(
        tuple(z.shape), seed=seed, purpose=Purpose.PROBE, chains=len(z), step=0, dtype=z.dtype
    ).to(z.device)
    total = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    with torch.no_grad():
        for step in range(steps):
            (pushed,) = leaves(jacobian_vector(lambda s: law(s, x), z, v))
            z = law(z, x)
            size = pushed.flatten(1).norm(dim=1)
            v = pushed / size.clamp(min=1e-30).reshape(-1, *[1] * (v.ndim - 1))
            if step >= steps // 2:
                total += size.double().clamp(min=1e-30).log()
    return total / (steps - steps // 2)
