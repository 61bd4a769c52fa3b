"""Forward-backward splitting of a monotone law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.fixed_points.solvers.solver import Solver
from driftwell.nn.monotone import WINSTON_KOLTER, MonotoneLaw

if TYPE_CHECKING:
    from driftwell.fixed_points.iteration import RunningMap


@final
@dataclass(frozen=True)
class ForwardBackward(Solver):
    """Forward-backward splitting for monotone laws, as in Winston and Kolter, *Monotone operator
    equilibrium networks*, 2020, arXiv:2006.08591.

        z <- prox_alpha(z - alpha ((I - W) z - (U x + b)))

    With m the margin and L = |I - W| it converges for alpha < 2 m / L^2, at the linear rate
    sqrt(1 - 2 alpha m + alpha^2 L^2): at best sqrt(1 - m^2 / L^2), for alpha = m / L^2. Its step is
    two products with W, one of them f itself for the test of convergence. `PeacemanRachford` is
    faster wherever an n x n inverse can be afforded. It does not run in a `WhileLoop`.

    Args:
        alpha: step, positive; None takes m / L^2, and with it the spectral norm of I - W.

    Raises:
        InvalidInput: alpha not positive, or a law that is not a `MonotoneLaw`.

    Example:
        >>> import torch, driftwell as dw
        >>> from driftwell.nn.monotone import MonotoneLayer
        >>> law = MonotoneLayer(2, 3, gain=0.3, seed=0).law()
        >>> x, z0 = torch.ones(1, 2), torch.zeros(1, 3)
        >>> dw.fixed_point(law, z0, x, solver=ForwardBackward()).status
        tensor([0], dtype=torch.int8)
    """

    papers = (WINSTON_KOLTER,)

    alpha: float | None = None

    def __post_init__(self) -> None:
        check_alpha(self, self.alpha)

    def init(self, z: Tensor) -> tuple[()]:
        """Nothing is carried."""
        return ()

    def step(
        self, z: Tensor, fz: Tensor, carry: tuple[()], f: RunningMap
    ) -> tuple[Tensor, tuple[()]]:
        """A gradient step on the linear part, then the prox."""
        law = monotone_law(self, f)
        alpha = law.margin / law.lipschitz() ** 2 if self.alpha is None else self.alpha
        z = z.to(law.W.dtype)
        forward = z - alpha * (z - law.linear(z) - law.drive(f.x))
        return law.prox(forward, alpha).to(fz.dtype), ()


def monotone_law(solver: Solver, f: RunningMap) -> MonotoneLaw:
    """The law behind `f`.

    Raises:
        InvalidInput: it is not monotone, or has no input x.
    """
    if not isinstance(f.law, MonotoneLaw):
        what = "an adjoint or a torch.func transform" if f.law is None else type(f.law).__name__
        raise InvalidInput(
            f"{type(solver).__name__}() solves a MonotoneLaw, such as MonotoneLayer(...).law(), "
            f"got {what}; use Anderson() or NewtonKrylov() for other maps and for adjoints"
        )
    if not isinstance(f.x, Tensor):
        raise InvalidInput(f"a MonotoneLaw needs an input x (B, inputs), got {type(f.x).__name__}")
    return f.law


def check_alpha(solver: Solver, alpha: float | None) -> None:
    """Raise `InvalidInput` unless alpha is positive and finite, or None."""
    if alpha is not None and not 0.0 < alpha < torch.inf:
        raise InvalidInput(f"{type(solver).__name__}(alpha=...) must be positive, got {alpha}")
