"""`Reporter`: how runs of one kind are measured, drawn and put on a page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, final

from driftwell.report.parts import Plate, Table

Progress = Callable[[int, int], None]

_MODULES = {
    "nlm": "driftwell.report.langevin",
    "deq": "driftwell.report.deq",
    "ignn": "driftwell.report.ignn",
    "lpn": "driftwell.report.lpn",
}


class Measured(Protocol):
    """What a reporter measured."""

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values, NaN as None."""
        ...


@final
@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Attributes:
        samples: how many images to generate, or to measure on; None: the reporter's default.
        seed: of all noise.
        likelihood: estimate the log-likelihood whatever the size, where there is one.
        progress: called as progress(done, 100).
    """

    samples: int | None = None
    seed: int = 0
    likelihood: bool = False
    progress: Progress | None = None

    def tell(self, percent: int) -> None:
        """Say how much is done."""
        if self.progress:
            self.progress(percent, 100)


class Reporter(ABC):
    """Measures and shows runs of one kind; runs and measurements are of its own types."""

    @abstractmethod
    def measure(self, run: Any, request: Request) -> Measured:
        """The measurements of a run.

        Raises:
            InvalidInput: data of the run that are not there any more, or too few samples.
        """

    @abstractmethod
    def headline(self, numbers: dict[str, Any]) -> str:
        """A line above the tables, after the run's name, preset and update."""

    @abstractmethod
    def tables(self, numbers: dict[str, Any]) -> list[Table]:
        """The numbers of `Measured.to_json` as tables for a terminal."""

    @abstractmethod
    def draw(self, run: Any, found: Any) -> dict[str, Plate]:
        """All figures by name.

        Raises:
            MissingExtra: matplotlib is not installed.
        """

    @abstractmethod
    def render(self, run: Any, found: Any, plates: dict[str, Plate]) -> str:
        """HTML of the page."""


def find_reporter(name: str) -> Reporter:
    """The reporter of a kind of runs; its module is imported only now.

    Example:
        >>> type(find_reporter("nlm")).__name__
        'LangevinReporter'
    """
    found: Reporter = import_module(_MODULES[name]).REPORTER
    return found
