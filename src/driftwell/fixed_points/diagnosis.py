"""Why a solve did not converge, and what to try: measured at the state it returned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.results import FixedPoint
from driftwell.core.state import State, flatten, select
from driftwell.core.status import Status
from driftwell.dynamics.laws import Map, call
from driftwell.dynamics.linearization import ritz_values
from driftwell.fixed_points.residual import relative_residual


@dataclass(frozen=True)
class Diagnosis:
    """What was found about one sample of a solve; print it.

    Attributes:
        sample: its number in the batch.
        happened: what the result says of it.
        eigenvalue: of largest modulus of df/dz at the returned state; None where f is not finite.
        reasons: what was found, in sentences, and what to try.
    """

    sample: int
    happened: str
    eigenvalue: complex | None
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([self.happened, *(f"- {reason}" for reason in self.reasons)])


def explain(
    f: Map | Callable[..., State], found: FixedPoint, x: Any = None, *, sample: int | None = None
) -> Diagnosis:
    """Why a sample of a solve did not converge, and what to try.

    Looks at f around the state that was returned: whether f gives the same twice, how far the
    residual is from the rounding of its dtype, and the leading eigenvalue lambda of df/dz, which
    decides what a plain iteration does there.

    Args:
        f: the map that was solved.
        found: its result.
        x: its input, batch first.
        sample: which one; the worst of those that failed if None.

    Raises:
        InvalidInput: the sample is not in the batch, or `found` is no result of a solve.

    Example:
        >>> import driftwell as dw
        >>> f = lambda z: 1.0 - 1.5 * z
        >>> found = dw.fixed_point(f, torch.zeros(1, 1), solver=dw.Picard(), throw=False)
        >>> print(explain(f, found).reasons[0])
        the map overshoots: lambda = -1.5; use solver=Anderson() or Picard(damping=0.4)
    """
    if not isinstance(found, FixedPoint):
        raise InvalidInput(
            f"explain needs the result of fixed_point, got {type(found).__name__}; call it as "
            "explain(f, found, x)"
        )
    row = _worst(found) if sample is None else sample
    if not 0 <= row < found.status.numel():
        raise InvalidInput(f"sample {row} is not in this batch of {found.status.numel()}")
    index = torch.tensor([row], device=found.status.device)
    z = select(found.z, index)
    inside = x if x is None else select(x, index)
    code = Status(int(found.status[row]))
    happened = found.explain(row)
    with torch.no_grad():
        once, again = (flatten(call(f, z, x=inside)) for _ in range(2))
    if not bool(torch.isfinite(once).all()):
        return Diagnosis(row, happened, None, (_NOT_FINITE,))
    leading = complex(ritz_values(f, z, inside)[0, 0])
    reasons = []
    if not torch.equal(once, again):
        reasons.append(_RANDOM)
    if code is not Status.CONVERGED:
        reasons += _rounding(once, flatten(z)) or [_of_eigenvalue(leading, code)]
    return Diagnosis(row, happened, leading, tuple(reasons))


_NOT_FINITE = (
    "f is not finite at the best state that was seen: look for overflow, division by zero or a "
    "NaN in x or in f's parameters"
)
_RANDOM = (
    "f gives something else the second time at the same state: freeze what is random in it "
    "(dropout: nn.VariationalDropout, normalisation: eval mode)"
)


def _worst(found: FixedPoint) -> int:
    failed = (found.status == int(Status.BUDGET_REACHED)) | (found.status == int(Status.DIVERGED))
    badness = torch.where(failed, found.residual.nan_to_num(torch.inf), -1.0)
    return int(badness.argmax())


def _rounding(fz: Tensor, z: Tensor) -> list[str]:
    """A sentence if the residual is as small as the dtype lets it be."""
    residual = float(relative_residual(z, fz))
    floor = 16.0 * torch.finfo(z.dtype).eps
    if residual > floor:
        return []
    return [
        f"the residual {residual:.1e} is at the rounding of {z.dtype}: ask for tol >= {floor:.0e}, "
        "or solve in a wider dtype"
    ]


def _of_eigenvalue(leading: complex, code: Status) -> str:
    size = abs(leading)
    turning = abs(leading.imag) > 1e-3 * size
    shown = f"{leading.real:.3g}{leading.imag:+.3g}i" if turning else f"{leading.real:.3g}"
    if size < 1.0:
        if code is Status.DIVERGED:
            return (
                f"around the best state f contracts (lambda = {shown}), so the iteration left its "
                "basin: start nearer (warm start, or z0 at the scale of x) or damp the solver"
            )
        steps = math.log(10.0) / -math.log(max(size, 1e-300))
        return (
            f"f contracts slowly: |lambda| = {size:.4g} costs a plain iteration {steps:.0f} steps "
            "a digit; raise max_steps, or use Anderson with more memory, Broyden or NewtonKrylov"
        )
    if leading.real >= 1.0:
        return (
            f"the map expands: lambda = {shown}, no damping can settle a plain iteration here; use "
            "NewtonKrylov, or bound the norm of f's weights (nn.SpectralBound)"
        )
    what = "turns outwards" if turning else "overshoots"
    damping = (1.0 - leading.real) / abs(1.0 - leading) ** 2
    return (
        f"the map {what}: lambda = {shown}; use solver=Anderson() or Picard(damping={damping:.1g})"
    )
