"""Penalty on the Jacobian at an equilibrium: what keeps a free layer solvable in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from driftwell.core.state import State, leaves, rebuild
from driftwell.dynamics.laws import Map, call


def jacobian_penalty(
    f: Map | Callable[..., State], z: State, probe: State, x: Any = None
) -> Tensor:
    """Mean square row of J = df/dz, from Bai, Koltun and Kolter, *Stabilizing Equilibrium Models
    by Jacobian Regularization*, 2021, arXiv:2106.14342.

    With probes e ~ N(0, I), E |e^T J|^2 = |J|_F^2; returned is the batch mean of |e^T J|^2 / D,
    with D the entries of a state. It is differentiable in what f captures and in x, not in z.

    Args:
        f: map z -> z, or (z, x) -> z.
        z: equilibria, (B, ...).
        probe: e, a tree like z.
        x: input of f.

    Example:
        >>> jacobian_penalty(lambda z: 0.5 * z, torch.zeros(1, 4), torch.ones(1, 4))
        tensor(0.2500)
    """
    with torch.enable_grad():
        at = [leaf.detach().requires_grad_(True) for leaf in leaves(z)]
        value = leaves(call(f, rebuild(z, at), x=x))
        rows = torch.autograd.grad(value, at, leaves(probe), create_graph=True)
        square = torch.stack([row.flatten(1).square().sum(1) for row in rows]).sum(0)
    return square.mean() / sum(leaf[0].numel() for leaf in at)
