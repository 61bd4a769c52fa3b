"""`fit`: the training loop, one that can be read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, final

import torch
from torch import Tensor

from driftwell.core.errors import Diverged, InvalidInput
from driftwell.core.world import World

SECONDS_BETWEEN_CHECKPOINTS = 30.0


class Trainer(Protocol):
    """What `fit` trains: an update depends on its index, the seed and the tensors only."""

    def update(self, index: int) -> dict[str, float]:
        """Make update `index` (from 0) and return its metrics."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is needed to go on; called on all processes together."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned."""
        ...


@final
@dataclass(frozen=True)
class Budget:
    """When to stop: after so many updates or so much time, all sessions of a run together.

    Raises:
        InvalidInput: none or both given, or one that is not positive.

    Example:
        >>> Budget(updates=10).spent(10, seconds=0.0), Budget(minutes=1).spent(10, seconds=59.0)
        (True, False)
    """

    updates: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.updates is None) == (self.minutes is None):
            raise InvalidInput(
                f"a budget is updates or minutes, got updates={self.updates}, "
                f"minutes={self.minutes}"
            )
        if not (self.updates or self.minutes or 0) > 0:
            raise InvalidInput(f"a budget must be positive, got {self}")

    def spent(self, updates: int, seconds: float) -> bool:
        """Whether `updates` done in `seconds` are enough."""
        if self.updates is not None:
            return updates >= self.updates
        return seconds >= 60.0 * (self.minutes or 0.0)


@final
@dataclass(frozen=True)
class Fitted:
    """How a training ended: updates done and seconds spent, all sessions together."""

    updates: int
    seconds: float
    reason: Literal["finished", "interrupted"]


def fit(
    trainer: Trainer,
    budget: Budget,
    *,
    start: int = 0,
    seconds: float = 0.0,
    on_update: Callable[[int, float, dict[str, float]], None] | None = None,
    checkpoint: Callable[[int, float, dict[str, Tensor]], None] | None = None,
    checkpoint_every: int | None = None,
    interrupted: Callable[[], bool] | None = None,
    world: World | None = None,
) -> Fitted:
    """Train until the budget is spent.

    Time decides when to stop and when to save, never what an update does.

    Args:
        trainer: what is trained.
        budget: when to stop.
        start: updates already done.
        seconds: time already spent on them.
        on_update: called as on_update(updates done, seconds, metrics).
        checkpoint: called as checkpoint(updates done, seconds, tensors), on the leader only: at
            the interval, and at the end.
        checkpoint_every: updates between checkpoints; None: every half minute.
        interrupted: asked after each update; True ends the training after a checkpoint.
        world: processes that train together; they stop and save at the same updates.

    Raises:
        Diverged: an update gave NaN or infinite numbers; no checkpoint of them is made.

    Example:
        >>> class Counter:
        ...     def update(self, index): return {"index": float(index)}
        ...     def tensors(self): return {}
        ...     def restore(self, tensors): pass
        >>> fit(Counter(), Budget(updates=3)).updates
        3
    """
    world = world or World()
    began = time.monotonic() - seconds
    done, saved, saved_at = start, start, seconds
    while not world.any(world.leader and budget.spent(done, time.monotonic() - began)):
        metrics = trainer.update(done)
        done += 1
        _check_metrics(metrics, done)
        now = time.monotonic() - began
        if on_update:
            on_update(done, now, metrics)
        stop = world.any(interrupted is not None and interrupted())
        if checkpoint_every is None:
            due = world.any(world.leader and now - saved_at >= SECONDS_BETWEEN_CHECKPOINTS)
        else:
            due = done % checkpoint_every == 0
        if due or stop:
            _save(trainer, checkpoint, done, now, world)
            saved, saved_at = done, now
        if stop:
            return Fitted(done, now, "finished" if budget.spent(done, now) else "interrupted")
    now = time.monotonic() - began
    if saved < done:
        _save(trainer, checkpoint, done, now, world)
    return Fitted(done, now, "finished")


def _save(
    trainer: Trainer,
    checkpoint: Callable[[int, float, dict[str, Tensor]], None] | None,
    done: int,
    seconds: float,
    world: World,
) -> None:
    if checkpoint is None:
        return
    tensors = trainer.tensors()  # on every process: their chains are gathered
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise Diverged(f"by update {done} {name} holds NaN or infinite numbers")
    if world.leader:
        checkpoint(done, seconds, tensors)


def _check_metrics(metrics: dict[str, float], done: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"at update {done} {name} is {value}")
