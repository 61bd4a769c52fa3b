"""Gradient that shares the forward solve's estimate of the inverse Jacobian."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import DriftwellError, InvalidInput
from driftwell.core.papers import Paper
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.recorded import Again
from driftwell.fixed_points.gradients.unrecorded import (
    forward_mode,
    settle,
    sound_rows,
    transformed,
    with_derivatives_of,
)
from driftwell.fixed_points.iteration import (
    Outcome,
    Problem,
    RunningMap,
    iterate,
)
from driftwell.fixed_points.residual import work_dtype
from driftwell.fixed_points.solvers.anderson import Anderson
from driftwell.fixed_points.solvers.broyden import Broyden, LowRank
from driftwell.fixed_points.solvers.solver import Solver

RAMZI = Paper(
    key="ramzi2022shine",
    title="SHINE: SHaring the INverse Estimate from the forward pass for bi-level optimization "
    "and implicit models",
    authors="Ramzi, Zaccharie and Mannel, Florian and Bai, Shaojie and Starck, Jean-Luc and "
    "Ciuciu, Philippe and Moreau, Thomas",
    year=2022,
    arxiv="2106.00553",
    venue="ICLR 2022",
)


@final
@dataclass(frozen=True)
class SHINE(Gradient):
    """Gradient by the shared inverse estimate, from Ramzi et al., *SHINE: SHaring the INverse
    Estimate from the forward pass for bi-level optimization and implicit models*, 2022,
    arXiv:2106.00553.

    Broyden's forward solve leaves an estimate H of (J - I)^{-1}, the inverse Jacobian of the
    residual f(z) - z. The adjoint of an incoming gradient v is then a product instead of a solve,

        g = -H^T v,        dL/dx = (df/dx)^T g,

    H knows the directions in which the solve moved and is -I in all others, so that g is biased,
    towards the Jacobian-free gradient of `OneStep`; where f is nearly critical the estimate can be
    worse than that, and the fallback is needed. On 64 tanh neurons and random v the cosine of
    dL/dx to the exact one is, on average over the samples (python bench/fixed_point_solvers.py):

        dL/dz -> dL/dx      W i.i.d., .9   W >= 0, |W| = .5   .9     .97
        OneStep                 .84              .99          .85    .76
        SHINE, no fallback      .87              .98          .40    .41
        SHINE                   .87              .98          .84    .76
        SHINE, refine=3        1.00             1.00          .99    .94

    `refine` spends vector-Jacobian products on it. Double backward, forward mode and `torch.func`
    transforms are refused.

    Args:
        refine: Anderson steps on the adjoint g = v + J^T g from there, at least 0; they cost one
            vector-Jacobian product each, and one more.
        fallback: a sample with |g| > fallback |v| takes g = v instead, as the paper proposes
            where the estimate is not to be trusted; None never does.

    Raises:
        InvalidInput: refine negative, fallback not positive, or a solve whose solver is not
            `Broyden`.

    Example:
        >>> import driftwell as dw
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> z = dw.fixed_point(lambda z, x: 0.5 * z + x, torch.zeros(1, 1), x,
        ...                    solver=Broyden(), gradient=SHINE(fallback=None)).z
        >>> torch.autograd.grad(z.sum(), x)
        (tensor([[2.]]),)
    """

    papers = (RAMZI,)

    refine: int = 0
    fallback: float | None = 1.3

    def __post_init__(self) -> None:
        if self.refine < 0:
            raise InvalidInput(f"SHINE(refine=...) must not be negative, got {self.refine}")
        if self.fallback is not None and not self.fallback > 0.0:
            raise InvalidInput(f"SHINE(fallback=...) must be positive or None, got {self.fallback}")

    def run(self, problem: Problem) -> Outcome:
        """Solve without recording, keep H, and record one application of f."""
        if not isinstance(problem.solver, Broyden):
            raise InvalidInput(
                "SHINE() shares the inverse Jacobian that solver=Broyden() estimates, got "
                f"solver={problem.solver}; use gradient=Implicit() with other solvers"
            )
        if transformed() or forward_mode():
            raise DriftwellError(
                "SHINE() is for reverse mode outside of torch.func; use gradient=Implicit()"
            )
        witness = _Witness(problem.solver)
        # rows must stay where they are for H to belong to them
        outcome, differentiable = settle(replace(problem, solver=witness, compact=False))
        if not (differentiable and torch.is_grad_enabled()):
            return outcome
        y = problem.f(outcome.z)
        again = Again(problem.f, outcome.z)
        y.register_hook(_Adjoint(self, witness.carry, again, sound_rows(outcome)))
        return with_derivatives_of(y, outcome)


class _Witness(Solver):
    """Broyden's steps, of which the last carry is remembered."""

    def __init__(self, solver: Broyden) -> None:
        self._solver = solver
        self.carry: Any = ()

    def init(self, z: Tensor) -> LowRank:
        self.carry = self._solver.init(z)
        return self.carry  # type: ignore[no-any-return]

    def step(self, z: Tensor, fz: Tensor, carry: LowRank, f: RunningMap) -> tuple[Tensor, LowRank]:
        after, self.carry = self._solver.step(z, fz, carry, f)
        return after, self.carry


@dataclass(frozen=True, eq=False)
class _Adjoint:
    """Turns v, as it arrives at y = f(z*), into g."""

    settings: SHINE
    H: LowRank
    again: Again
    sound: Tensor

    def __call__(self, v: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise DriftwellError(
                "SHINE() has no second derivatives; use gradient=Implicit(), which has"
            )
        wide = torch.where(self.sound, v, 0.0).to(work_dtype(v.dtype))
        g = -self._turned(wide)
        if self.settings.fallback is not None:
            most = self.settings.fallback * torch.linalg.vector_norm(wide, dim=1, keepdim=True)
            g = torch.where(torch.linalg.vector_norm(g, dim=1, keepdim=True) > most, wide, g)
        return self._refined(g, wide, v.dtype).to(v.dtype)

    def _refined(self, g: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
        if self.settings.refine == 0:
            return g
        z, y = self.again(record_z=True)

        def adjoint_map(g: Tensor, rows: Tensor | None = None) -> Tensor:
            (product,) = torch.autograd.grad(
                y, z, g.to(dtype), retain_graph=True, materialize_grads=True
            )
            return v + torch.where(self.sound, product, 0.0).to(v.dtype)

        steps = self.settings.refine + 1
        return iterate(Problem(adjoint_map, g, Anderson(), tol=0.0, max_steps=steps)).z

    def _turned(self, w: Tensor) -> Tensor:
        """H^T w of rows (B, D)."""
        return self.H.apply_transposed(w[:, None])[:, 0]
