"""Exact responses: how a fixed point moves when it is nudged, by forward mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from driftwell.core.state import State, flatten, tree_map
from driftwell.dynamics.linearization import jacobian_vector
from driftwell.fixed_points.verb import fixed_point

Activation: TypeAlias = Callable[[Tensor], Tensor]


def nudge_response(f: Callable[..., State], z: State, v: State, x: Any = None) -> State:
    """Exact response w = dz/dbeta at beta = 0 of z = f(z) + beta v, by forward mode.

    Solves w = v + (df/dz) w: what `HolomorphicEP` estimates, with nothing but forward products.

    Args:
        f: the law.
        z: a fixed point of it, (B, ...).
        v: direction of the nudge, a tree like z.
        x: input of f.

    Raises:
        NotConverged: the linear solve used up 1000 products.

    Example:
        >>> nudge_response(lambda z: 0.5 * z, torch.zeros(1, 1), torch.ones(1, 1))
        tensor([[2.]])
    """
    small = 100 * torch.finfo(flatten(v).dtype).eps

    def forward(w: State) -> State:
        return tree_map(torch.add, v, jacobian_vector(f, z, w, x))

    with torch.no_grad():
        return fixed_point(forward, v, tol=small, max_steps=1000).z


def slope(sigma: Activation, u: Tensor) -> Tensor:
    """sigma'(u) of an elementwise function, by forward mode.

    Example:
        >>> slope(torch.square, torch.tensor([3.0]))
        tensor([6.])
    """
    u = u.contiguous()  # forward mode cannot write into expanded memory
    found: Tensor = torch.func.jvp(sigma, (u,), (torch.ones_like(u),))[1]
    return found
