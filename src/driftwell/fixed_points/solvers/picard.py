"""Picard iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.fixed_points.solvers.solver import Solver

if TYPE_CHECKING:
    from driftwell.fixed_points.iteration import RunningMap


@final
@dataclass(frozen=True)
class Picard(Solver):
    """Picard (plain) iteration with damping, from Picard, *Mémoire sur la théorie des équations
    aux dérivées partielles*, 1890.

    z <- z + damping * (f(z) - z). Converges at the rate |1 - damping + damping * lambda| of the
    worst eigenvalue lambda of df/dz; damping < 1 cures eigenvalues near -1.

    Args:
        damping: in (0, 1].

    Raises:
        InvalidInput: damping outside (0, 1].

    Example:
        >>> import torch, driftwell as dw
        >>> dw.fixed_point(torch.cos, torch.zeros(1, 1), solver=Picard()).z
        tensor([[0.739...]])
    """

    damping: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.damping <= 1.0:
            raise InvalidInput(f"Picard(damping=...) must be in (0, 1], got {self.damping}")

    def init(self, z: Tensor) -> tuple[()]:
        """Nothing is carried."""
        return ()

    def step(
        self, z: Tensor, fz: Tensor, carry: tuple[()], f: RunningMap
    ) -> tuple[Tensor, tuple[()]]:
        """z + damping * (f(z) - z)."""
        if self.damping == 1.0:
            return fz, ()
        return z + self.damping * (fz - z), ()
