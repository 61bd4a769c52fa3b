"""Progress: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, final

SECONDS_BETWEEN_LINES = 10.0


@final
class Bar:
    """Progress of something with a known or an unknown end, on standard error.

    Use it as a context and call `show`.

    Args:
        title: what goes on, such as ``"training"``.
        total: where it ends, in `unit`s; with `minutes`, the time it may take.
        unit: what is counted, such as ``"updates"``.
        quiet: show nothing.
        minutes: time decides the end and not the count.

    Example:
        >>> with Bar("training", 10, "updates", quiet=True) as bar:
        ...     bar.show(1, "loss 0.3")
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        *,
        quiet: bool = False,
        minutes: float | None = None,
    ) -> None:
        self.title, self.total, self.unit, self.quiet = title, total, unit, quiet
        self.minutes = minutes
        self.rich: Any = None
        self.task: Any = None
        self.begin(0, 0.0)

    def begin(self, done: int, seconds: float) -> None:
        """Count from here: `done` units were made in `seconds` before, by somebody else."""
        self.start, self.before = done, seconds
        self.began = self.shown = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.rich is not None:
            self.rich.stop()
            self.rich = None

    def show(self, done: int, text: str = "") -> None:
        """Note that `done` units are done, with a few words about them."""
        if self.quiet:
            return
        now = time.monotonic()
        if self.rich is None and sys.stderr.isatty():
            self._open_bar()  # not before there is something to show: errors come first
        if self.rich is not None:
            if now - self.shown >= 0.05 or done == self.total:
                self.shown = now
                self.rich.update(
                    self.task, completed=self._completed(done, now), text=text,
                    rate=self._rate(done, now),
                )  # fmt: skip
        elif now - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = now
            print(self._line(done, now, text), file=sys.stderr, flush=True)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.rich = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.fields[rate]}"),
            TextColumn("left"), TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[text]}", style="dim"),
            console=Console(stderr=True), transient=False,
        )  # fmt: skip
        whole = 60.0 * self.minutes if self.minutes is not None else self.total
        self.task = self.rich.add_task(
            self.title, total=whole, completed=self._completed(self.start, self.began), text="",
            rate="",
        )  # fmt: skip
        self.rich.start()

    def _completed(self, done: int, now: float) -> float:
        return float(done) if self.minutes is None else self.before + now - self.began

    def _rate(self, done: int, now: float) -> str:
        if self.unit == "%":
            return ""
        rate = (done - self.start) / max(now - self.began, 1e-9)
        return f"{rate:.3g} {self.unit}/s"

    def _line(self, done: int, now: float, text: str) -> str:
        rate = (done - self.start) / max(now - self.began, 1e-9)
        if self.minutes is not None:
            left = 60.0 * self.minutes - self._completed(done, now)
        else:
            left = ((self.total or done) - done) / max(rate, 1e-9)
        if self.unit == "%":
            return f"{self.title}: {done} %, {_clock(left)} left"
        of = f" of {self.total}" if self.total is not None and self.minutes is None else ""
        return (
            f"{self.title}: {done}{of} {self.unit}, {rate:.3g}/s, "
            f"{_clock(max(left, 0.0))} left{', ' + text if text else ''}"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def in_words(metrics: dict[str, float], most: int = 3) -> str:
    """The first few metrics on one line.

    Example:
        >>> in_words({"gradient": 0.00123, "energy": 0.5})
        'gradient 0.00123, energy 0.5'
    """
    return ", ".join(f"{name} {value:.3g}" for name, value in list(metrics.items())[:most])
