"""Newton's method with Krylov steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.fixed_points.linear.gmres import extend, minimiser, start
from driftwell.fixed_points.solvers.solver import Solver

if TYPE_CHECKING:
    from driftwell.fixed_points.iteration import RunningMap

KNOLL_KEYES = Paper(
    key="knoll2004jfnk",
    title="Jacobian-free Newton-Krylov methods: a survey of approaches and applications",
    authors="Knoll, D. A. and Keyes, D. E.",
    year=2004,
    venue="Journal of Computational Physics 193(2)",
    doi="10.1016/j.jcp.2003.08.010",
)

# A step must lower the norm of the residual by this part of what Newton's model promises in full.
_SUFFICIENT = 1e-4
_MOST_HALVINGS = 4


class Search(NamedTuple):
    """What NewtonKrylov carries: the last accepted point and how the step from it is doing.

    `point`, `residual` and `direction` are (B, D); `length` (B,) is the part of the direction on
    trial; `halvings` (B,) the halvings so far, -1 for a step that is accepted whatever it gives.
    """

    point: Tensor
    residual: Tensor
    direction: Tensor
    length: Tensor
    halvings: Tensor


@final
@dataclass(frozen=True)
class NewtonKrylov(Solver):
    """Newton's method whose linear system is solved by GMRES, from Knoll and Keyes,
    *Jacobian-free Newton-Krylov methods*, 2004.

        (I - J) s = r,  r = f(z) - z,  J = df/dz at z;        z <- z + t s

    s is the best vector of the Krylov space span(r, J r, ..., J^(krylov - 1) r). Products with J
    are exact, by forward-mode differentiation of f; each counts as an evaluation, so that a step
    takes krylov + 1 (and a product costs about two). However short the space, s is a direction in
    which |r| falls: t is halved until it does, and after four halvings a Picard step is taken.

    With a space large enough convergence is quadratic. On contractions it needs as many
    evaluations as the others or more (the table in `Broyden`); choose it where they fail, for a
    map that expands in a few directions, and for adjoints that no mixing solves. An adjoint is
    affine: one step is GMRES on (I - J^T) g = v, its products are differences of f there, which
    are exact, and ``Implicit(solver=NewtonKrylov(krylov=40))`` solves it whatever the spectrum of
    J, if the space is large enough.

    Within torch.func transforms, too, products are differences, of the length of the residual:
    exact in the limit only. It cannot run in a `WhileLoop`.

    Args:
        krylov: dimension of the Krylov space, at least 1.

    Raises:
        InvalidInput: krylov below 1.

    Example:
        >>> import driftwell as dw
        >>> dw.fixed_point(torch.cos, torch.zeros(1, 1), solver=NewtonKrylov(krylov=1)).steps
        tensor([7])
    """

    papers = (KNOLL_KEYES,)

    krylov: int = 6

    def __post_init__(self) -> None:
        if self.krylov < 1:
            raise InvalidInput(
                f"NewtonKrylov(krylov=...) must be at least 1, got {self.krylov}; "
                "use Picard() for no products with the Jacobian"
            )

    def init(self, z: Tensor) -> Search:
        """The start is accepted whatever its residual is."""
        zero = z.new_zeros(z.shape[0])
        nothing = torch.zeros_like(z)
        return Search(nothing, nothing.clone(), nothing.clone(), zero, zero.long() - 1)

    def step(self, z: Tensor, fz: Tensor, carry: Search, f: RunningMap) -> tuple[Tensor, Search]:
        """The next trial: a Newton step from an accepted z, else a shorter one."""
        residual = fz - z
        before, now = _norm(carry.residual), _norm(residual)
        good = (carry.halvings < 0) | (now <= (1 - _SUFFICIENT * carry.length) * before)
        s = self._direction(z, fz, residual, f)
        # A rejected trial goes back; after the last halving along r, as Picard does.
        spent = ~good & (carry.halvings >= _MOST_HALVINGS)
        point = torch.where(good[:, None], z, carry.point)
        base = torch.where(good[:, None], residual, carry.residual)
        direction = torch.where(good[:, None], s, carry.direction)
        direction = torch.where(spent[:, None], carry.residual, direction)
        length = torch.where(good | spent, 1.0, 0.5 * carry.length)
        halvings = torch.where(good, 0, carry.halvings + 1)
        halvings = torch.where(spent, -1, halvings)
        after = point + length[:, None] * direction
        return after, Search(point, base, direction, length, halvings)

    def select(self, carry: Search, rows: Tensor) -> Search:
        """Search of the samples `rows` only."""
        return Search(*super().select(carry, rows))

    def _direction(self, z: Tensor, fz: Tensor, residual: Tensor, f: RunningMap) -> Tensor:
        """s of the Krylov space, with (I - J) s nearest to r."""
        size = _norm(residual)[:, None]
        krylov = start(residual)
        for _ in range(min(self.krylov, z.shape[1])):
            q = krylov.basis[-1]
            Jq = _difference(f, z, fz, q, size) if f.affine else _product(f, z, q)
            krylov = extend(krylov, q - Jq)
        return minimiser(krylov)


def _product(f: RunningMap, z: Tensor, q: Tensor) -> Tensor:
    """J q by forward-mode differentiation: one call of f."""
    Jq: Tensor = torch.func.jvp(f, (z,), (q,))[1]
    return Jq


def _difference(f: RunningMap, z: Tensor, fz: Tensor, q: Tensor, size: Tensor) -> Tensor:
    """J q of an affine f, exactly; q is taken in the `size` (B, 1) of the residual."""
    scale = torch.where(size > 0, size, 1.0)
    return (f(z + scale * q) - fz) / scale


def _norm(residual: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(residual, dim=1)
    return norm
