"""Ctrl-C as a wish to stop: the update under way is finished and saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, final


@final
class StopOnSignal:
    """Context in which Ctrl-C (and a termination request) only asks to stop.

    A second Ctrl-C stops at once, unless `patient`. Outside the main thread, where Python
    allows no handlers, it does nothing.

    Args:
        patient: never stop at once, as processes that wait for each other must not.

    Attributes:
        received: number of the signal that came, or None.

    Example:
        >>> with StopOnSignal() as stop:
        ...     stop()
        False
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.received is not None

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and not self.patient:
            raise KeyboardInterrupt
        self.received = number
