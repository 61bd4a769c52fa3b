"""Gradient through the iterations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.recorded import Again, record_lightly
from driftwell.fixed_points.gradients.unrecorded import forward_mode, transformed
from driftwell.fixed_points.iteration import FlatMap, Outcome, Problem, check_outcome, iterate


@final
@dataclass(frozen=True)
class Unrolled(Gradient):
    """Gradient by back-propagation through every iteration of the solver as it ran.

    Exact for the number of steps that were taken, at z0 too; it approaches the implicit gradient
    as the residual falls, a little behind the state. Memory grows with the number of steps.

    Args:
        checkpoint: keep the iterates but not what f computes inside, and evaluate f once more
            per step in the backward pass.

    Example:
        >>> import driftwell as dw
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> z = dw.fixed_point(lambda z, x: 0.5 * z + x, torch.zeros(1, 1), x,
        ...                    solver=dw.Picard(), gradient=Unrolled(), tol=1e-6).z
        >>> torch.autograd.grad(z.sum(), x)
        (tensor([[2.0000]]),)
    """

    checkpoint: bool = False

    def run(self, problem: Problem) -> Outcome:
        """Iterate with every operation recorded."""
        if self.checkpoint and torch.is_grad_enabled():
            _refuse_transforms()
            problem = replace(problem, f=_Checkpointed(problem.f))
        outcome = iterate(problem)
        if problem.throw:
            check_outcome(outcome)
        return outcome


@dataclass(frozen=True)
class _Checkpointed:
    f: FlatMap

    def __call__(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        again = Again(lambda z, _=None: self.f(z, rows), z, random=True)
        return record_lightly(again, z)


def _refuse_transforms() -> None:
    if transformed() or forward_mode():
        raise InvalidInput(
            "Unrolled(checkpoint=True) works in reverse mode only; for torch.func transforms and "
            "forward mode use Unrolled() or Implicit()"
        )
