"""The loop: it stops where it should, saves what is good, and tells when numbers are not."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import Diverged, InvalidInput
from driftwell.training import fit as loop
from driftwell.training.fit import Budget, fit
from driftwell.training.signals import StopOnSignal


@dataclass
class Counter:
    """A trainer whose state is the list of updates it made."""

    bad_metric: int = -1
    bad_tensor: int = -1
    made: list[int] = field(default_factory=list)

    def update(self, index: int) -> dict[str, float]:
        self.made.append(index)
        return {"loss": float("nan") if index == self.bad_metric else 1.0 / (1 + index)}

    def tensors(self) -> dict[str, Tensor]:
        last = self.made[-1] if self.made else -1
        return {"w": torch.tensor([float("inf") if 0 <= self.bad_tensor <= last else float(last)])}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        del tensors

    def warnings(self) -> list[str]:
        return []


@dataclass
class Saved:
    """Remembers what was to be saved."""

    updates: list[int] = field(default_factory=list)

    def __call__(self, done: int, seconds: float, tensors: dict[str, Tensor]) -> None:
        assert float(tensors["w"]) == done - 1, "the tensors belong to this update"
        self.updates.append(done)


def test_updates_are_counted_over_all_sessions() -> None:
    trainer, saved = Counter(), Saved()
    found = fit(trainer, Budget(updates=10), start=4, checkpoint=saved, checkpoint_every=3)
    assert trainer.made == [4, 5, 6, 7, 8, 9]
    assert saved.updates == [6, 9, 10], "at multiples of the interval, and at the end"
    assert (found.updates, found.reason) == (10, "finished")


def test_the_end_is_saved_once() -> None:
    saved = Saved()
    fit(Counter(), Budget(updates=6), checkpoint=saved, checkpoint_every=3)
    assert saved.updates == [3, 6]


def test_a_spent_budget_does_nothing() -> None:
    trainer, saved = Counter(), Saved()
    fit(trainer, Budget(updates=4), start=4, checkpoint=saved)
    fit(trainer, Budget(minutes=1), start=4, seconds=60.0, checkpoint=saved)
    assert (trainer.made, saved.updates) == ([], [])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever it is read."""
    now = iter(range(10**6))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(now)))


@pytest.mark.usefixtures("clock")
def test_minutes_decide_only_when_to_stop() -> None:
    first, second = Counter(), Counter()
    found = fit(first, Budget(minutes=0.5))
    assert 30 <= found.seconds <= 34
    assert first.made == list(range(found.updates))
    assert fit(second, Budget(minutes=0.5), seconds=20.0).updates < found.updates


@pytest.mark.usefixtures("clock")
def test_without_an_interval_it_saves_every_half_minute() -> None:
    saved = Saved()
    fit(Counter(), Budget(updates=100), checkpoint=saved)
    gaps = {b - a for a, b in zip([0, *saved.updates[:-2]], saved.updates[:-1], strict=True)}
    assert gaps <= {14, 15, 16}, "two readings of the clock an update"


def test_being_interrupted_saves_the_update_just_made() -> None:
    trainer, saved = Counter(), Saved()
    found = fit(
        trainer, Budget(updates=100), checkpoint=saved, checkpoint_every=50,
        interrupted=lambda: len(trainer.made) == 7,
    )  # fmt: skip
    assert (found.updates, found.reason) == (7, "interrupted")
    assert saved.updates == [7]


@pytest.mark.parametrize("trainer", [Counter(bad_metric=7), Counter(bad_tensor=7)])
def test_bad_numbers_are_named_and_never_saved(trainer: Counter) -> None:
    saved = Saved()
    with pytest.raises(Diverged, match=r"update (8|9) (loss is nan|w holds NaN)"):
        fit(trainer, Budget(updates=100), checkpoint=saved, checkpoint_every=3)
    assert saved.updates == [3, 6]


@pytest.mark.parametrize("wrong", [{}, {"updates": 1, "minutes": 1.0}, {"updates": 0}])
def test_a_budget_is_one_positive_number(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="budget"):
        Budget(**wrong)


def test_ctrl_c_is_a_wish_first_and_an_order_then() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopOnSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with StopOnSignal(patient=True) as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
