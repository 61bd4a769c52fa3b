"""What a gradient through a fixed point is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from driftwell.fixed_points.iteration import Outcome, Problem


class Gradient(ABC):
    """How derivatives pass through z* = f(z*, x); a frozen dataclass of its settings.

    A gradient runs the problem, with or without recording it, and returns the outcome whose `z`
    carries the derivatives it stands for. It also raises for failed samples if the problem says
    so, before anything is spent on derivatives.
    """

    @abstractmethod
    def run(self, problem: Problem) -> Outcome:
        """Solve `problem`; derivatives of the outcome's `z` are this gradient's."""
