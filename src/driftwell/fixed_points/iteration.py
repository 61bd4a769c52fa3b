"""The iteration behind the verb and behind every implicit gradient: flat, masked, per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, final

import torch
from torch import Tensor

from driftwell.core.errors import Diverged, NotConverged
from driftwell.core.results import FixedPoint
from driftwell.core.state import State, select
from driftwell.core.status import Status
from driftwell.fixed_points.residual import floored, gap_and_size, resolvable, work_dtype
from driftwell.fixed_points.solvers.solver import Solver


class FlatMap(Protocol):
    """A map of flat states, for all samples or only for `rows` of the batch."""

    def __call__(self, z: Tensor, rows: Tensor | None = None, /) -> Tensor:
        """f(z), (b, D) like `z`; `rows` (b,) are the samples z holds, None for all."""
        ...


@dataclass(frozen=True)
class Outcome:
    """Flat best iterates (B, D), with their own residuals, evaluations and `Status` codes (B,)."""

    z: Tensor
    residual: Tensor
    steps: Tensor
    status: Tensor

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors, in their order."""
        return self.z, self.residual, self.steps, self.status


class Loop(ABC):
    """How the iteration is run and when it stops; a frozen dataclass of its settings."""

    reads_values: ClassVar[bool]
    """Whether Python looks at numbers while it runs: then it can be neither compiled nor batched.
    """

    can_be_recorded: ClassVar[bool] = True
    """Whether autograd can follow it."""

    @abstractmethod
    def run(self, problem: Problem) -> Outcome:
        """Iterate z = f(z) until every sample is finished or the budget is spent."""


@final
@dataclass(frozen=True)
class EarlyExit(Loop):
    """Stop as soon as every sample is finished: a Python loop, the default.

    Example:
        >>> import driftwell as dw
        >>> dw.fixed_point(torch.cos, torch.zeros(1, 1), loop=EarlyExit()).status
        tensor([0], dtype=torch.int8)
    """

    reads_values: ClassVar[bool] = True

    def run(self, problem: Problem) -> Outcome:
        """Iterate, dropping finished samples if the problem is compact."""
        f, best, batch = RunningMap(problem), nothing_yet(problem), first_batch(problem)
        whole = best  # of all samples; `best` is of those in the batch
        while True:
            fz = f(batch.z)
            best, running = judge(problem, best, batch, fz, f.calls)
            if f.calls >= problem.max_steps or not bool(running.any()):
                return finish(_merged(whole, batch.rows, best))
            batch = advance(problem, batch._replace(running=running), fz, f)
            if problem.compact and not bool(running.all()):
                whole = _merged(whole, batch.rows, best)
                batch = _without_finished(batch, problem.solver)
                f.rows, best = batch.rows, Outcome(*(part[batch.rows] for part in whole.parts()))


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
        atol: tolerance on |f(z) - z|, added to the relative one.
        loop: how the iteration is run.
        law: what the user gave as f, for solvers that use its structure; None in an adjoint.
        x: the input that belongs to `law`.
        like: the state of the user's whose form flat states stand for; None in an adjoint.
        affine: whether f is affine in z, as adjoints are: differences of it are then exact.
    """

    f: FlatMap
    z0: Tensor
    solver: Solver
    tol: float
    max_steps: int
    throw: bool = True
    compact: bool = False
    atol: float = 0.0
    loop: Loop = EarlyExit()
    law: Any = None
    x: Any = None
    like: State | None = None
    affine: bool = False


class Batch(NamedTuple):
    """Samples still in the batch: their rows (None: all), iterates, carry, and who is running."""

    rows: Tensor | None
    z: Tensor
    carry: Any
    running: Tensor


class RunningMap:
    """f of the samples in the batch, as a solver sees it; it counts its evaluations.

    Attributes:
        law: the callable the user gave, or None within an adjoint.
        affine: whether f is affine in z, as adjoints are.
        calls: evaluations so far.
        rows: samples that are left, or None for all.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.law = problem.law
        self.affine = problem.affine
        self.calls = 0
        self.rows: Tensor | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """f(z) of flat states (b, D), in the dtype of `z`."""
        self.calls += 1
        return self._problem.f(z.to(self._problem.z0.dtype), self.rows).to(z.dtype)

    @property
    def x(self) -> Any:
        """Input of the samples in the batch."""
        x = self._problem.x
        return x if x is None or self.rows is None else select(x, self.rows)


