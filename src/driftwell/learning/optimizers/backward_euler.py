"""Implicit (backward Euler) gradient steps: each one is a fixed point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.results import FixedPoint
from driftwell.core.state import State, leaves
from driftwell.fixed_points.solvers.anderson import Anderson
from driftwell.fixed_points.solvers.solver import Solver
from driftwell.fixed_points.verb import fixed_point

YIN_BACKWARD_EULER = Paper(
    key="yin2017backward",
    title="Stochastic Backward Euler: An Implicit Gradient Descent Algorithm for k-means "
    "Clustering",
    authors="Yin, Penghang and Pham, Minh and Oberman, Adam and Osher, Stanley",
    year=2017,
    arxiv="1710.07746",
)


@final
class BackwardEuler(Optimizer):
    """Implicit gradient steps, as in Yin, Pham, Oberman and Osher, *Stochastic Backward Euler: an
    implicit gradient descent algorithm for k-means clustering*, 2017, arXiv:1710.07746.

        x+ = x - lr grad f(x+),  a stationary point of the proximal step
        x+ = argmin_y f(y) + |y - x|^2 / (2 lr)

    The fixed point of y -> x - lr grad f(y) is solved for by `fixed_point`, all parameters as one
    state. On a convex f every step descends whatever `lr` is; a step costs as many closures as
    the solver evaluates.

    Args:
        params: tensors or parameter groups.
        lr: length of the step, positive.
        solver: of the fixed point. Picard converges for lr L < 1 only; Anderson without restarts
            goes further, because the map of a long step expands and restarts would let it.
        tol: relative tolerance of the step.
        max_steps: closures a step may take.

    Raises:
        InvalidInput: lr not positive.

    Example:
        >>> x = torch.tensor([1.0], requires_grad=True)
        >>> euler = BackwardEuler([x], lr=3.0)
        >>> def closure():
        ...     euler.zero_grad()
        ...     loss = 0.5 * x.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> loss = euler.step(closure)
        >>> x  # 1 / (1 + lr)
        tensor([0.2500], requires_grad=True)
    """

    papers = (YIN_BACKWARD_EULER,)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        solver: Solver = Anderson(memory=10, restart=math.inf),
        tol: float = 1e-6,
        max_steps: int = 200,
    ) -> None:
        if not 0.0 < lr < float("inf"):
            raise InvalidInput(f"BackwardEuler(lr=...) must be positive and finite, got {lr}")
        super().__init__(params, {"lr": lr})
        self.solver, self.tol, self.max_steps = solver, tol, max_steps
        self.last: FixedPoint | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One implicit step; returns the closure's loss at the start of it.

        Args:
            closure: clears the gradients, evaluates the loss, calls `backward`, returns the loss;
                it must give the same loss at the same parameters.

        Raises:
            InvalidInput: no closure.
            NotConverged: the fixed point was not reached; the parameters are as before.
            Diverged: the loss left the finite numbers; the parameters are as before.
        """
        if closure is None:
            raise InvalidInput(
                "BackwardEuler evaluates the gradient at the end of its step: give step(closure)"
            )
        moving = [(p, group["lr"]) for group in self.param_groups for p in group["params"]]
        start = tuple(p.detach().clone()[None] for p, _ in moving)
        losses: list[Any] = []

        def implicit(y: State) -> State:
            _put(moving, leaves(y))
            with torch.enable_grad():
                losses.append(closure())
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p, _ in moving]
            return tuple(x - lr * g for x, (_, lr), g in zip(start, moving, gradients, strict=True))

        try:
            found = fixed_point(
                implicit, start, solver=self.solver, tol=self.tol, max_steps=self.max_steps
            )
        except BaseException:
            _put(moving, list(start))
            raise
        _put(moving, leaves(found.z))
        self.last = found
        return losses[0]


def _put(moving: list[tuple[Any, float]], values: list[Tensor]) -> None:
    for (p, _), value in zip(moving, values, strict=True):
        p.copy_(value[0])
