"""GMRES, and the Arnoldi process that Newton-Krylov shares with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.fixed_points.linear.solver import Correction, LinearSolver, Operator

SAAD_SCHULTZ = Paper(
    key="saad1986gmres",
    title="GMRES: a generalized minimal residual algorithm for solving nonsymmetric linear systems",
    authors="Saad, Youcef and Schultz, Martin H.",
    year=1986,
    venue="SIAM Journal on Scientific and Statistical Computing 7(3)",
    doi="10.1137/0907058",
)


class Krylov(NamedTuple):
    """The Arnoldi relation A Q_k = Q_{k+1} H, with H = G^T R kept triangular.

    `basis` are the k+1 rows q_j (B, D); `columns` the k columns of R, and `rotation` the product G
    (B, k+1, k+1) of the Givens rotations, both in float64; `right` (B, k+1) is G |r| e_1, whose
    last entry is the norm of the residual.
    """

    basis: list[Tensor]
    columns: list[Tensor]
    rotation: Tensor
    right: Tensor

    @property
    def residual(self) -> Tensor:
        """Norm of the smallest residual in the space, (B,), as the recursion has it."""
        return self.right[:, -1].abs()


@final
@dataclass(frozen=True)
class GMRES(LinearSolver):
    """GMRES, restarted, from Saad and Schultz, *GMRES: a generalized minimal residual algorithm
    for solving nonsymmetric linear systems*, 1986.

    The k-th iterate minimises |r - A z| over z in span(r, A r, ..., A^(k-1) r), so that residuals
    never grow. The basis is kept orthonormal by Gram-Schmidt, twice; the small least-squares
    problem is in float64.

    On the affine map f(z) = z + r - A z this is what Anderson acceleration with a full memory does
    (Walker and Ni 2011), an iterate later; Anderson needs no linearity, GMRES no mixing history.

    Args:
        restart: dimension of the Krylov space, at least 1; that many states are kept.

    Raises:
        InvalidInput: restart below 1.

    Example:
        >>> from driftwell.fixed_points.linear import solve_linear
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # indefinite: CG breaks down
        >>> solve_linear(lambda y: y @ swap, torch.tensor([[1.0, 2.0]]), solver=GMRES()).z
        tensor([[2., 1.]])
    """

    papers = (SAAD_SCHULTZ,)

    restart: int = 30

    def __post_init__(self) -> None:
        if self.restart < 1:
            raise InvalidInput(f"GMRES(restart=...) must be at least 1, got {self.restart}")

    def cycle(self, A: Operator, r: Tensor, target: Tensor, budget: int) -> Correction:
        """One restart: up to `restart` Arnoldi steps, and the minimiser in their space."""
        krylov = start(r)
        steps = torch.zeros(len(r), dtype=torch.int64, device=r.device)
        # a space as large as the state holds the answer
        for _ in range(min(self.restart, budget, r.shape[1])):
            unmet = krylov.residual > target
            if not bool(unmet.any()):
                break
            krylov = extend(krylov, A(krylov.basis[-1]))
            steps = steps + unmet
        return Correction(minimiser(krylov), steps, torch.zeros_like(steps, dtype=torch.bool))


def start(r: Tensor) -> Krylov:
    """The space of one vector, q_1 = r / |r| (zero if r is zero)."""
    size = torch.linalg.vector_norm(r, dim=1)
    first = r / torch.where(size > 0, size, 1.0)[:, None]
    wide = torch.float32 if r.device.type == "mps" else torch.float64
    right = size.to(wide)[:, None]
    return Krylov([first], [], torch.ones_like(right)[:, :, None], right)


def extend(krylov: Krylov, product: Tensor) -> Krylov:
    """The space with one vector more, from the `product` A q of its last vector q (B, D)."""
    basis = torch.stack(krylov.basis, dim=1)
    size = torch.linalg.vector_norm(product, dim=1)
    w, column = product, torch.zeros_like(krylov.right)
    for _ in range(2):  # twice is enough: orthogonal to rounding
        overlap = torch.bmm(basis, w[:, :, None])
        w = w - torch.bmm(overlap.mT, basis)[:, 0]
        column = column + overlap[:, :, 0].to(column.dtype)
    length = torch.linalg.vector_norm(w, dim=1)
    # what is left of A q is rounding: the space is closed under A
    closed = ~(length > 10 * torch.finfo(w.dtype).eps * size)
    length = torch.where(closed, 0.0, length)
    new = torch.where(closed[:, None], 0.0, w / torch.where(closed, 1.0, length)[:, None])
    column = torch.bmm(krylov.rotation, column[:, :, None])[:, :, 0]
    return _rotate(krylov, new, column, length.to(column.dtype))


def minimiser(krylov: Krylov) -> Tensor:
    """Q y with R y = G |r| e_1: the vector of the space with the smallest residual, (B, D)."""
    k = len(krylov.columns)
    if k == 0:
        return torch.zeros_like(krylov.basis[0])
    weights: list[Tensor] = []
    for i in reversed(range(k)):
        value = krylov.right[:, i]
        for j, weight in zip(reversed(range(i + 1, k)), weights, strict=True):
            value = value - krylov.columns[j][:, i] * weight
        diagonal = krylov.columns[i][:, i]
        regular = diagonal != 0
        weights.append(torch.where(regular, value / torch.where(regular, diagonal, 1.0), 0.0))
    y = torch.stack(weights[::-1], dim=1).to(krylov.basis[0].dtype)
    return torch.bmm(y[:, None, :], torch.stack(krylov.basis[:k], dim=1))[:, 0]


def _rotate(krylov: Krylov, new: Tensor, column: Tensor, length: Tensor) -> Krylov:
    """The relation with the column (column, length), made triangular by one more rotation."""
    a = column[:, -1]
    # rounding of the rotations before counts as zero: a singular A must not be divided by
    tiny = 1e2 * torch.finfo(a.dtype).eps * torch.linalg.vector_norm(column, dim=1)
    a = torch.where(a.abs() > tiny, a, 0.0)
    both = torch.hypot(a, length)
    open_ = both > 0
    cos = torch.where(open_, a / torch.where(open_, both, 1.0), 1.0)
    sin = torch.where(open_, length / torch.where(open_, both, 1.0), 0.0)
    above, last = krylov.rotation[:, :-1], krylov.rotation[:, -1:]
    corner = torch.zeros_like(above[:, :, :1]), torch.zeros_like(last[:, :, :1])
    c, s = cos[:, None, None], sin[:, None, None]
    one = torch.ones_like(corner[1])
    rotation = torch.cat([
        torch.cat([above, corner[0]], dim=2),
        torch.cat([c * last, s * one], dim=2),
        torch.cat([-s * last, c * one], dim=2),
    ], dim=1)  # fmt: skip
    before, tail = krylov.right[:, :-1], krylov.right[:, -1]
    # in a closed space with a zero on the diagonal nothing was gained: the residual stays
    lost = torch.where(open_, cos * tail, 0.0)
    left = torch.where(open_, -sin * tail, tail)
    return Krylov(
        [*krylov.basis, new],
        [*krylov.columns, torch.cat([column[:, :-1], both[:, None]], dim=1)],
        rotation,
        torch.cat([before, lost[:, None], left[:, None]], dim=1),
    )
