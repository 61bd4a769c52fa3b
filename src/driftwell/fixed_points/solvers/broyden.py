"""Broyden's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.fixed_points.solvers.solver import Solver

if TYPE_CHECKING:
    from driftwell.fixed_points.iteration import RunningMap

BROYDEN = Paper(
    key="broyden1965",
    title="A class of methods for solving nonlinear simultaneous equations",
    authors="Broyden, C. G.",
    year=1965,
    venue="Mathematics of Computation 19(92)",
    doi="10.1090/S0025-5718-1965-0198670-6",
)


class LowRank(NamedTuple):
    """What Broyden carries: H = -I + sum_j u_j v_j^T as two rings, and where it came from.

    `u` and `v` are (B, m, D), zero where nothing is held; `last_z` and `last_residual` are
    (B, D); `held` (B,) counts the updates since the last reset; `taken` (B,) the steps.
    """

    u: Tensor
    v: Tensor
    last_z: Tensor
    last_residual: Tensor
    held: Tensor
    taken: Tensor

    def apply(self, w: Tensor) -> Tensor:
        """H w, of rows (B, k, D)."""
        return torch.bmm(torch.bmm(w, self.v.mT), self.u) - w

    def apply_transposed(self, w: Tensor) -> Tensor:
        """H^T w, of rows (B, k, D)."""
        return torch.bmm(torch.bmm(w, self.u.mT), self.v) - w


@final
@dataclass(frozen=True)
class Broyden(Solver):
    """Broyden's (good) method with limited memory, from Broyden, *A class of methods for solving
    nonlinear simultaneous equations*, 1965.

    H estimates the inverse Jacobian of the residual r = f(z) - z, at first -I (a Picard step).
    With the last step s and the change y of r it makes,

        H <- H + u v^T,  u = (s - H y) / (s^T H y),  v = H^T s,        z <- z - H r

    so that H y = s and H is else as near to what it was as can be. An update whose denominator is
    small next to |s|^2 is damped (Powell, Moré and Trangenstein), so that H stays regular. Each
    sample has its own H.

    Choose it over Anderson for many digits near criticality, or to have H for the gradient
    (`SHINE`). Evaluations for a relative tolerance of 1e-4 in float32 and 1e-10 in float64
    (python bench/fixed_point_solvers.py; `Picard` reaches no 1e-10 in 600 in the last column):

        tanh, W =     i.i.d. .9     W >= 0, |W| = .90     .97         .99
        Picard         21   48         55   177        124   491    226    -
        Anderson       19   44         15    45         22    87     31  127
        Broyden        20   44         22    49         42    85     46  108
        Newton(6)      29   64         22    50         29    85     36  120

    Args:
        memory: updates kept, at least 1; the oldest is forgotten.
        growth: a sample whose residual norm grew by more than this factor forgets its updates and
            takes a Picard step; at least 1.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> import driftwell as dw
        >>> dw.fixed_point(torch.cos, torch.zeros(1, 1), solver=Broyden(), tol=1e-6).steps
        tensor([6])
    """

    papers = (BROYDEN,)

    memory: int = 20
    growth: float = 1.0

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise InvalidInput(
                f"Broyden(memory=...) must be at least 1, got {self.memory}; "
                "use Picard() for no memory"
            )
        if not self.growth >= 1.0:
            raise InvalidInput(f"Broyden(growth=...) must be at least 1, got {self.growth}")

    def init(self, z: Tensor) -> LowRank:
        """H = -I for the start `z` (B, D)."""
        u = z.new_zeros(z.shape[0], self.memory, z.shape[1])
        count = torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
        nothing = torch.zeros_like(z)
        # copies: a compiled loop wants no two names for one tensor
        return LowRank(u, u.clone(), nothing, nothing.clone(), count, count.clone())

    def step(self, z: Tensor, fz: Tensor, carry: LowRank, f: RunningMap) -> tuple[Tensor, LowRank]:
        """z - H r with the updated H, and H."""
        residual = fz - z
        s, y = z - carry.last_z, residual - carry.last_residual
        keep = (carry.taken > 0) & _steady(residual, carry.last_residual, self.growth)
        here = torch.arange(self.memory, device=z.device) == (carry.held % self.memory)[:, None]
        empty = (here | ~keep[:, None])[:, :, None]
        old = carry._replace(u=torch.where(empty, 0.0, carry.u), v=torch.where(empty, 0.0, carry.v))
        Hy, Hr = old.apply(torch.stack([y, residual], dim=1)).unbind(dim=1)
        v = old.apply_transposed(s[:, None])[:, 0]
        u = _update(s, Hy, keep)
        after = z - Hr - u * (v * residual).sum(dim=1, keepdim=True)
        mark = here[:, :, None] & keep[:, None, None]
        return after, LowRank(
            u=torch.where(mark, u[:, None], old.u),
            v=torch.where(mark, v[:, None], old.v),
            last_z=z.clone(),
            last_residual=residual,
            held=torch.where(keep, carry.held + 1, 0),
            taken=carry.taken + 1,
        )

    def select(self, carry: LowRank, rows: Tensor) -> LowRank:
        """H of the samples `rows` only."""
        return LowRank(*super().select(carry, rows))


def _update(s: Tensor, Hy: Tensor, keep: Tensor) -> Tensor:
    """u = (s - H y) / (s^T H y), damped where the denominator is small, zero where not `keep`.

    With c = s^T H y / |s|^2 and |c| < 0.1 the update is taken by a part t, which changes the
    denominator to ((1 - t) + t c) |s|^2 = +-0.1 |s|^2.
    """
    wide = torch.float32 if s.device.type == "mps" else torch.float64
    size2 = s.to(wide).square().sum(dim=1)
    keep = keep & (size2 > 0)
    c = (s.to(wide) * Hy.to(wide)).sum(dim=1) / torch.where(keep, size2, 1.0)
    least = torch.where(c < 0, -0.1, 0.1)
    small = c.abs() < 0.1
    part = torch.where(small, (1 - least) / torch.where(small, 1 - c, 1.0), 1.0)
    below = torch.where(keep, torch.where(small, least, c) * size2, 1.0)
    return torch.where(keep[:, None], (part / below)[:, None].to(s.dtype) * (s - Hy), 0.0)


def _steady(residual: Tensor, last: Tensor, growth: float) -> Tensor:
    """Whether the residual grew by no more than the factor `growth`, (B,)."""
    size = torch.linalg.vector_norm(residual.detach(), dim=1)
    steady: Tensor = size <= growth * torch.linalg.vector_norm(last.detach(), dim=1)
    return steady
