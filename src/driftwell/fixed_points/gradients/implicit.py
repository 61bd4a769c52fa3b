"""Gradient by the implicit function theorem, correct to second order."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from driftwell.core.errors import DriftwellError, InvalidInput
from driftwell.core.papers import Paper
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.recorded import Again, record_lightly
from driftwell.fixed_points.gradients.transforms import run_transformed
from driftwell.fixed_points.gradients.unrecorded import (
    forward_mode,
    settle,
    sound_rows,
    transformed,
)
from driftwell.fixed_points.iteration import (
    Outcome,
    Problem,
    check_outcome,
    failure,
    iterate,
)
from driftwell.fixed_points.solvers.anderson import Anderson
from driftwell.fixed_points.solvers.solver import Solver

BAI_KOLTER_KOLTUN = Paper(
    key="bai2019deq",
    title="Deep Equilibrium Models",
    authors="Bai, Shaojie and Kolter, J. Zico and Koltun, Vladlen",
    year=2019,
    arxiv="1909.01377",
    venue="NeurIPS 2019",
)


@final
@dataclass(frozen=True)
class Implicit(Gradient):
    """Implicit gradient of a fixed point, as in Bai, Kolter and Koltun, *Deep Equilibrium
    Models*, 2019, arXiv:1909.01377, made correct to second order.

    For z* = f(z*, x) with J = df/dz at z* and an incoming gradient v, the adjoint g solves a
    fixed-point problem of its own, and is handed to one application of f:

        g = v + J^T g,        dL/dx = (df/dx)^T g

    Gradients reach x, the parameters of f and whatever else it captures; none reaches z0. Memory
    is that of one application of f, however many steps the solve took. Double backward is exact;
    a third derivative is refused. For a sample that did not converge there is no such gradient:
    with ``throw=False`` its g is that of a point that is not fixed, and zero if it diverged.

    In forward mode the tangent z' solves t = df/dx x' + J t in the same way. `torch.func`
    transforms compose, to any order in reverse mode and once in forward mode; vmap, and jacrev
    and jacfwd, which use it, need ``loop=FixedBudget()``, and then run all `max_steps` here too.

    Args:
        solver: any `Solver`, for the adjoint or the tangent.
        tol: tolerance on its relative residual, per sample.
        max_steps: products with the Jacobian that are allowed.

    Raises:
        InvalidInput: tol negative or max_steps below 1.
        NotConverged: in the backward pass, if the adjoint fails and the solve had
            ``throw=True``; with ``throw=False`` the sentence is a warning instead.

    Example:
        >>> import driftwell as dw
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> z = dw.fixed_point(lambda z, x: 0.5 * z + x, torch.zeros(1, 1), x).z
        >>> torch.autograd.grad(z.sum(), x)
        (tensor([[2.]]),)
    """

    papers = (BAI_KOLTER_KOLTUN,)

    solver: Solver = Anderson()
    tol: float = 1e-6
    max_steps: int = 100

    def __post_init__(self) -> None:
        if not self.tol >= 0.0:
            raise InvalidInput(f"Implicit(tol=...) must not be negative, got {self.tol}")
        if self.max_steps < 1:
            raise InvalidInput(f"Implicit(max_steps=...) must be at least 1, got {self.max_steps}")

    def run(self, problem: Problem) -> Outcome:
        """Solve without recording, then attach the implicit derivatives."""
        if transformed():
            return run_transformed(self, problem)
        if forward_mode():
            return self._run_forward(problem)
        return self._run_reverse(problem)

    def _run_reverse(self, problem: Problem) -> Outcome:
        outcome, differentiable = settle(problem)
        if not (differentiable and torch.is_grad_enabled()):
            return outcome
        return replace(outcome, z=self._attach(problem, outcome.z, sound_rows(outcome)))

    def _run_forward(self, problem: Problem) -> Outcome:
        """The same, then the tangent t = df/dx x' + J t of the dual numbers in f."""
        with forward_ad._set_fwd_grad_enabled(False):
            outcome = self._run_reverse(problem)
        z = outcome.z

        def tangent_map(t: Tensor, rows: Tensor | None = None) -> Tensor:
            with forward_ad._set_fwd_grad_enabled(True):
                y = problem.f(forward_ad.make_dual(z if rows is None else z[rows], t), rows)
                tangent = forward_ad.unpack_dual(y).tangent
            return torch.zeros_like(t) if tangent is None else tangent

        start = torch.zeros_like(z.detach())
        tangent = Problem(
            tangent_map, start, self.solver, self.tol, self.max_steps, throw=False, affine=True
        )
        with forward_ad._set_fwd_grad_enabled(False):
            found = self._run_reverse(tangent)
            _say_failure(found, "tangent", problem.throw)
            t = torch.where(sound_rows(outcome), found.z, 0.0)
        return replace(outcome, z=forward_ad.make_dual(z, t))

    def _attach(self, problem: Problem, z: Tensor, sound: Tensor) -> Tensor:
        """z* with its derivatives: z* once more, as a first-order function, inside f."""
        solve = _AdjointSolve(self, problem.throw, sound)

        # z1 is what makes double backward right: f is recorded at a point that itself knows
        # dz*/dx. A first backward sends exactly zero through it, so it costs an evaluation of f
        # now and one then, but no solve and no memory; only a second backward makes use of it.
        again = Again(problem.f, z)
        z1 = _resolve(_InnerAdjoint(again, solve), z, record_lightly(again), None)
        y = problem.f(z1)
        return _resolve(_OuterAdjoint(y, z1, solve), z, y, z1)


