"""What a fixed-point solver is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from driftwell.fixed_points.iteration import RunningMap


class Solver(ABC):
    """Rule for the next iterate of z = f(z); a frozen dataclass of its settings.

    A solver never looks at tolerances and never mixes samples: the verb evaluates f once per step,
    judges convergence per sample, freezes what is finished and keeps the best. A solver that needs
    more evaluations within its step calls `f` itself, and they are counted. States arrive flat,
    (B, D), in float32 or wider. `init` and `step` hold no data-dependent Python, so that a loop
    over them can be compiled.
    """

    @abstractmethod
    def init(self, z: Tensor) -> Any:
        """Carry before the first step, for the start `z` (B, D).

        A tuple whose tensors all have the batch first, or an empty tuple.
        """

    @abstractmethod
    def step(self, z: Tensor, fz: Tensor, carry: Any, f: RunningMap) -> tuple[Tensor, Any]:
        """Next iterate (B, D) and carry.

        Args:
            z: the iterate, (B, D).
            fz: f(z), (B, D).
            carry: what the last step, or `init`, gave.
            f: the map itself; ``f(z)`` is one more evaluation, ``f.law`` the callable that the
                user gave (None within an adjoint) and ``f.x`` its input.
        """

    def select(self, carry: Any, rows: Tensor) -> Any:
        """Carry of the samples `rows` (LongTensor) only, when others leave the batch."""
        return tuple(part[rows] if isinstance(part, Tensor) else part for part in carry)
