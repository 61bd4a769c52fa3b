"""The verb `fixed_point`: bring a state to z* = f(z*, x)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.results import FixedPoint
from driftwell.core.state import (
    State,
    check_same_form,
    check_state,
    flatten,
    leaves,
    select,
    unflatten,
)
from driftwell.dynamics.laws import Map, call
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.implicit import Implicit
from driftwell.fixed_points.iteration import EarlyExit, Loop, Problem, iterate
from driftwell.fixed_points.solvers.anderson import Anderson
from driftwell.fixed_points.solvers.solver import Solver


def fixed_point(
    f: Map | Callable[..., State],
    z0: State,
    x: Any = None,
    *,
    solver: Solver = Anderson(),
    gradient: Gradient = Implicit(),
    tol: float = 1e-4,
    max_steps: int = 100,
    atol: float = 0.0,
    throw: bool = True,
    compact: bool = False,
    loop: Loop = EarlyExit(),
) -> FixedPoint:
    """Fixed points z* = f(z*, x) of a batch, each sample to its own tolerance.

    A sample is done when |f(z) - z| <= tol * |f(z)| + atol, Euclidean over all its leaves; from
    then on its state does not change, whatever its neighbours do. Returned is that iterate, or
    the one with the smallest relative residual if none was good enough, and its residual. NaN or
    infinity in f ends a sample with the status `DIVERGED` and the evaluation at which it appeared
    in `steps`.

    Args:
        f: map z -> z, or (z, x) -> z if `x` is given; of the state's shapes and dtypes.
        z0: start, a tensor (B, ...) or a tree of them, floating point or complex.
        x: input, handed to f as it is.
        solver: rule for the next iterate.
        gradient: how derivatives pass through the solve.
        tol: relative tolerance; 0 runs all steps unless f is hit exactly. In float16 and
            bfloat16 it is at least the dtype's rounding, 9.8e-4 and 7.8e-3.
        max_steps: evaluations of f that are allowed, at least 1; a solver that makes several in
            a step finishes the step it is in.
        atol: absolute tolerance, in the state's units, for fixed points at or near zero.
        throw: raise if a sample fails; otherwise its `status` says so.
        compact: drop finished samples from the batch that f sees. Every tensor of `x` must then
            be batch first, f must be row-wise and capture no per-sample tensor.
        loop: `EarlyExit()`; `FixedBudget()` or `WhileLoop()` to compile, batch or export the solve.

    Raises:
        InvalidInput: a state that cannot be one, a map that changes its shape or dtype, a
            setting outside its range.
        Diverged: f became NaN or infinite for a sample.
        NotConverged: a sample used up its steps.

    Example:
        >>> import torch
        >>> found = fixed_point(torch.cos, torch.zeros(2, 1))
        >>> found.z
        tensor([[0.739...],
                [0.739...]])
        >>> found.explain(0)
        'sample 0 reached its tolerance: residual ... after ... steps'
    """
    _check_settings(f, solver, gradient, tol, max_steps, atol)
    _check_loop(loop, throw, compact)
    check_state(z0, finite=loop.reads_values)
    if compact:
        _check_batch_first(x, leaves(z0)[0].shape[0])
    problem = Problem(
        f=_OfState(f, x, z0),
        z0=flatten(z0),
        solver=solver,
        tol=float(tol),
        max_steps=max_steps,
        throw=throw,
        compact=compact,
        atol=float(atol),
        loop=loop,
        law=f,
        x=x,
        like=z0,
    )
    outcome = gradient.run(problem) if loop.can_be_recorded else iterate(problem)
    return FixedPoint(
        z=unflatten(outcome.z, z0),
        residual=outcome.residual,
        steps=outcome.steps,
        status=outcome.status,
    )


class _OfState:
    """f(z, x) as a map of flat states; the input of a part of the batch is cut out once."""

    def __init__(self, f: Callable[..., State], x: Any, like: State) -> None:
        self._f, self._x, self._like = f, x, like
        self._rows: Tensor | None = None
        self._x_of_rows = x

    def __call__(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        if rows is not self._rows:
            self._rows = rows
            self._x_of_rows = self._x if rows is None or self._x is None else select(self._x, rows)
        state = unflatten(z, self._like)
        value = check_same_form(call(self._f, state, x=self._x_of_rows), state, "f")
        return flatten(value).to(z.dtype)


def _check_settings(
    f: Any, solver: Solver, gradient: Gradient, tol: float, max_steps: int, atol: float
) -> None:
    if not callable(f):
        raise InvalidInput(f"f must be a Map or a callable f(z), got {type(f).__name__}")
    if not isinstance(solver, Solver):
        raise InvalidInput(f"solver must be a Solver such as Anderson(), got {solver!r}")
    if not isinstance(gradient, Gradient):
        raise InvalidInput(f"gradient must be a Gradient such as Implicit(), got {gradient!r}")
    if not 0.0 <= tol < float("inf"):
        raise InvalidInput(f"tol must be finite and not negative, got {tol}")
    if not 0.0 <= atol < float("inf"):
        raise InvalidInput(f"atol must be finite and not negative, got {atol}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise InvalidInput(f"max_steps must be an integer of at least 1, got {max_steps!r}")


def _check_loop(loop: Loop, throw: bool, compact: bool) -> None:
    if not isinstance(loop, Loop):
        raise InvalidInput(f"loop must be a Loop such as EarlyExit(), got {loop!r}")
    if loop.reads_values:
        return
    if throw:
        raise InvalidInput(
            f"{loop} cannot raise for a sample that fails: it never looks at numbers; "
            "pass throw=False and read the result's status"
        )
    if torch.is_grad_enabled() and not loop.can_be_recorded:
        raise InvalidInput(
            f"{loop} has no derivatives: call it under torch.no_grad(), or use FixedBudget()"
        )
    if compact:
        raise InvalidInput(f"{loop} cannot drop samples; use compact=False")


def _check_batch_first(x: Any, samples: int) -> None:
    if x is None:
        return
    for leaf in leaves(x):
        if leaf.ndim == 0 or leaf.shape[0] != samples:
            raise InvalidInput(
                f"compact=True indexes x along with the state, so every tensor of x must have "
                f"{samples} rows, got shape {tuple(leaf.shape)}; use compact=False"
            )
