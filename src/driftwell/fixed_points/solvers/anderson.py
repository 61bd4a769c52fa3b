"""Anderson acceleration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.fixed_points.solvers import anderson_kernel
from driftwell.fixed_points.solvers.solver import Solver

if TYPE_CHECKING:
    from driftwell.fixed_points.iteration import RunningMap

WALKER_NI = Paper(
    key="walker2011anderson",
    title="Anderson acceleration for fixed-point iterations",
    authors="Walker, Homer F. and Ni, Peng",
    year=2011,
    venue="SIAM Journal on Numerical Analysis 49(4)",
    doi="10.1137/10078356X",
)


class History(NamedTuple):
    """What Anderson carries: the last m differences, as rings, and their Gram matrix.

    `residuals` and `values` are (B, m, D), differences of r = f(z) - z and of f(z); `gram` is
    (B, m, m) in float64; `used` (B, m) says which slots hold something; `last_residual` and
    `last_value` are (B, D); `taken` (B,) is the number of steps. A step may write into them.
    """

    residuals: Tensor
    values: Tensor
    gram: Tensor
    used: Tensor
    last_residual: Tensor
    last_value: Tensor
    taken: Tensor


@final
@dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration, type II, from Walker and Ni, *Anderson acceleration for fixed-point
    iterations*, 2011, with a ridge relative to the scale of the residuals.

    With r = f(z) - z, dR and dF the last `memory` differences of r and of f(z):

        gamma = argmin |r - dR gamma|^2 + ridge * |S gamma|^2,  S = diag(|dR_1|, ..., |dR_m|)
        z <- f(z) - dF gamma - (1 - damping) * (r - dR gamma)

    Every column is measured in its own length, so neither the units of z nor how small the
    residuals have become changes the iterates. Each sample has its own gamma; the Gram matrix
    gains one row a step and is solved in float64 (float32 where the device has no float64). On the
    processor the step is a compiled kernel, unless it is recorded, compiled or batched by torch.

    Args:
        memory: number of differences kept, at least 1.
        damping: mixing, in (0, 1]; 1 takes the full accelerated step.
        ridge: relative Tikhonov term, at least 0.
        restart: a sample whose residual norm grew by more than this factor forgets its history
            and takes a Picard step; at least 1.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> import driftwell as dw
        >>> dw.fixed_point(torch.cos, torch.zeros(1, 1), solver=Anderson(memory=2)).steps
        tensor([6])
    """

    papers = (WALKER_NI,)

    memory: int = 6
    damping: float = 1.0
    ridge: float = 1e-8
    restart: float = 2.0

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise InvalidInput(
                f"Anderson(memory=...) must be at least 1, got {self.memory}; "
                "use Picard() for no memory"
            )
        if not 0.0 < self.damping <= 1.0:
            raise InvalidInput(f"Anderson(damping=...) must be in (0, 1], got {self.damping}")
        if not 0.0 <= self.ridge < 1.0:
            raise InvalidInput(f"Anderson(ridge=...) must be in [0, 1), got {self.ridge}")
        if not self.restart >= 1.0:
            raise InvalidInput(f"Anderson(restart=...) must be at least 1, got {self.restart}")

    def init(self, z: Tensor) -> History:
        """Empty history for the start `z` (B, D)."""
        batch, m = z.shape[0], self.memory
        wide = torch.float32 if z.device.type == "mps" else torch.float64
        return History(
            residuals=z.new_zeros(batch, m, z.shape[1]),
            values=z.new_zeros(batch, m, z.shape[1]),
            gram=z.new_zeros(batch, m, m, dtype=wide),
            used=z.new_zeros(batch, m, dtype=torch.bool),
            last_residual=torch.zeros_like(z),
            last_value=torch.zeros_like(z),
            taken=torch.zeros(batch, dtype=torch.int64, device=z.device),
        )

    def step(self, z: Tensor, fz: Tensor, carry: History, f: RunningMap) -> tuple[Tensor, History]:
        """Accelerated iterate (B, D) and the longer history."""
        if anderson_kernel.applies(self, z, fz, carry):
            return anderson_kernel.step(self, z, fz, carry)
        m, residual = self.memory, fz - z
        slots = torch.arange(m, device=z.device)
        here = slots == ((carry.taken + m - 1) % m)[:, None]
        residuals = _write(carry.residuals, here, residual - carry.last_residual)
        values = _write(carry.values, here, fz - carry.last_value)
        # One pass over the ring gives the Gram matrix its new row and the right-hand side.
        both = torch.stack([residual - carry.last_residual, residual], dim=1)
        row, target = torch.bmm(both, residuals.mT).to(carry.gram.dtype).unbind(dim=1)
        gram = torch.where(here[:, :, None], row[:, None, :], carry.gram)
        gram = torch.where(here[:, None, :], row[:, :, None], gram)
        # Before the first step there is no difference: that slot holds nothing yet.
        used = (here & (carry.taken > 0)[:, None]) | (~here & carry.used)
        used = used & _steady(residual, carry.last_residual, self.restart)
        gamma = _mix(gram, target, used, self.ridge).to(z.dtype)[:, None, :]
        after = fz - torch.bmm(gamma, values).squeeze(1)
        if self.damping < 1.0:
            after = after - (1.0 - self.damping) * (
                residual - torch.bmm(gamma, residuals).squeeze(1)
            )
        return after, History(residuals, values, gram, used, residual, fz, carry.taken + 1)

    def select(self, carry: History, rows: Tensor) -> History:
        """History of the samples `rows` only."""
        return History(*super().select(carry, rows))


