"""Loops that never look at numbers: a solve that can be compiled, batched and exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from driftwell.fixed_points.iteration import (
    Batch,
    Loop,
    Outcome,
    Problem,
    RunningMap,
    advance,
    finish,
    first_batch,
    judge,
    nothing_yet,
)


@final
@dataclass(frozen=True)
class FixedBudget(Loop):
    """Run all `max_steps`, in straight-line tensor code; finished samples stay frozen.

    Results are those of `EarlyExit`, at the price of the full budget. The solve compiles with
    ``fullgraph=True``, runs under `torch.func` transforms (vmap, jvp, jacrev) and exports, every
    step written out. It needs ``throw=False``.

    Example:
        >>> import driftwell as dw
        >>> def settle(x):
        ...     found = dw.fixed_point(lambda z, x: 0.5 * z + x, torch.zeros(1, 1), x,
        ...                            loop=FixedBudget(), max_steps=5, throw=False)
        ...     return found.z
        >>> torch.func.vmap(settle)(torch.ones(3, 1, 1)).flatten()
        tensor([2., 2., 2.])
    """

    reads_values: ClassVar[bool] = False

    def run(self, problem: Problem) -> Outcome:
        """Iterate until the budget is spent."""
        f, best, batch = RunningMap(problem), nothing_yet(problem), first_batch(problem)
        while True:
            fz = f(batch.z)
            best, running = judge(problem, best, batch, fz, f.calls)
            if f.calls >= problem.max_steps:
                return finish(best)
            batch = advance(problem, batch._replace(running=running), fz, f)


@final
@dataclass(frozen=True)
class WhileLoop(Loop):
    """`torch.while_loop`, with its stopping rule inside: for compiled and exported solves.

    The exported graph (`torch.export`, ONNX) holds one step and the test for the end, so that it
    stops as early as `EarlyExit` and does not grow with `max_steps`. It needs ``throw=False`` and
    has no derivatives: it asks to be called under `torch.no_grad()`.

    Example:
        >>> import driftwell as dw
        >>> with torch.no_grad():
        ...     found = dw.fixed_point(lambda z: 0.5 * z + 1.0, torch.zeros(2, 1),
        ...                            loop=WhileLoop(), throw=False)
        >>> found.z.flatten()
        tensor([2., 2.])
    """

    reads_values: ClassVar[bool] = False
    can_be_recorded: ClassVar[bool] = False

    def run(self, problem: Problem) -> Outcome:
        """Iterate until every sample is finished or the budget is spent."""
        first, best = first_batch(problem), nothing_yet(problem)
        count = torch.zeros((), dtype=torch.int64, device=problem.z0.device)

        def go_on(count: Tensor, best: Any, z: Tensor, carry: Any, running: Tensor) -> Tensor:
            return (count < problem.max_steps) & running.any()

        def once(count: Tensor, best: Any, z: Tensor, carry: Any, running: Tensor) -> Any:
            f, batch = RunningMap(problem), Batch(None, z, _like(carry, first.carry), running)
            fz = f(z)
            judged, running = judge(problem, Outcome(*best), batch, fz, count + f.calls)
            batch = advance(problem, batch._replace(running=running), fz, f)
            return count + f.calls, judged.parts(), batch.z, tuple(batch.carry), running

        # what is carried may not share memory with what the graph holds besides
        kept = (best.z.clone(), best.residual, best.steps, best.status)
        start = (count, kept, first.z, tuple(first.carry), first.running)
        return finish(Outcome(*torch.while_loop(go_on, once, start)[1]))


def _like(carry: Any, first: Any) -> Any:
    """`carry`, a plain tuple, as the named tuple that the solver made."""
    return type(first)(*carry) if carry else carry