class _Resolve(torch.autograd.Function):
    """The value z, whose gradient v is turned into the adjoint g and handed to y = f(z).

    The gradient for z itself cancels, to the last bit, what f's graph sends there: -J^T g. The
    total is zero because g = v + J^T g makes z - f(z) = 0 insensitive to z; it is cancelled
    rather than cut so that second-order gradients, which arrive at the same place, pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        adjoint: Callable[[Tensor], tuple[Tensor | None, Tensor | None]],
        value: Tensor,
        y: Tensor,
        z: Tensor | None,
    ) -> Tensor:
        ctx.adjoint = adjoint
        return value.clone()

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[None, None, Tensor | None, Tensor | None]:
        g, cancel = ctx.adjoint(v)
        return None, None, g, cancel


def _resolve(
    adjoint: Callable[[Tensor], tuple[Tensor | None, Tensor | None]],
    value: Tensor,
    y: Tensor,
    z: Tensor | None,
) -> Tensor:
    result: Tensor = _Resolve.apply(adjoint, value, y, z)  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True)
class _AdjointSolve:
    """Solves g = v + J^T g for a given product with J^T, by the settings of `Implicit`."""

    settings: Implicit
    throw: bool
    sound: Tensor

    def __call__(self, product: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        v = torch.where(self.sound, v.detach(), 0.0)

        def adjoint_map(g: Tensor, rows: Tensor | None = None) -> Tensor:
            return v + product(g).detach()

        how = self.settings
        with torch.no_grad():
            problem = Problem(adjoint_map, v, how.solver, how.tol, how.max_steps, affine=True)
            outcome = iterate(problem)
        _say_failure(outcome, "adjoint", self.throw)
        return outcome.z


@dataclass(frozen=True, eq=False)
class _OuterAdjoint:
    """Adjoint at the recorded application y = f(z1); differentiable once more."""

    y: Tensor
    z: Tensor
    solve: _AdjointSolve

    def __call__(self, v: Tensor) -> tuple[Tensor, Tensor]:
        again = torch.is_grad_enabled()  # true under create_graph
        g = self.solve(lambda g: pull(self.y, self.z, g), v)
        if again:
            g = self._differentiable(g, v)
        return g, -pull(self.y, self.z, g, again)

    def _differentiable(self, g: Tensor, v: Tensor) -> Tensor:
        """g as a function of v, x and z1: the same trick, on h(g) = v + J^T g."""
        inside = g.detach().requires_grad_(True)
        v = torch.where(self.solve.sound, v, 0.0)
        h = v + pull(self.y, self.z, inside, True)

        def transposed(w: Tensor) -> tuple[Tensor, None]:
            _refuse_third(w)
            return self.solve(lambda u: pull(h, inside, u), w), None

        return _resolve(transposed, g, h, None)


@dataclass(frozen=True, eq=False)
class _InnerAdjoint:
    """Adjoint that only a second backward needs: f is recorded when that comes."""

    again: Again
    solve: _AdjointSolve

    def __call__(self, v: Tensor) -> tuple[Tensor | None, None]:
        if not bool(v.any()):
            return None, None
        _refuse_third(v)
        z, y = self.again(record_z=True)
        return self.solve(lambda g: pull(y, z, g), v), None


def pull(y: Tensor, z: Tensor, g: Tensor, create_graph: bool = False) -> Tensor:
    """J^T g of the recorded y = f(z), as one vector-Jacobian product; the record is kept."""
    if not y.requires_grad:
        return torch.zeros_like(g)
    (product,) = torch.autograd.grad(
        y, z, g, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return product


def _say_failure(outcome: Outcome, which: str, throw: bool) -> None:
    what = f"the {which} of the implicit gradient failed: "
    if throw:
        check_outcome(outcome, what)
    elif sentence := failure(outcome)[0]:
        warnings.warn(what + sentence, stacklevel=2)


def _refuse_third(v: Tensor) -> None:
    if torch.is_grad_enabled():
        raise DriftwellError(
            "Implicit() is exact to second order, and a third derivative was asked for; "
            "use gradient=Unrolled() with a small tol"
        )
