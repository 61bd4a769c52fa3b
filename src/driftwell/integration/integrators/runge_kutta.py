"""Explicit Runge-Kutta steps from their tableau."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from driftwell.integration.integrators.integrator import Law, Step


@dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit method: k_i = b(t + c_i dt, z + dt sum_j a_ij k_j).

    z' = z + dt sum_i b_i k_i, with error estimate dt sum_i e_i k_i. Row 0 of `a` is empty.
    `first_same_as_last`: the last stage is evaluated at z', so that it serves the next step.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    e: tuple[float, ...] | None = None
    first_same_as_last: bool = False


def explicit_step(
    tableau: Tableau, law: Law, t: Tensor, z: Tensor, dt: Tensor, slope: Tensor | None
) -> Step:
    """One step of the method `tableau` describes."""
    h = dt.to(z.dtype)[:, None]
    k = [law.drift(t, z) if slope is None else slope]
    inside = z
    for weights, node in zip(tableau.a[1:], tableau.c[1:], strict=True):
        inside = z + h * _combine(weights, k)
        k.append(law.drift(t + node * dt, inside))
    after = inside if tableau.first_same_as_last else z + h * _combine(tableau.b, k)
    return Step(
        z=after,
        error=None if tableau.e is None else h * _combine(tableau.e, k),
        slope=k[-1] if tableau.first_same_as_last else None,
    )


def _combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    used = [(w, k) for w, k in zip(weights, slopes, strict=True) if w != 0.0]
    total = used[0][0] * used[0][1]
    for weight, slope in used[1:]:
        total = total + weight * slope
    return total
