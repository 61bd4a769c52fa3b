"""Conformance of fixed-point solvers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, is_dataclass

import torch
from torch import Tensor

from driftwell.core.noise import Purpose, normal
from driftwell.core.state import State, leaves
from driftwell.core.status import Status
from driftwell.fixed_points import Unrolled, fixed_point
from driftwell.fixed_points.iteration import Problem, RunningMap
from driftwell.fixed_points.solvers.solver import Solver
from driftwell.testing.conformance import require_that

_SIZE, _DIMENSION = 6, 12


def check_solver(solver: Solver) -> None:
    """Contract of a solver: right answers, honest residuals, samples that do not see each other.

    Tried on contractions of modulus .6 in float64 with a known answer: the fixed point; steps that
    do not depend on the state's units; a sample alone, in a batch, with a NaN neighbour and with
    `compact`; a start that is already fixed; arguments left as they were; derivatives of the
    unrolled steps; and, for a dataclass, that it is frozen.

    Raises:
        ConformanceError: the sentence says which part of the contract is broken.

    Example:
        >>> from driftwell.fixed_points import Anderson
        >>> check_solver(Anderson(memory=3))
    """
    name = type(solver).__name__
    _check_value(solver, name)
    _check_pure_step(solver, name)
    _check_answer(solver, name)
    _check_units(solver, name)
    _check_alone(solver, name)
    _check_fixed_start(solver, name)
    _check_unrolled(solver, name)


def _problem() -> tuple[Tensor, Tensor, Tensor]:
    """A, x and the answer (I - A)^-1 x of z = A z + x, |A| = .6 in the spectral norm."""
    a = _numbers(_DIMENSION, _DIMENSION, 0)
    a = 0.6 * a / torch.linalg.matrix_norm(a, 2)
    x = _numbers(_SIZE, _DIMENSION, 1)
    answer = torch.linalg.solve(torch.eye(_DIMENSION, dtype=a.dtype) - a, x.T).T
    return a, x, answer


def _numbers(rows: int, columns: int, number: int) -> Tensor:
    return normal(
        (rows, columns), seed=11, purpose=Purpose.PROBE, chains=rows, step=number,
        dtype=torch.float64,
    )  # fmt: skip


def _affine(a: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, x: z @ a.T + x


def _check_value(solver: Solver, name: str) -> None:
    require_that(isinstance(solver, Solver), f"{name} is not a subclass of Solver")
    if not is_dataclass(solver):
        return
    hash(solver)
    for setting in fields(solver):
        try:
            setattr(solver, setting.name, getattr(solver, setting.name))
        except FrozenInstanceError:
            continue
        require_that(False, f"{name} is a dataclass that is not frozen: {setting.name} can be set")


def _check_pure_step(solver: Solver, name: str) -> None:
    a, x, _ = _problem()
    z = torch.zeros_like(x)
    carry = solver.init(z)
    f = RunningMap(Problem(lambda z, rows=None: _affine(a)(z, x), z, solver, 0.0, 9))
    for _ in range(3):
        fz = f(z)
        before = z.clone(), fz.clone()
        after, carry = solver.step(z, fz, carry, f)
        same = torch.equal(z, before[0]) and torch.equal(fz, before[1])
        require_that(same, f"{name}.step changed its arguments in place")
        require_that(
            after.shape == z.shape and after.dtype == z.dtype,
            f"{name}.step returned {tuple(after.shape)} {after.dtype} for a state of "
            f"{tuple(z.shape)} {z.dtype}",
        )
        z = after


def _check_answer(solver: Solver, name: str) -> None:
    a, x, answer = _problem()
    found = fixed_point(
        _affine(a), torch.zeros_like(x), x, solver=solver, tol=1e-10, max_steps=400, throw=False
    )
    good = bool((found.status == int(Status.CONVERGED)).all())
    require_that(
        good, f"{name} did not solve a linear contraction of modulus .6: {found.explain(0)}"
    )
    gap = float((_tensor(found.z) - answer).norm() / answer.norm())
    require_that(gap <= 1e-8, f"{name} missed the known fixed point by {gap:.3g} (relative)")


def _check_units(solver: Solver, name: str) -> None:
    a, x, _ = _problem()
    counts = []
    for c in (1e-3, 1.0, 1e3):
        found = fixed_point(
            lambda z, x, c=c: c * torch.tanh(z / c @ a.T + x),
            torch.zeros_like(x), x, solver=solver, tol=1e-6, max_steps=400, throw=False,
        )  # fmt: skip
        counts.append(int(found.steps.max()))
    require_that(
        max(counts) - min(counts) <= 1,
        f"{name} depends on the units of the state: {counts} evaluations for a state in units of "
        "1e-3, 1 and 1e3",
    )


def _check_alone(solver: Solver, name: str) -> None:
    a, x, _ = _problem()
    x = x * torch.logspace(-3, 3, _SIZE, dtype=x.dtype)[:, None]  # samples unlike each other
    z0 = torch.zeros_like(x)

    def f(z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(z @ a.T + x)

    def solve(z0: Tensor, x: Tensor, compact: bool = False) -> tuple[Tensor, Tensor]:
        found = fixed_point(
            f, z0, x, solver=solver, tol=1e-6, max_steps=400, throw=False, compact=compact
        )
        return _tensor(found.z), found.steps

    together, steps = solve(z0, x)
    alone, alone_steps = solve(z0[2:3], x[2:3])
    spoilt = x.clone()
    spoilt[0] = torch.nan
    beside, beside_steps = solve(z0, spoilt)
    compact, compact_steps = solve(z0, x, compact=True)
    for what, z, count in (
        ("alone", alone[0], alone_steps[0]),
        ("beside a sample that is NaN", beside[2], beside_steps[2]),
        ("with compact=True", compact[2], compact_steps[2]),
    ):
        gap = float((z - together[2]).norm())
        require_that(
            gap <= 1e-10 and int(count) == int(steps[2]),
            f"{name} mixes samples: one {what} differs by {gap:.3g} from itself in a batch and "
            f"takes {int(count)} evaluations instead of {int(steps[2])}",
        )


def _check_fixed_start(solver: Solver, name: str) -> None:
    answer = _problem()[2]
    carry = solver.init(answer)
    f = RunningMap(Problem(lambda z, rows=None: answer, answer, solver, 0.0, 9))
    z = answer
    for _ in range(4):
        z, carry = solver.step(z, answer, carry, f)
    gap = float((z - answer).norm())
    require_that(
        gap <= 1e-10,
        f"{name} leaves a fixed point it was started at, by {gap:.3g}: no residual, no step",
    )


def _check_unrolled(solver: Solver, name: str) -> None:
    a, x, _ = _problem()

    def run(x: Tensor) -> Tensor:
        found = fixed_point(
            lambda z, x: torch.tanh(z @ a.T + x), torch.zeros_like(x), x,
            solver=solver, gradient=Unrolled(), tol=0.0, max_steps=5, throw=False,
        )  # fmt: skip
        return _tensor(found.z).square().sum()

    inside = x.clone().requires_grad_(True)
    value = run(inside)
    require_that(value.requires_grad, f"{name} lost the derivative of its unrolled steps")
    (slope,) = torch.autograd.grad(value, inside)
    w = _numbers(_SIZE, _DIMENSION, 2)
    step = 1e-5
    difference = float((run(x + step * w) - run(x - step * w)) / (2 * step))
    gap = abs(float((slope * w).sum()) - difference)
    require_that(
        gap <= 1e-5 * (abs(difference) + 1.0),
        f"the derivative of {name}'s unrolled steps differs from a central difference by {gap:.3g}",
    )


def _tensor(z: State) -> Tensor:
    """The only leaf."""
    return leaves(z)[0]