def _write(ring: Tensor, here: Tensor, entry: Tensor) -> Tensor:
    """`ring` (B, m, D) with `entry` (B, D) in the slots `here` (B, m)."""
    return torch.where(here[:, :, None], entry[:, None, :], ring)


def _steady(residual: Tensor, last: Tensor, restart: float) -> Tensor:
    """Whether the residual grew by no more than the factor `restart`, (B, 1)."""
    size = torch.linalg.vector_norm(residual.detach(), dim=1, keepdim=True)
    before = torch.linalg.vector_norm(last.detach(), dim=1, keepdim=True)
    steady: Tensor = size <= restart * before
    return steady


def _mix(gram: Tensor, target: Tensor, used: Tensor, ridge: float) -> Tensor:
    """Mixing weights gamma (B, m): the ridge solve over the used slots, zero elsewhere."""
    length2 = torch.diagonal(gram, dim1=1, dim2=2)
    used = used & (length2 > 0)
    # Unused slots become rows of the identity: no branch, and nothing to divide by zero.
    scale = torch.where(used, torch.where(used, length2, 1.0).rsqrt(), 0.0)
    scaled = scale[:, :, None] * gram * scale[:, None, :]
    diagonal = torch.where(used, ridge, 1.0).to(gram.dtype)
    matrix, wanted = scaled + torch.diag_embed(diagonal), scale * torch.where(used, target, 0.0)
    weights = (
        _eliminate(matrix, wanted) if torch.compiler.is_exporting() else _solve(matrix, wanted)
    )
    return torch.where(torch.isfinite(weights), weights, 0.0) * scale


def _solve(matrix: Tensor, wanted: Tensor) -> Tensor:
    """matrix^-1 wanted, (B, m); NaN where the matrix is singular."""
    weights, info = torch.linalg.solve_ex(matrix, wanted)
    return torch.where((info == 0)[:, None], weights, torch.nan)


def _eliminate(matrix: Tensor, wanted: Tensor) -> Tensor:
    """The same by Gauss-Jordan steps, for formats without linear algebra such as ONNX.

    No pivots: the matrix is positive with a unit diagonal, up to the ridge.
    """
    table = torch.cat([matrix, wanted[:, :, None]], dim=2)
    for k in range(matrix.shape[1]):
        pivot = table[:, k : k + 1] / table[:, k : k + 1, k : k + 1]
        rest = table - table[:, :, k : k + 1] * pivot
        table = torch.cat([rest[:, :k], pivot, rest[:, k + 1 :]], dim=1)
    return table[:, :, -1]
