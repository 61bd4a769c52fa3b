"""Conformance of maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from driftwell.core.state import State, batch_size, check_state, select
from driftwell.dynamics.laws import Map, call
from driftwell.testing.rows import check_derivatives, check_rows


def check_map(
    f: Map | Callable[..., State], z: State, x: Any = None, *, derivatives: bool = True
) -> None:
    """Contract of a map: form kept, a function, row-wise, nothing changed in place, derivatives.

    Args:
        f: map z -> z, or (z, x) -> z.
        z: a state to try it on, at least two samples, float64 if `derivatives`.
        x: its input, a tensor or tree with the batch first.
        derivatives: compare them with finite differences.

    Raises:
        ConformanceError: the sentence says which part of the contract is broken.
        InvalidInput: `z` cannot be a state, or is not float64 and `derivatives` is set.

    Example:
        >>> import torch
        >>> check_map(torch.tanh, torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2))
    """
    check_state(z, "z")

    def law(state: State, rows: Tensor) -> State:
        whole = x is None or len(rows) == batch_size(z)
        value: State = call(f, state, x=x if whole else select(x, rows))
        return value

    check_rows("the map", law, z)
    if derivatives:
        check_derivatives("the map", law, z)
