"""What a solver of linear systems is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from torch import Tensor

Operator: TypeAlias = Callable[[Tensor], Tensor]
"""A of A z = b: takes rows (B, D) to rows (B, D), each sample's by its own matrix."""


class Correction(NamedTuple):
    """What a cycle found, per sample.

    `z` (B, D) is to be added to the solution; `steps` (B,) are the products with A that the sample
    used; `broke_down` (B,) says that the method does not apply to its A.
    """

    z: Tensor
    steps: Tensor
    broke_down: Tensor


class LinearSolver(ABC):
    """A Krylov or splitting method for A z = b; a frozen dataclass of its settings.

    A method runs in cycles. The verb hands it the true residual, and measures it again after each
    cycle: what a recursion believes is never reported. Within a cycle it may stop early, when all
    samples believe that they met their target.
    """

    @abstractmethod
    def cycle(self, A: Operator, r: Tensor, target: Tensor, budget: int) -> Correction:
        """Approximate solution of A dz = r, starting from dz = 0.

        Args:
            A: the operator.
            r: true residuals b - A z, (B, D); zero for samples that are finished.
            target: norm that the residual of each sample should get below, (B,).
            budget: products with A that are allowed, at least 1.
        """
