"""Conformance of vector fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from driftwell.core.state import State, batch_size, check_state, leaves, select
from driftwell.dynamics.laws import VectorField, as_field
from driftwell.testing.conformance import require_that
from driftwell.testing.rows import Rows, check_derivatives, check_rows


def check_field(
    field: VectorField | Callable[..., State],
    z: State,
    x: Any = None,
    *,
    times: tuple[float, float] = (0.0, 1.0),
    derivatives: bool = True,
) -> None:
    """Contract of a field: drift and diffusion keep the form, are row-wise, take a time per sample.

    Args:
        field: the law, or its drift b(t, z[, x]).
        z: a state to try it on, at least two samples, float64 if `derivatives`.
        x: its input, a tensor or tree with the batch first.
        times: samples are tried at times spread between these, all at once.
        derivatives: compare those of the drift with finite differences.

    Raises:
        ConformanceError: the sentence says which part of the contract is broken.
        InvalidInput: `z` cannot be a state, or is not float64 and `derivatives` is set.

    Example:
        >>> z = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
        >>> check_field(lambda t, z: t[:, None] * z, z)
    """
    check_state(z, "z")
    law = as_field(field)
    first = leaves(z)[0]
    t = torch.linspace(*times, batch_size(z), dtype=first.dtype, device=first.device)

    def of(part: Callable[..., State | None]) -> Rows:
        def rows_of(state: State, rows: Tensor) -> State:
            whole = x is None or len(rows) == batch_size(z)
            value = part(t[rows], state, x if whole else select(x, rows))
            require_that(value is not None, "the diffusion is None at some times and not at others")
            return state if value is None else value

        return rows_of

    check_rows("the drift", of(law.drift), z)
    if law.diffusion(t, z, x) is not None:
        check_rows("the diffusion", of(law.diffusion), z)
    if derivatives:
        check_derivatives("the drift", of(law.drift), z)
