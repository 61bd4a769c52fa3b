"""Distillation of a solver's trajectories into a consistency student."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform
from driftwell.models.equilibrium.consistency import CDEQ, ConsistencyDEQ
from driftwell.models.equilibrium.recorded_solves import RecordedSolve


@final
@dataclass(frozen=True)
class Distillation:
    """How a consistency student learns from recorded solves, from Lin et al., *Consistency Deep
    Equilibrium Models*, 2026, arXiv:2602.03024.

        loss = w SmoothL1(F(z_j, t_j), z*) + (1 - w) MSE(F(z_j, t_j), F_avg(z_{j+1}, t_{j+1}))

    F_avg has exponentially averaged weights, is not differentiated, and sits on the point nearer
    to z*. Adam; its rate falls to zero as a cosine.

    Args:
        updates: number of steps, at least 1.
        batch: trajectories a step, at least 1.
        points: points of each trajectory a step, at least 1.
        learning_rate: of Adam at the start, positive.
        decay: of the averaged weights, in [0, 1).
        share: w, in [0, 1].

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> from driftwell.models.equilibrium.recorded_solves import record_trajectory
        >>> record = record_trajectory(torch.cos, torch.zeros(4, 2), steps=5)
        >>> losses = Distillation(updates=3).run(ConsistencyDEQ(torch.cos, dim=2), record)
        >>> len(losses)
        3
    """

    papers = (CDEQ,)

    updates: int = 2000
    batch: int = 16
    points: int = 8
    learning_rate: float = 1e-3
    decay: float = 0.98
    share: float = 0.9

    def __post_init__(self) -> None:
        if min(self.updates, self.batch, self.points) < 1:
            raise InvalidInput(
                "Distillation needs updates, batch and points of at least 1, "
                f"got {self.updates}, {self.batch} and {self.points}"
            )
        if not 0.0 < self.learning_rate < float("inf"):
            raise InvalidInput(f"learning_rate must be positive, got {self.learning_rate}")
        if not (0.0 <= self.decay < 1.0 and 0.0 <= self.share <= 1.0):
            raise InvalidInput(
                f"decay must be in [0, 1) and share in [0, 1], got {self.decay} and {self.share}"
            )

    def run(self, student: ConsistencyDEQ, record: RecordedSolve, seed: int = 0) -> list[float]:
        """Train the student in place; returns the loss of every step.

        Args:
            student: its network g is changed.
            record: trajectories on training inputs.
            seed: of the keyed choice of trajectories and points.
        """
        average = copy.deepcopy(student.g).requires_grad_(False)
        optimizer = torch.optim.Adam(student.g.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.updates)
        losses = []
        for update in range(self.updates):
            rows, points = self._draw(record, seed, update)
            loss = self.loss(student, average, record, rows, points)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            _follow(average, student.g, self.decay)
            losses.append(float(loss.detach()))
        return losses

    def loss(
        self,
        student: ConsistencyDEQ,
        average: nn.Module,
        record: RecordedSolve,
        rows: Tensor,
        points: Tensor,
    ) -> Tensor:
        """The loss at the points z_j, j = `points` (n,), of the trajectories `rows` (n,)."""
        times = student.times(record.steps).to(record.z)
        jumped = student.jump(record.z[points, rows], record.fz[points, rows], times[points])
        with torch.no_grad():
            nearer = points + 1
            target = student.jump(
                record.z[nearer, rows], record.fz[nearer, rows], times[nearer], average
            )
        far = functional.smooth_l1_loss(jumped, record.z[-1, rows])
        near = functional.mse_loss(jumped, target)
        return self.share * far + (1.0 - self.share) * near

    def _draw(self, record: RecordedSolve, seed: int, update: int) -> tuple[Tensor, Tensor]:
        """Rows and points j < K of one step, each (batch * points,)."""
        draws = uniform(
            (self.batch, self.points + 1), seed=seed, purpose=Purpose.DATA, chains=self.batch,
            step=update, dtype=torch.float64, device=record.z.device,
        )  # fmt: skip
        rows = (draws[:, :1] * record.z.shape[1]).long().expand(-1, self.points)
        return rows.reshape(-1), (draws[:, 1:] * record.steps).long().reshape(-1)


def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, now in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(now, 1.0 - decay)
