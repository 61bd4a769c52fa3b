"""Checks that every law shares: form, rows that do not see each other, derivatives that agree."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.state import (
    State,
    batch_size,
    check_same_form,
    flatten,
    inner,
    is_finite,
    norm,
    select,
    tree_map,
    unflatten,
)
from driftwell.dynamics.linearization import jacobian_vector, vector_jacobian
from driftwell.testing.conformance import ConformanceError, require_that

Rows = Callable[[State, Tensor], State]  # (states of some samples, which samples) -> states


def check_rows(name: str, law: Rows, z: State) -> None:
    """Check that `law` keeps the form of `z`, is a function, and treats samples one by one."""
    everyone = torch.arange(batch_size(z), device=flatten(z).device)
    before = tree_map(torch.clone, z)
    value = law(z, everyone)
    try:
        check_same_form(value, z, name)
    except InvalidInput as error:
        raise ConformanceError(str(error)) from error
    changed = float((flatten(z) - flatten(before)).abs().max())
    require_that(changed == 0.0, f"{name} changed its argument in place, by up to {changed:.3g}")
    require_that(
        bool(is_finite(value).all()), f"{name} returned NaN or infinity for a finite state"
    )
    again = law(z, everyone)
    gap = float((flatten(again) - flatten(value)).abs().max())
    require_that(
        gap == 0.0, f"{name} is no function: two calls on the same state differ by {gap:.3g}"
    )
    tolerance = 1e3 * torch.finfo(flatten(z).dtype).eps
    for row in everyone[:3]:
        alone = law(select(z, row[None]), row[None])
        size = float(norm(alone)) + 1.0
        gap = float(norm(tree_map(torch.sub, alone, select(value, row[None]))))
        require_that(
            gap <= tolerance * size,
            f"{name} is not row-wise: sample {int(row)} alone differs from the same sample in its "
            f"batch by {gap:.3g}",
        )


def check_derivatives(name: str, law: Rows, z: State) -> None:
    """Check J w against a central difference and J^T v against J w, at float64 states."""
    if flatten(z).dtype != torch.float64:
        raise InvalidInput(
            f"derivatives are checked in float64, got a state of {flatten(z).dtype}; "
            "convert the law and the state with .double()"
        )
    everyone = torch.arange(batch_size(z), device=flatten(z).device)
    v, w = _direction(z, 0), _direction(z, 1)

    def function(state: State) -> State:
        return law(state, everyone)

    step = 1e-6
    there = function(tree_map(lambda a, b: a + step * b, z, w))
    back = function(tree_map(lambda a, b: a - step * b, z, w))
    difference = tree_map(lambda a, b: (a - b) / (2 * step), there, back)
    forward = jacobian_vector(function, z, w)
    gap = float(norm(tree_map(torch.sub, forward, difference)).max())
    size = float(norm(difference).max()) + 1.0
    require_that(
        gap <= 1e-5 * size,
        f"the derivative of {name} differs from a central difference by {gap:.3g} (of {size:.3g}); "
        "is something detached, rounded or not smooth there?",
    )
    left, right = inner(v, forward), inner(vector_jacobian(function, z, v), w)
    gap = float((left - right).abs().max())
    require_that(
        gap <= 1e-8 * size * float(norm(v).max()),
        f"forward and backward derivatives of {name} disagree by {gap:.3g}",
    )


def _direction(z: State, number: int) -> State:
    flat = flatten(z)
    chains = torch.arange(flat.shape[0], device=flat.device)
    noise = normal(
        flat.shape, seed=7, purpose=Purpose.PROBE, chains=chains, step=number, dtype=flat.dtype
    )
    return unflatten(noise, z)
