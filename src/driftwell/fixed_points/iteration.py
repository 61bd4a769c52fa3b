"""The iteration behind the verb and behind every implicit gradient: flat, masked, per sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from driftwell.core.errors import Diverged, NotConverged
from driftwell.core.results import FixedPoint
from driftwell.core.status import Status
from driftwell.fixed_points.solvers.solver import Solver


class FlatMap(Protocol):
    """A map of flat states, for all samples or only for `rows` of the batch."""

    def __call__(self, z: Tensor, rows: Tensor | None = None, /) -> Tensor:
        """f(z), (b, D) like `z`; `rows` (b,) are the samples z holds, None for all."""
        ...


@dataclass(frozen=True)
class Problem:
    """A fixed-point problem as a `Gradient` gets it: the map, the start, the how.

    Attributes:
        f: the map of flat states.
        z0: flat start, (B, D).
        solver: rule for the next iterate.
        tol: tolerance on the relative residual, per sample.
        max_steps: evaluations of f that are allowed.
        throw: raise if any sample fails.
        compact: drop finished samples from the batch.
    """

    f: FlatMap
    z0: Tensor
    solver: Solver
    tol: float
    max_steps: int
    throw: bool = True
    compact: bool = False


@dataclass(frozen=True)
class Outcome:
    """Flat best iterates (B, D), with their own residuals, evaluations and `Status` codes (B,)."""

    z: Tensor
    residual: Tensor
    steps: Tensor
    status: Tensor


@dataclass(frozen=True)
class _Batch:
    """Samples still in the batch: their rows (None: all), iterates, carry, and who is running."""

    rows: Tensor | None
    z: Tensor
    carry: Any
    running: Tensor


def iterate(problem: Problem) -> Outcome:
    """Iterate z = f(z) until every sample met `tol`, left the finite numbers or ran out of steps.

    A sample's iterates do not depend on its neighbours: what is finished is frozen. Under grad
    mode the operations are recorded (`Unrolled`); judgements never are.
    """
    z0, solver = problem.z0, problem.solver
    samples, device = z0.shape[0], z0.device
    tol = resolvable(problem.tol, z0.dtype)
    best = Outcome(
        z=z0,
        residual=torch.full((samples,), torch.inf, dtype=_work(z0.dtype), device=device),
        steps=torch.zeros(samples, dtype=torch.int64, device=device),
        status=torch.full((samples,), int(Status.BUDGET_REACHED), dtype=torch.int8, device=device),
    )
    running = torch.ones(samples, dtype=torch.bool, device=device)
    batch = _Batch(None, z0, solver.init(z0.detach().to(_work(z0.dtype))), running)
    for step in range(1, problem.max_steps + 1):
        fz = problem.f(batch.z, batch.rows)
        best, running = _judge(best, batch, fz, step, tol)
        if step == problem.max_steps or not bool(running.any()):
            break
        z, fz = batch.z.to(_work(z0.dtype)), fz.to(_work(z0.dtype))
        after, carry = solver.step(z, fz, batch.carry)
        moved = torch.where(running[:, None], after.to(z0.dtype), batch.z)
        batch = _Batch(batch.rows, moved, carry, running)
        if problem.compact:
            batch = _drop_finished(batch, solver)
    never = torch.isinf(best.residual)  # f was not finite even at the start
    return replace(best, residual=torch.where(never, torch.nan, best.residual))


def relative_residual(z: Tensor, fz: Tensor) -> Tensor:
    """Relative residual |f(z) - z| / |f(z)| of flat states, (B,), in float32 or wider."""
    z, fz = z.detach().to(_work(z.dtype)), fz.detach().to(_work(z.dtype))
    floor = torch.finfo(fz.dtype).tiny ** 0.5  # below it the squares of entries vanish
    gap = torch.linalg.vector_norm(fz - z, dim=1)
    residual: Tensor = gap / (torch.linalg.vector_norm(fz, dim=1) + floor)
    return residual


def resolvable(tol: float, dtype: torch.dtype) -> float:
    """`tol`, or the rounding of a half-precision dtype where that is coarser."""
    half = dtype in (torch.float16, torch.bfloat16)
    return max(tol, torch.finfo(dtype).eps) if half and tol > 0 else tol


def check_outcome(outcome: Outcome, what: str = "") -> None:
    """Raise what the worst sample has to say, if any failed.

    Raises:
        Diverged: f became NaN or infinite for a sample.
        NotConverged: a sample used up its steps.
    """
    sentence, diverged = failure(outcome)
    if sentence:
        raise (Diverged if diverged else NotConverged)(what + sentence)


def failure(outcome: Outcome) -> tuple[str, bool]:
    """Sentence on the worst sample and how many failed ("" if none), and whether one diverged."""
    diverged = outcome.status == int(Status.DIVERGED)
    failed = diverged | (outcome.status == int(Status.BUDGET_REACHED))
    if not bool(failed.any()):
        return "", False
    if bool(diverged.any()):  # the first to leave the finite numbers
        late = outcome.steps.max() + 1
        worst = int(torch.where(diverged, outcome.steps, late).argmin())
    else:
        worst = int(torch.where(failed, outcome.residual, -1.0).argmax())
    result = FixedPoint(outcome.z, outcome.residual, outcome.steps, outcome.status)
    count = f" ({int(failed.sum())} of {failed.numel()} samples failed)"
    return result.explain(worst) + count, bool(diverged.any())


def _judge(
    best: Outcome, batch: _Batch, fz: Tensor, step: int, tol: float
) -> tuple[Outcome, Tensor]:
    """Best outcome after f was evaluated, and which samples of the batch run on."""
    residual = relative_residual(batch.z, fz)
    converged = batch.running & (residual <= tol)
    diverged = batch.running & ~torch.isfinite(residual)
    if batch.rows is None:
        kept = best
    else:
        kept = Outcome(*(part[batch.rows] for part in _parts(best)))
    better = batch.running & (residual < kept.residual)
    status = torch.where(converged, int(Status.CONVERGED), kept.status)
    update = Outcome(
        z=torch.where(better[:, None], batch.z, kept.z),
        residual=torch.where(better, residual, kept.residual),
        steps=torch.where(batch.running, step, kept.steps),
        status=torch.where(diverged, int(Status.DIVERGED), status).to(torch.int8),
    )
    if batch.rows is not None:
        rows = batch.rows
        pairs = zip(_parts(best), _parts(update), strict=True)
        update = Outcome(*(whole.index_copy(0, rows, part) for whole, part in pairs))
    return update, batch.running & ~converged & ~diverged


def _drop_finished(batch: _Batch, solver: Solver) -> _Batch:
    if bool(batch.running.all()):
        return batch
    kept = batch.running.nonzero().squeeze(1)
    rows = kept if batch.rows is None else batch.rows[kept]
    return _Batch(rows, batch.z[kept], solver.select(batch.carry, kept), batch.running[kept])


def _parts(outcome: Outcome) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return outcome.z, outcome.residual, outcome.steps, outcome.status


def _work(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
