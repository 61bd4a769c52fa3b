"""The verb `solve_linear`: A z = b for a batch, matrix-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from driftwell.core.errors import Diverged, InvalidInput, NotConverged
from driftwell.core.state import check_state
from driftwell.core.status import Status
from driftwell.fixed_points.linear.gmres import GMRES
from driftwell.fixed_points.linear.solver import LinearSolver, Operator


@dataclass(frozen=True)
class LinearSolution:
    """Solutions of A z = b for a batch.

    Attributes:
        z: the best solution seen, (B, D), detached.
        residual: its true relative residual |b - A z| / |b|, (B,); 0 where b is 0.
        steps: products with A each sample used before it was finished, int64 (B,).
        status: `Status` codes, int8 (B,).
        broke_down: whether the method met something that shows it does not apply, bool (B,).

    Example:
        >>> solve_linear(lambda y: 2.0 * y, torch.ones(1, 3)).z
        tensor([[0.5000, 0.5000, 0.5000]])
    """

    z: Tensor
    residual: Tensor
    steps: Tensor
    status: Tensor
    broke_down: Tensor

    def explain(self, sample: int = 0) -> str:
        """Sentence about one sample: what happened, its residual and steps, what to try."""
        count = self.status.numel()
        if not -count <= sample < count:
            raise InvalidInput(f"sample {sample} is not in this batch of {count}")
        code = Status(int(self.status[sample]))
        broke = bool(self.broke_down[sample]) and not code.good
        what = "met a direction p with p^T A p <= 0" if broke else code.sentence
        text = (
            f"sample {sample} {what}: residual {float(self.residual[sample]):.3g} "
            f"after {int(self.steps[sample])} products with A"
        )
        if broke:
            return text + "; its A is not positive definite, use solver=GMRES()"
        if code is Status.BUDGET_REACHED:
            text += "; raise max_steps, tol or GMRES(restart=...), or precondition A"
        if code is Status.DIVERGED:
            text += "; A or b is not finite, or a Neumann series met an A far from the identity"
        return text


def solve_linear(
    A: Operator,
    b: Tensor,
    *,
    solver: LinearSolver = GMRES(),
    tol: float = 1e-6,
    max_steps: int = 200,
    throw: bool = True,
) -> LinearSolution:
    """Solve A z = b for a batch of rows, each sample to its own tolerance, from z = 0.

    A sample is done when |b - A z| <= tol |b|, by a product with A that is made for this test (it
    counts); from then on its solution does not change. The adjoint of a fixed point is such a
    system, with A = I - J^T; `Implicit` solves it as a fixed point, see `NewtonKrylov`.

    Args:
        A: linear map of rows, (B, D) -> (B, D), which may be another matrix for each sample.
        b: right-hand sides, (B, D), float32 or float64.
        solver: `ConjugateGradient()` for a symmetric positive definite A, `GMRES()` for any,
            `Neumann()` for an A near the identity.
        tol: relative tolerance, not negative.
        max_steps: products with A that are allowed, at least 1.
        throw: raise if a sample fails; otherwise its `status` says so.

    Raises:
        InvalidInput: b is not a finite (B, D) of float32 or float64, or a setting is out of range.
        Diverged: A z became NaN or infinite for a sample.
        NotConverged: a sample used up its steps, or the method does not apply to its A.

    Example:
        >>> turn = torch.tensor([[1.0, -3.0], [3.0, 1.0]])
        >>> found = solve_linear(lambda y: y @ turn.T, torch.tensor([[1.0, 3.0]]))
        >>> found.z.round(decimals=4), found.steps
        (tensor([[1., 0.]]), tensor([3]))
    """
    _check(A, b, solver, tol, max_steps)
    with torch.no_grad():
        # in units of its own, so that no square leaves the range of the dtype
        unit = b.detach().abs().amax(dim=1, keepdim=True)
        unit = torch.where(unit > 0, unit, 1.0)
        found = _solve(_Checked(A), b.detach() / unit, solver, tol, max_steps)
        found = replace(found, z=found.z * unit)
    if throw:
        _raise_failures(found)
    return found


def _solve(
    A: Operator, b: Tensor, solver: LinearSolver, tol: float, max_steps: int
) -> LinearSolution:
    size = torch.linalg.vector_norm(b, dim=1)
    target = tol * size
    z, r, best = torch.zeros_like(b), b, torch.zeros_like(b)
    gap = size  # of the best
    running = size > 0
    steps = torch.zeros(len(b), dtype=torch.int64, device=b.device)
    broke_down, diverged = ~running & False, ~running & False
    # the target of a cycle is a little below: what rounding adds must not cost another cycle
    inside, used = 0.9 * target, 0
    while used < max_steps and bool(running.any()):
        start = torch.where(running[:, None], r, 0.0)
        found = solver.cycle(A, start, inside, max_steps - used)
        z = torch.where(running[:, None], z + found.z, z)
        r = b - A(z)
        used += int(torch.where(running, found.steps, 0).max()) + 1
        steps = torch.where(running, steps + found.steps + 1, steps)
        now = torch.linalg.vector_norm(r, dim=1)
        better = running & (now < gap)
        best = torch.where(better[:, None], z, best)
        gap = torch.where(better, now, gap)
        diverged = diverged | (running & ~torch.isfinite(now))
        broke_down = broke_down | (running & found.broke_down)
        running = running & ~(now <= target) & ~diverged & ~broke_down
    met = gap <= target
    status = torch.where(met, int(Status.CONVERGED), int(Status.BUDGET_REACHED))
    status = torch.where(diverged & ~met, int(Status.DIVERGED), status).to(torch.int8)
    return LinearSolution(
        z=best,
        residual=torch.where(size > 0, gap / torch.where(size > 0, size, 1.0), 0.0),
        steps=steps,
        status=status,
        broke_down=broke_down & ~met,
    )


def _check(A: Operator, b: Tensor, solver: LinearSolver, tol: float, max_steps: int) -> None:
    if not callable(A):
        raise InvalidInput(f"A must be a callable y -> A y on rows, got {type(A).__name__}")
    if not isinstance(b, Tensor) or b.ndim != 2 or b.dtype not in (torch.float32, torch.float64):
        shape = f"{tuple(b.shape)} {b.dtype}" if isinstance(b, Tensor) else type(b).__name__
        raise InvalidInput(f"b must be (B, D) of float32 or float64, got {shape}")
    check_state(b, "b")
    if not isinstance(solver, LinearSolver):
        raise InvalidInput(f"solver must be a LinearSolver such as GMRES(), got {solver!r}")
    if not 0.0 <= tol < float("inf"):
        raise InvalidInput(f"tol must be finite and not negative, got {tol}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise InvalidInput(f"max_steps must be an integer of at least 1, got {max_steps!r}")


@dataclass(frozen=True, eq=False)
class _Checked:
    """A, of which every product keeps the form of its argument."""

    A: Operator

    def __call__(self, y: Tensor) -> Tensor:
        product = self.A(y)
        if product.shape != y.shape or product.dtype != y.dtype:
            raise InvalidInput(
                f"A must keep the shape and dtype {tuple(y.shape)} {y.dtype} of its argument, "
                f"got {tuple(product.shape)} {product.dtype}"
            )
        return product


def _raise_failures(found: LinearSolution) -> None:
    failed = found.status != int(Status.CONVERGED)
    if not bool(failed.any()):
        return
    diverged = found.status == int(Status.DIVERGED)
    first = diverged if bool(diverged.any()) else failed
    worst = int(torch.where(first, found.residual, -1.0).argmax())
    count = f" ({int(failed.sum())} of {failed.numel()} samples failed)"
    error = Diverged if bool(diverged.any()) else NotConverged
    raise error(found.explain(worst) + count)
