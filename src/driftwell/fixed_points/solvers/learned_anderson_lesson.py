"""How a learned solver and a learned start are trained: against the equilibria of Anderson."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.fixed_points.solvers.learned_anderson import IGNN_SOLVER, LearnedAnderson, drawn
from driftwell.fixed_points.verb import fixed_point


@final
class LearnedStart(nn.Module):
    """Start of a solve predicted from its input, after Lin et al., *IGNN-Solver*, 2024,
    arXiv:2410.08524: row by row z0 = W_2 relu(W_1 x + b_1) + b_2.

    Args:
        features: width of a row of the input.
        dim: width of a row of the state.
        hidden: width between.
        seed: of the keyed start weights; W_2 and b_2 start at zero.

    Example:
        >>> LearnedStart(features=3, dim=2)(torch.ones(1, 5, 3)).shape
        torch.Size([1, 5, 2])
    """

    papers = (IGNN_SOLVER,)

    def __init__(self, features: int, dim: int, hidden: int = 16, seed: int = 0) -> None:
        super().__init__()
        if min(features, dim, hidden) < 1:
            raise InvalidInput(f"widths must be at least 1, got {features}, {dim}, {hidden}")
        self.W1 = drawn(features, hidden, seed, 3)
        self.b1 = nn.Parameter(torch.zeros(hidden))
        self.W2 = nn.Parameter(torch.zeros(hidden, dim))
        self.b2 = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Start (..., dim) for the input x (..., features)."""
        return torch.relu(x @ self.W1 + self.b1) @ self.W2 + self.b2


@dataclass(frozen=True)
class SolverLesson:
    """How a learned solver is trained.

    Attributes:
        updates: of Adam.
        horizon: solver steps unrolled in each update.
        lr: of Adam at the start; it falls to zero along a cosine. Gradients are clipped to 1.
        start_weight: weight of the start's error against the trajectory's.
    """

    updates: int = 200
    horizon: int = 8
    lr: float = 8e-3
    start_weight: float = 1.0


def fit_learned_anderson(
    solver: LearnedAnderson,
    f: Callable[[Tensor, Tensor], Tensor],
    inputs: Sequence[Tensor],
    *,
    start: LearnedStart | None = None,
    lesson: SolverLesson = SolverLesson(),
    tol: float = 1e-5,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train a solver (and start) without labels, against the equilibria Anderson finds.

    For each update one of `inputs`, in turn; with f frozen and k = 1..K unrolled steps:

        L = sum_k w_k |z_k - z*| / |z*| + start_weight |z_0 - z*|^2 / |z*|^2,   w_k ~ k, sum 1

    Args:
        solver: to be trained, in place.
        f: the map f(z, x), row-wise in the batch; its parameters are not changed.
        inputs: x of each problem, (B, R, p).
        start: z0 from x, trained along; None starts at zero, which needs p = dim.
        lesson: how long and how fast.
        tol: of the equilibria.
        progress: called with update and loss.

    Returns:
        The loss of each update.

    Raises:
        InvalidInput: no inputs, or no start for inputs of another width than the state.
        NotConverged: Anderson could not find an equilibrium to learn from.

    Example:
        >>> solver = LearnedAnderson(dim=2, memory=3)
        >>> x = torch.tensor([[[1.0, 2.0], [0.5, -1.0]]])
        >>> losses = fit_learned_anderson(solver, lambda z, x: 0.9 * z + x, [x],
        ...                               lesson=SolverLesson(updates=40))
        >>> losses[-1] < losses[0]
        True
    """
    if not inputs:
        raise InvalidInput("fit_learned_anderson needs at least one input, got none")
    if start is None and any(x.shape[-1] != solver.dim for x in inputs):
        raise InvalidInput("without a start the inputs must be as wide as the state's rows")
    with torch.no_grad():
        targets = [
            _tensor(
                fixed_point(
                    f, _zero(x, solver), x, solver=solver.fallback, tol=tol, max_steps=1000
                ).z
            )
            for x in inputs
        ]
    learned = [*solver.parameters(), *(() if start is None else start.parameters())]
    optimizer = torch.optim.Adam([p for p in learned if p.requires_grad], lr=lesson.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, lesson.updates))
    losses = []
    for update in range(lesson.updates):
        x, target = inputs[update % len(inputs)], targets[update % len(inputs)]
        z0 = _zero(x, solver) if start is None else start(x)
        loss = _lesson_loss(solver, f, x, z0, target, lesson)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(update, losses[-1])
    return losses


def _lesson_loss(
    solver: LearnedAnderson,
    f: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    z0: Tensor,
    target: Tensor,
    lesson: SolverLesson,
) -> Tensor:
    """Weighted relative errors of the start and of the unrolled iterates."""
    goal, z = target.flatten(1), z0.flatten(1)
    size = torch.linalg.vector_norm(goal, dim=1)
    error = torch.linalg.vector_norm(z - goal, dim=1) / size
    learned = float(z0.requires_grad)  # a start that is not learned would add a constant
    loss: Tensor = learned * lesson.start_weight * error.square().mean()
    window = solver.init(z)
    total = lesson.horizon * (lesson.horizon + 1) / 2
    for k in range(1, lesson.horizon + 1):
        fz = f(z.reshape(target.shape), x).flatten(1)
        z, window = solver.propose(z, fz, window)
        error = torch.linalg.vector_norm(z - goal, dim=1) / size
        loss = loss + k / total * error.mean()
    return loss


def _zero(x: Tensor, solver: LearnedAnderson) -> Tensor:
    return x.new_zeros(*x.shape[:-1], solver.dim)


def _tensor(z: object) -> Tensor:
    if not isinstance(z, Tensor):
        raise InvalidInput("a learned solver serves states of one tensor (B, R, dim)")
    return z
