"""Anderson acceleration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.fixed_points.solvers.solver import Solver

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
    `last_value` are (B, D); `taken` is the number of steps taken.
    """

    residuals: Tensor
    values: Tensor
    gram: Tensor
    used: Tensor
    last_residual: Tensor
    last_value: Tensor
    taken: int


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
    gains one row a step and is solved in float64 (float32 where the device has no float64).

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
        rings = z.new_zeros(2, batch, m, z.shape[1])
        wide = torch.float32 if z.device.type == "mps" else torch.float64
        return History(
            residuals=rings[0],
            values=rings[1],
            gram=z.new_zeros(batch, m, m, dtype=wide),
            used=z.new_zeros(batch, m, dtype=torch.bool),
            last_residual=torch.zeros_like(z),
            last_value=torch.zeros_like(z),
            taken=0,
        )

    def step(self, z: Tensor, fz: Tensor, carry: History) -> tuple[Tensor, History]:
        """Accelerated iterate (B, D) and the longer history."""
        residual = fz - z
        if carry.taken == 0:
            later = carry._replace(last_residual=residual, last_value=fz, taken=1)
            return z + self.damping * residual, later
        slot = (carry.taken - 1) % self.memory
        difference = residual - carry.last_residual
        residuals = _write(carry.residuals, slot, difference)
        values = _write(carry.values, slot, fz - carry.last_value)
        # One pass over the ring gives the Gram matrix its new row and the right-hand side.
        products = torch.bmm(torch.stack([difference, residual], dim=1), residuals.mT)
        row, target = products.to(carry.gram.dtype).unbind(dim=1)
        gram = _write(carry.gram, slot, row)
        gram = _write(gram.mT, slot, row).mT
        used = _forget(carry.used, slot, residual, carry.last_residual, self.restart)
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


def _write(ring: Tensor, slot: int, entry: Tensor) -> Tensor:
    """`ring` with `entry` at `[:, slot]`: in place, unless autograd has to remember the ring."""
    if entry.requires_grad or ring.requires_grad:
        ring = ring.clone()
    ring[:, slot] = entry
    return ring


def _forget(used: Tensor, slot: int, residual: Tensor, last: Tensor, restart: float) -> Tensor:
    """Slots in use after this step; none where the residual grew by more than `restart`."""
    size = torch.linalg.vector_norm(residual.detach(), dim=1)
    before = torch.linalg.vector_norm(last.detach(), dim=1)
    used = used.clone()
    used[:, slot] = True
    steady: Tensor = size <= restart * before
    return used & steady[:, None]


def _mix(gram: Tensor, target: Tensor, used: Tensor, ridge: float) -> Tensor:
    """Mixing weights gamma (B, m): the ridge solve over the used slots, zero elsewhere."""
    length2 = torch.diagonal(gram, dim1=1, dim2=2)
    used = used & (length2 > 0)
    # Unused slots become rows of the identity: no branch, and nothing to divide by zero.
    scale = torch.where(used, torch.where(used, length2, 1.0).rsqrt(), 0.0)
    scaled = scale[:, :, None] * gram * scale[:, None, :]
    diagonal = torch.where(used, ridge, 1.0).to(gram.dtype)
    weights, info = torch.linalg.solve_ex(
        scaled + torch.diag_embed(diagonal), scale * torch.where(used, target, 0.0)
    )
    solved = (info == 0)[:, None] & torch.isfinite(weights)
    gamma: Tensor = torch.where(solved, weights, 0.0) * scale
    return gamma
