"""Do the directions of a layer's weights surround the origin? A diagnostic of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

__all__ = ["HullDistance", "class_hulls", "origin_in_hull"]

LONG_SLOW_TO_FAST = Paper(
    key="long2020slow",
    title="Global Convergence and Geometric Characterization of Slow to Fast Weight Evolution "
    "in Neural Network Training for Classifying Linearly Non-Separable Data",
    authors="Long, Ziang and Yin, Penghang and Xin, Jack",
    year=2020,
    arxiv="2002.12563",
)


@final
@dataclass(frozen=True, eq=False)
class HullDistance:
    """How far the origin is from the convex hull of some directions.

    Attributes:
        distance: min over the simplex of |sum_j weights_j u_j|, in 0..1; inf without directions.
        weights: (k,) float64, the minimiser: >= 0, of sum 1; 0 for absent neurons.
        inside: whether the origin is in the hull, to the tolerance asked for.
        present: how many directions took part.

    Example:
        >>> found = origin_in_hull(torch.eye(2))
        >>> round(found.distance, 4), found.weights
        (0.7071, tensor([0.5000, 0.5000], dtype=torch.float64))
    """

    distance: float
    weights: Tensor
    inside: bool
    present: int


def origin_in_hull(
    directions: Tensor, *, tolerance: float = 1e-9, dead: float = 1e-12
) -> HullDistance:
    """Distance of the origin from the convex hull of unit vectors, the event that separates the
    slow from the fast phase of training in Long, Yin and Xin, *Global Convergence and Geometric
    Characterization of Slow to Fast Weight Evolution in Neural Network Training for Classifying
    Linearly Non-Separable Data*, 2020, arXiv:2002.12563.

        u_j = w_j / |w_j|,    distance = min { |sum_j l_j u_j| : l >= 0, sum_j l_j = 1 }

    Found by Wolfe's active-set method (*Finding the nearest point in a polytope*, 1976), which
    ends at the minimiser after finitely many steps, in float64 on the CPU.

    Args:
        directions: w_j, (k, d); any lengths.
        tolerance: the distance up to which the origin counts as inside.
        dead: rows not longer than this times the longest one are absent.

    Raises:
        InvalidInput: not a matrix, or entries that are not finite.

    Example:
        >>> turns = torch.tensor([0.0, 2.0, 4.0])
        >>> found = origin_in_hull(torch.stack([turns.cos(), turns.sin()], dim=1))
        >>> found.inside, found.present
        (True, 3)
    """
    if directions.ndim != 2 or not directions.isfinite().all():
        raise InvalidInput(
            "directions must be a matrix (k, d) of finite numbers, got shape "
            f"{tuple(directions.shape)}" + (" with NaN or inf" if directions.ndim == 2 else "")
        )
    w = directions.detach().to("cpu", torch.float64)
    weights = torch.zeros(len(w), dtype=torch.float64)
    if w.numel() == 0:
        return HullDistance(math.inf, weights, False, 0)
    # the largest entry first: squares of tiny weights would vanish
    w = w / w.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    lengths = torch.linalg.vector_norm(w, dim=1)
    alive = (lengths > dead * lengths.max()).nonzero()[:, 0]
    if len(alive) == 0:
        return HullDistance(math.inf, weights, False, 0)
    u = w[alive] / lengths[alive, None]
    weights[alive] = _nearest_point(u)
    distance = float(torch.linalg.vector_norm(weights[alive] @ u))
    return HullDistance(distance, weights, distance <= tolerance, len(alive))


def class_hulls(
    weight: Tensor, bases: Sequence[Tensor], *, tolerance: float = 1e-9, dead: float = 1e-12
) -> tuple[HullDistance, ...]:
    """`origin_in_hull` in each class's subspace, as the theorem of Long, Yin and Xin, 2020,
    arXiv:2002.12563, for data on orthogonal subspaces asks for.

    Args:
        weight: the layer's (k, D); pass the rows of one class's neurons to look at those alone.
        bases: orthonormal columns (D, d_i) that span the subspace of class i.
        tolerance: see `origin_in_hull`.
        dead: a row whose part in the subspace is not longer than this, relative to the longest
            part there, is absent.

    Raises:
        InvalidInput: as `origin_in_hull`, or bases that do not fit.

    Example:
        >>> weight = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 2.0]])
        >>> axes = torch.eye(3)
        >>> [hull.inside for hull in class_hulls(weight, [axes[:, :1], axes[:, 2:]])]
        [True, False]
    """
    for basis in bases:
        if basis.ndim != 2 or weight.ndim != 2 or basis.shape[0] != weight.shape[1]:
            raise InvalidInput(
                f"a basis must be (D, d) for weights (k, D), got {tuple(basis.shape)} and "
                f"{tuple(weight.shape)}"
            )
    return tuple(
        origin_in_hull(weight.detach() @ basis.to(weight), tolerance=tolerance, dead=dead)
        for basis in bases
    )


def _nearest_point(u: Tensor) -> Tensor:
    """Weights (k,) of the point of smallest norm in the hull of the unit rows of u (k, d)."""
    gram = u @ u.T
    weights = torch.zeros(len(u), dtype=u.dtype)
    weights[0] = 1.0
    active, square = [0], 1.0
    while True:
        toward = gram @ weights  # <u_j, x>, x = sum_j weights_j u_j
        best = int(toward.argmin())
        # optimal when no vertex lies below the hyperplane through x
        if best in active or float(toward[best]) >= square - 1e-15:
            return weights
        found, active = _settle(gram, weights, [*active, best])
        # every round lowers |x| but for rounding, so this ends
        if not (now := float((found @ u).square().sum())) < square:
            return weights
        weights, square = found, now


def _settle(gram: Tensor, weights: Tensor, active: list[int]) -> tuple[Tensor, list[int]]:
    """From `weights` to the nearest point of the affine hull of the active vertices, dropping
    those that would become negative on the way: its weights, and the vertices that are left.
    """
    now = weights[active]
    while True:
        target = _affine_minimum(gram[active][:, active])
        if bool((target > 0).all()):
            found = torch.zeros_like(weights)
            found[active] = target
            return found, active
        shrinking = target <= 0
        ratios = torch.where(shrinking, now / (now - target).clamp(min=1e-300), math.inf)
        now = now + float(ratios.min().clamp(0.0, 1.0)) * (target - now)
        now[ratios.argmin()] = 0.0
        kept = now > 0
        active = [j for j, keep in zip(active, kept.tolist(), strict=True) if keep]
        now = now[kept]


def _affine_minimum(gram: Tensor) -> Tensor:
    """Weights of sum 1 that minimise weights^T gram weights: (gram + 1 1^T) weights ~ 1."""
    one = torch.ones(len(gram), dtype=gram.dtype)
    # by least squares: vertices that nearly coincide make the system singular
    solution: Tensor = torch.linalg.lstsq(gram + 1.0, one[:, None], driver="gelsd").solution[:, 0]
    return solution / solution.sum()
