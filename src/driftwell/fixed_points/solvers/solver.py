"""What a fixed-point solver is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor


class Solver(ABC):
    """Rule for the next iterate of z = f(z); a frozen dataclass of its settings.

    A solver never calls f, never looks at tolerances and never mixes samples: the verb evaluates
    f once per step, judges convergence per sample, freezes what is finished and keeps the best.
    States arrive flat, (B, D), in float32 or wider. `init` and `step` hold no data-dependent
    Python, so that a loop over them can be compiled.
    """

    @abstractmethod
    def init(self, z: Tensor) -> Any:
        """Carry before the first step, for the start `z` (B, D).

        A tuple whose tensors all have the batch first, or an empty tuple.
        """

    @abstractmethod
    def step(self, z: Tensor, fz: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """Next iterate (B, D) and carry, from the iterate `z` and `fz` = f(z), both (B, D)."""

    def select(self, carry: Any, rows: Tensor) -> Any:
        """Carry of the samples `rows` (LongTensor) only, when others leave the batch."""
        return tuple(part[rows] if isinstance(part, Tensor) else part for part in carry)