def iterate(problem: Problem) -> Outcome:
    """Iterate z = f(z) until every sample met its tolerance, left the finite numbers or ran out.

    A sample's iterates do not depend on its neighbours: what is finished is frozen. Under grad
    mode the operations are recorded (`Unrolled`); judgements never are.
    """
    return problem.loop.run(problem)


def first_batch(problem: Problem) -> Batch:
    """All samples at the start."""
    z0 = problem.z0
    carry = problem.solver.init(z0.detach().to(work_dtype(z0.dtype)))
    running = torch.ones(z0.shape[0], dtype=torch.bool, device=z0.device)
    # a copy: the start may be what is returned, and its tensor is the user's
    return Batch(None, z0.clone(), carry, running)


def nothing_yet(problem: Problem) -> Outcome:
    """The outcome before f was ever evaluated."""
    z0 = problem.z0
    samples, device = z0.shape[0], z0.device
    return Outcome(
        z=z0,
        residual=torch.full((samples,), torch.inf, dtype=work_dtype(z0.dtype), device=device),
        steps=torch.zeros(samples, dtype=torch.int64, device=device),
        status=torch.full((samples,), int(Status.BUDGET_REACHED), dtype=torch.int8, device=device),
    )


def judge(
    problem: Problem, best: Outcome, batch: Batch, fz: Tensor, step: int | Tensor
) -> tuple[Outcome, Tensor]:
    """Best outcome of the batch after evaluation number `step` of f, and which samples run on."""
    gap, size = gap_and_size(batch.z, fz)
    size = floored(size)
    residual = gap / size
    met = gap <= resolvable(problem.tol, batch.z.dtype) * size + problem.atol
    converged = batch.running & met
    diverged = batch.running & ~torch.isfinite(residual)
    better = converged | (batch.running & (residual < best.residual))
    # in int32, for which exported graphs know `where`
    status = torch.where(converged, int(Status.CONVERGED), best.status.to(torch.int32))
    all_better = problem.loop.reads_values and bool(better.all())  # saves a copy
    judged = Outcome(
        z=batch.z if all_better else torch.where(better[:, None], batch.z, best.z),
        residual=torch.where(better, residual, best.residual),
        steps=torch.where(batch.running, step, best.steps),
        status=torch.where(diverged, int(Status.DIVERGED), status).to(torch.int8),
    )
    return judged, batch.running & ~converged & ~diverged


def advance(problem: Problem, batch: Batch, fz: Tensor, f: RunningMap) -> Batch:
    """The batch after the solver's step; samples that do not run stay where they are."""
    wide = work_dtype(batch.z.dtype)
    after, carry = problem.solver.step(batch.z.to(wide), fz.to(wide), batch.carry, f)
    # always a tensor of our own: f may reuse the one it returned
    z = torch.where(batch.running[:, None], after.to(batch.z.dtype), batch.z)
    return batch._replace(z=z, carry=carry)


def finish(best: Outcome) -> Outcome:
    """The outcome as it is returned: no residual where f was not finite even at the start."""
    never = torch.isinf(best.residual)
    return replace(best, residual=torch.where(never, torch.nan, best.residual))


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


def _merged(whole: Outcome, rows: Tensor | None, part: Outcome) -> Outcome:
    """`whole` with the outcome of the samples `rows`."""
    if rows is None:
        return part
    pairs = zip(whole.parts(), part.parts(), strict=True)
    return Outcome(*(all_rows.index_copy(0, rows, some) for all_rows, some in pairs))


def _without_finished(batch: Batch, solver: Solver) -> Batch:
    kept = batch.running.nonzero().squeeze(1)
    rows = kept if batch.rows is None else batch.rows[kept]
    return Batch(rows, batch.z[kept], solver.select(batch.carry, kept), batch.running[kept])
