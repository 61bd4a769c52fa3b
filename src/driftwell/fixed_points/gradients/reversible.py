"""Exact gradient of a coupled iteration that is run backwards instead of being remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from driftwell.core.errors import DriftwellError, InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.status import Status
from driftwell.fixed_points.gradients.captures import Captured
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.recorded import Surroundings
from driftwell.fixed_points.gradients.unrecorded import forward_mode, sound_rows, transformed
from driftwell.fixed_points.iteration import (
    Outcome,
    Problem,
    RunningMap,
    check_outcome,
    finish,
    first_batch,
    judge,
    nothing_yet,
)
from driftwell.fixed_points.residual import relative_residual
from driftwell.fixed_points.solvers.anderson import Anderson

REVERSIBLE = Paper(
    key="mccallum2025reversible",
    title="Reversible Deep Equilibrium Models",
    authors="McCallum, Sam and Arora, Kamran and Foster, James",
    year=2025,
    arxiv="2509.12917",
)


@final
@dataclass(frozen=True)
class Reversible(Gradient):
    """Gradient by algebraic reversal, from McCallum, Arora and Foster, *Reversible Deep
    Equilibrium Models*, 2025, arXiv:2509.12917.

    Two copies of the state are relaxed in turn, b = damping, y_0 = z_0:

        y_{n+1} = (1 - b) y_n + b f(z_n),      z_{n+1} = (1 - b) z_n + b f(y_{n+1})

    The backward pass solves these for (y_n, z_n) from the last pair to the first, and
    back-propagates through each step as it is had again. That is the exact derivative of the
    steps taken, converged or not, also with respect to z0, in the memory of one step; f is
    evaluated once more for each time it was.

    It is an iteration of its own. `solver` has no part in it; `tol`, `atol` and `max_steps` (two
    evaluations a step) are those of the verb, a sample that is done is frozen, and the last
    iterate is returned, not the best, unless f became NaN there.

    Going back undoes a contraction, so that rounding grows, each step back by up to
    (1 - b)^-2; what it spoils is far from the end, where little of the gradient is left. The pair
    is kept in float64 to begin with little, while f sees and returns the user's dtype. The
    start is known: the relative error of the start had again, times the share of the gradient
    that arrives there, is the error that the backward pass refuses above `drift`.

    Args:
        damping: b in (0, 1).
        drift: largest such error of a sample.

    Raises:
        InvalidInput: damping outside (0, 1), drift not positive, a `solver`, `compact=True`, a
            `loop` or a transform that it does not know.
        DriftwellError: in the backward pass, if the reversal lost the trajectory; or for a second
            derivative, which is not implemented.

    Example:
        >>> import torch, driftwell as dw
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> z = dw.fixed_point(lambda z, x: 0.5 * z + x, torch.zeros(1, 1), x,
        ...                    gradient=Reversible(), tol=1e-5).z
        >>> torch.autograd.grad(z.sum(), x)
        (tensor([[2.0000]]),)
    """

    papers = (REVERSIBLE,)

    damping: float = 0.5
    drift: float = 1e-2

    def __post_init__(self) -> None:
        if not 0.0 < self.damping < 1.0:
            raise InvalidInput(f"Reversible(damping=...) must be in (0, 1), got {self.damping}")
        if not self.drift > 0.0:
            raise InvalidInput(f"Reversible(drift=...) must be positive, got {self.drift}")

    def run(self, problem: Problem) -> Outcome:
        """Run the coupled iteration, as one node of the graph."""
        _check(problem)
        coupled = _Coupled(problem, self.damping, self.drift)
        inputs: list[Tensor] = []
        if torch.is_grad_enabled():
            captured = Captured(problem.f, problem.z0.detach()).tensors
            inputs = [tensor for tensor in captured if tensor.requires_grad]
        z: Tensor = _Reversed.apply(coupled, problem.z0, *inputs)  # type: ignore[no-untyped-call]
        outcome = coupled.outcome
        if problem.throw:
            check_outcome(outcome)
        return replace(outcome, z=z)


class _Coupled:
    """The coupled iteration of a problem, forth and back."""

    outcome: Outcome
    done: Tensor  # steps that each sample took, (B, 1)

    def __init__(self, problem: Problem, damping: float, drift: float) -> None:
        self.problem, self.b, self.drift = replace(problem, z0=problem.z0.detach()), damping, drift
        self.wide = torch.float32 if problem.z0.device.type == "mps" else torch.float64
        self.surroundings = Surroundings(problem.z0.device)

    def forth(self, z0: Tensor) -> tuple[Tensor, Tensor]:
        """The last pair (y, z), each sample's own, in the wide dtype."""
        f, best, batch = (
            RunningMap(self.problem),
            nothing_yet(self.problem),
            first_batch(self.problem),
        )
        y = z = z0.to(self.wide)
        self.done = torch.zeros(z0.shape[0], 1, dtype=torch.int64, device=z0.device)
        residual = best.residual
        while True:
            fz, was_running = f(batch.z), batch.running
            best, running = judge(self.problem, best, batch, fz, f.calls)
            residual = torch.where(was_running, relative_residual(batch.z, fz), residual)
            if f.calls + 2 > self.problem.max_steps or not bool(running.any()):
                break
            moves = running[:, None]
            y = torch.where(moves, (1.0 - self.b) * y + self.b * fz, y)
            z = torch.where(moves, (1.0 - self.b) * z + self.b * f(y), z)
            self.done = self.done + moves
            batch = batch._replace(z=z.to(z0.dtype), running=running)
        # A diverged sample keeps its best state, and is as if it had never moved on the way back.
        sound = (best.status != int(Status.DIVERGED))[:, None]
        best_z, start = torch.where(sound, batch.z, best.z), z0.to(self.wide)
        residual = torch.where(sound[:, 0], residual, best.residual)
        self.outcome = finish(replace(best, z=best_z, residual=residual))
        self.done = torch.where(sound, self.done, 0)
        return torch.where(sound, y, start), torch.where(sound, z, start)

    def back(
        self, y: Tensor, z: Tensor, v: Tensor, inputs: Sequence[Tensor], z0: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradients for z0 and for each of `inputs`, from v for the last z."""
        v_y, v_z = torch.zeros_like(v), torch.where(sound_rows(self.outcome), v, 0.0)
        totals = [torch.zeros_like(tensor) for tensor in inputs]
        for n in reversed(range(int(self.done.max()))):
            moves = n < self.done
            # z_{n+1} = (1 - b) z_n + b f(y_{n+1})
            f_y, slope = self._pull(y, self._share(v_z, moves), inputs, totals)
            z = torch.where(moves, (z - self.b * f_y) / (1.0 - self.b), z)
            v_y, v_z = v_y + slope, torch.where(moves, (1.0 - self.b) * v_z, v_z)
            # y_{n+1} = (1 - b) y_n + b f(z_n)
            f_z, slope = self._pull(z, self._share(v_y, moves), inputs, totals)
            y = torch.where(moves, (y - self.b * f_z) / (1.0 - self.b), y)
            v_z, v_y = v_z + slope, torch.where(moves, (1.0 - self.b) * v_y, v_y)
        self._check_return(z, z0, v_y + v_z, v)
        return v_y + v_z, totals

    def _share(self, v: Tensor, moves: Tensor) -> Tensor:
        return torch.where(moves, self.b * v, 0.0)

    def _pull(
        self, at: Tensor, v: Tensor, inputs: Sequence[Tensor], totals: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """f(at) and (df/dz)^T v; (df/dinputs)^T v are added to `totals`."""
        with self.surroundings.again():
            at = at.to(v.dtype).requires_grad_(True)
            value = self.problem.f(at)
        if not value.requires_grad:
            return value, torch.zeros_like(v)
        slopes = torch.autograd.grad(value, (at, *inputs), v, allow_unused=True)
        for total, slope in zip(totals, slopes[1:], strict=True):
            if slope is not None:
                total += slope
        return value.detach(), torch.zeros_like(v) if slopes[0] is None else slopes[0]

    def _check_return(self, z: Tensor, z0: Tensor, left: Tensor, v: Tensor) -> None:
        """Whether the way back ended where the way forth began, as far as that matters."""
        way = torch.linalg.vector_norm(self.outcome.z - z0, dim=1)
        gap = torch.linalg.vector_norm(z - z0, dim=1)
        weight = torch.linalg.vector_norm(left, dim=1) / torch.linalg.vector_norm(v, dim=1)
        spared = (gap == 0) | (v == 0).all(dim=1)
        error = torch.where(spared, 0.0, gap / way * weight)  # NaN where f left the finite numbers
        lost = ~(error <= self.drift) & sound_rows(self.outcome)[:, 0]
        if bool(lost.any()):
            row = int(torch.where(lost, error.nan_to_num(torch.inf), -1.0).argmax())
            raise DriftwellError(
                f"Reversible() lost the way back: sample {row} missed its start by "
                f"{float(gap[row] / way[row]):.2g} of the way after {int(self.done[row])} steps, "
                f"an error of {float(error[row]):.2g} in the gradient; take a smaller damping, a "
                "larger tol or a wider dtype"
            )


class _Reversed(torch.autograd.Function):
    """The last z of a coupled iteration, as a function of z0 and of what f captures."""

    @staticmethod
    def forward(ctx: Any, coupled: _Coupled, z0: Tensor, *inputs: Tensor) -> Tensor:
        y, z = coupled.forth(z0.detach())
        ctx.coupled = coupled
        ctx.save_for_backward(y, z, z0.detach(), *inputs)
        return coupled.outcome.z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        y, z, z0, *inputs = ctx.saved_tensors
        slope, totals = ctx.coupled.back(y, z, v, inputs, z0)
        return None, slope, *totals


def _check(problem: Problem) -> None:
    if problem.solver != Anderson():
        raise InvalidInput(
            f"Reversible() runs an iteration of its own, in which {problem.solver} would have no "
            "part; leave solver= out"
        )
    if problem.compact:
        raise InvalidInput("Reversible() keeps every sample in the batch; use compact=False")
    if not problem.loop.reads_values or transformed() or forward_mode():
        raise InvalidInput(
            "Reversible() works in reverse mode with the default loop only; for torch.func "
            "transforms, forward mode and compiled solves use Implicit()"
        )
