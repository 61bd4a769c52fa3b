"""The implicit gradient under `torch.func`: a solve as a function of all its tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.status import Status
from driftwell.fixed_points.gradients.captures import Captured
from driftwell.fixed_points.iteration import Outcome, Problem, check_outcome, failure, iterate
from driftwell.fixed_points.solvers.solver import Solver

Tensors = Sequence[Tensor]


class LinearSolve(Protocol):
    """How adjoints and tangents are solved: what `Implicit` holds."""

    @property
    def solver(self) -> Solver:
        """Rule for the next iterate."""
        ...

    @property
    def tol(self) -> float:
        """Relative tolerance."""
        ...

    @property
    def max_steps(self) -> int:
        """Products that are allowed."""
        ...


def run_transformed(how: LinearSolve, problem: Problem) -> Outcome:
    """Outcome of `problem` with implicit derivatives of every kind and order.

    z, given the captured tensors c, solves z = f(z, c). Its adjoint and its tangent

        g = v + (df/dz)^T g            dL/dc = (df/dc)^T g
        t = df/dc c' + (df/dz) t       z' = t

    are fixed-point problems of the same kind, with v or c' among what they capture, and are
    solved by the same function: so it composes with itself.

    Raises:
        InvalidInput: a setting that cannot be used within a transform, an f whose operations
            cannot be followed, or forward mode of forward mode.
    """
    if problem.compact:
        raise InvalidInput(
            "compact=True cannot be used within torch.func transforms; use compact=False"
        )
    f = Captured(problem.f, problem.z0.detach())
    task = _Task(f, replace(problem, law=None, x=None), how)
    z, report = _solve(task, problem.z0.detach(), f.tensors)
    residual, steps, status = report.detach().unbind(dim=1)
    return Outcome(z, residual, steps.to(torch.int64), status.to(torch.int8))


@dataclass(frozen=True, eq=False)
class _Task:
    """A solve whose map is f(z, c): all but the start and c."""

    f: Callable[[Tensor, Tensors], Tensor]
    settings: Problem
    how: LinearSolve
    what: str = ""

    def __call__(self, z0: Tensor, captured: Tensors) -> Outcome:
        if self.settings.loop.reads_values and any(map(_batched, (z0, *captured))):
            raise InvalidInput(
                f"{self.what or 'the solve'} cannot be batched by torch.func.vmap (jacrev and "
                "jacfwd use it too) while its loop looks at numbers; "
                "pass loop=FixedBudget() and throw=False"
            )

        def of_state(z: Tensor, rows: Tensor | None = None) -> Tensor:
            return self.f(z, captured)

        with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
            outcome = iterate(replace(self.settings, f=of_state, z0=z0))
        if self.settings.throw:
            check_outcome(outcome, self.what and f"{self.what} failed: ")
        elif self.what and self.settings.loop.reads_values and (said := failure(outcome)[0]):
            warnings.warn(f"{self.what} failed: {said}", stacklevel=2)
        return outcome

    def linear(self, f: Callable[[Tensor, Tensors], Tensor], what: str) -> _Task:
        """The task of an adjoint or a tangent."""
        settings = replace(
            self.settings,
            solver=self.how.solver,
            tol=self.how.tol,
            atol=0.0,
            affine=True,
            max_steps=self.how.max_steps,
        )
        return _Task(f, settings, self.how, f"the {what} of the implicit gradient")

    def adjoint_map(self, g: Tensor, given: Tensors) -> Tensor:
        """v + (df/dz)^T g, given (v, z, *c)."""
        v, z, *captured = given
        product: Tensor = torch.func.vjp(lambda z: self.f(z, captured), z)[1](g)[0]
        return v + product

    def tangent_map(self, t: Tensor, given: Tensors) -> Tensor:
        """y + (df/dz) t, given (y, z, *c)."""
        y, z, *captured = given
        product: Tensor = torch.func.jvp(lambda z: self.f(z, captured), (z,), (t,))[1]
        return y + product


class _Solve(torch.autograd.Function):
    """z* (B, D) of (task, z0, *c), and a report (B, 3) of residual, steps and status.

    The report is in floating point because forward mode knows no other outputs.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(task: _Task, z0: Tensor, *captured: Tensor) -> tuple[Tensor, Tensor]:
        z, residual, steps, status = task(z0, captured).parts()
        codes = steps.to(residual.dtype), status.to(residual.dtype)
        return z.clone(), torch.stack([residual, *codes], dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.task, _, *captured = inputs
        ctx.save_for_backward(*output, *captured)
        ctx.save_for_forward(*output, *captured)

    @staticmethod
    def backward(ctx: Any, v: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        task, (z, report, *captured) = ctx.task, ctx.saved_tensors
        v = torch.where(_sound(report), v, 0.0)
        adjoint = task.linear(task.adjoint_map, "adjoint")
        g = _solve(adjoint, v.detach(), (v, z, *captured))[0]
        smooth = _differentiable(captured)

        def of_smooth(*tensors: Tensor) -> Tensor:
            value: Tensor = task.f(z, _put(captured, smooth, tensors))
            return value

        slopes = torch.func.vjp(of_smooth, *(captured[i] for i in smooth))[1](g)
        return (None, None, *_put([None] * len(captured), smooth, slopes))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        return _tangent(ctx.task, tangents[2:], *ctx.saved_tensors)


def _tangent(
    task: _Task, tangents: Sequence[Tensor | None], z: Tensor, report: Tensor, *captured: Tensor
) -> tuple[Tensor, Tensor]:
    moving = [i for i in _differentiable(captured) if tangents[i] is not None]

    def of_moving(*tensors: Tensor) -> Tensor:
        return task.f(z, _put(captured, moving, tensors))

    values = tuple(captured[i] for i in moving)
    y = torch.func.jvp(of_moving, values, tuple(tangents[i] for i in moving))[1]
    y = torch.where(_sound(report), y, 0.0)
    tangent = task.linear(task.tangent_map, "tangent")
    t = _solve(tangent, y.detach(), (y, z, *captured))[0]
    return t, torch.zeros_like(report)


def _solve(task: _Task, z0: Tensor, captured: Tensors) -> tuple[Tensor, Tensor]:
    # Torch turns forward mode off within a jvp rule: a jvp of it would be zero, silently.
    stack = torch._C._functorch.get_interpreter_stack() or []
    if sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack) > 1:
        raise InvalidInput(
            "Implicit() cannot take forward mode of forward mode; put all but one derivative in "
            "reverse mode, as in jacfwd(jacrev(...))"
        )
    z: Tensor
    report: Tensor
    z, report = _Solve.apply(task, z0, *captured)  # type: ignore[no-untyped-call]
    return z, report


def _sound(report: Tensor) -> Tensor:
    """Samples that did not diverge, (B, 1)."""
    return report[:, 2:] != float(Status.DIVERGED)


def _differentiable(tensors: Tensors) -> list[int]:
    return [i for i, t in enumerate(tensors) if t.is_floating_point() or t.is_complex()]


def _put(whole: Sequence[Any], places: list[int], parts: Sequence[Any]) -> list[Any]:
    """`whole` with `parts` at `places`."""
    changed = list(whole)
    for place, part in zip(places, parts, strict=True):
        changed[place] = part
    return changed


def _batched(tensor: Tensor) -> bool:
    """Whether vmap batches `tensor`, perhaps below other transforms."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False
