"""A classifier whose hidden state is the equilibrium of a monotone layer."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.results import FixedPoint
from driftwell.fixed_points import Gradient, Implicit, Solver, fixed_point
from driftwell.fixed_points.solvers.newton_krylov import NewtonKrylov
from driftwell.fixed_points.solvers.peaceman_rachford import PeacemanRachford
from driftwell.nn.monotone import WINSTON_KOLTER, Clamp, MonotoneLayer, Prox


@final
class MonotoneDEQ(nn.Module):
    """Monotone operator equilibrium network (monDEQ), from Winston and Kolter, *Monotone operator
    equilibrium networks*, 2020, arXiv:2006.08591, as a classifier of vectors.

        z* = prox(W z* + U x + b),   logits = V z* + c,   W = (1 - m) I - A^T A + B - B^T

    The equilibrium exists and is unique for every value of the weights, so that training needs no
    penalty to stay solvable. The adjoint is solved by GMRES, which needs no contraction.

    Args:
        inputs: width of x.
        width: width of the state.
        classes: number of logits.
        margin: m, positive.
        prox: the activation.
        gain: scale of A and B at the start.
        solver: for the equilibrium.
        gradient: through it; None takes `Implicit` with GMRES, `krylov` at most 40.
        tol: of the equilibrium, relative.
        max_steps: evaluations that are allowed.
        seed: of the weights.

    Raises:
        InvalidInput: a size below 1 or a setting out of range.

    Example:
        >>> model = MonotoneDEQ(4, 16, 3)
        >>> model(torch.ones(2, 4)).shape
        torch.Size([2, 3])
    """

    papers = (WINSTON_KOLTER,)

    def __init__(
        self,
        inputs: int,
        width: int,
        classes: int,
        *,
        margin: float = 1.0,
        prox: Prox = Clamp(),
        gain: float = 0.5,
        solver: Solver = PeacemanRachford(),
        gradient: Gradient | None = None,
        tol: float = 1e-4,
        max_steps: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise InvalidInput(f"classes must be at least 1, got {classes}")
        self.layer = MonotoneLayer(inputs, width, margin=margin, prox=prox, gain=gain, seed=seed)
        generator = torch.Generator().manual_seed(seed + 1)
        # nn.Linear alone would draw from the global random state
        self.readout = nn.utils.skip_init(nn.Linear, width, classes)
        with torch.no_grad():
            start = torch.randn(classes, width, generator=generator) / width**0.5
            self.readout.weight.copy_(start)
            self.readout.bias.zero_()
        self.solver, self.tol, self.max_steps = solver, tol, max_steps
        gmres = Implicit(solver=NewtonKrylov(krylov=min(width, 40)), tol=tol, max_steps=400)
        self.gradient = gmres if gradient is None else gradient

    def equilibrium(self, x: Tensor) -> FixedPoint:
        """The state's fixed point for x (B, inputs), from zero."""
        start = x.new_zeros(len(x), self.layer.width)
        return fixed_point(
            self.layer.law(), start, x, solver=self.solver, gradient=self.gradient,
            tol=self.tol, max_steps=self.max_steps,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of x (B, inputs)."""
        logits: Tensor = self.readout(self.equilibrium(x).z)
        return logits
