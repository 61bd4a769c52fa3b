"""Largest curvature of an energy by power iteration, and the step sizes it allows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import Diverged
from driftwell.core.noise import Purpose, normal
from driftwell.core.state import State, batch_size, inner, leaves, norm, rebuild, tree_map
from driftwell.dynamics import Energy

PROBED_CHAINS = 32


def curvature(law: Energy, z: State, x: Any = None, *, iterations: int = 30) -> Tensor:
    """Largest |eigenvalue| of the Hessian of E at each z, (B,), in energy / state^2.

    Power iteration from a fixed keyed start: v <- Hv / ||Hv||, estimate ||Hv||. It approaches
    the largest eigenvalue from below; `stable_step` keeps a margin for that.

    Args:
        law: the energy.
        z: where, (B, ...).
        x: the law's input.
        iterations: Hessian-vector products.

    Example:
        >>> from driftwell.dynamics import as_energy
        >>> law = as_energy(lambda z: 0.5 * (z**2 @ torch.tensor([1.0, 9.0])))
        >>> round(curvature(law, torch.zeros(1, 2)).item(), 3)
        9.0
    """
    chains = torch.arange(batch_size(z), device=leaves(z)[0].device)
    start = [
        normal(tuple(leaf.shape), seed=0, purpose=Purpose.PROBE, chains=chains, step=0,
               leaf=index, dtype=leaf.dtype)
        for index, leaf in enumerate(leaves(z))
    ]  # fmt: skip
    v = _unit(rebuild(z, start))
    size = torch.zeros(len(chains), device=chains.device)
    for _ in range(iterations):
        hv = law.hessian_vector(z, v, x)
        size = norm(hv)
        v = _unit(hv)
    return size


def largest_curvature(law: Energy, z: State, x: Any = None) -> float:
    """Bound on the curvature a run from `z` meets: the largest over the first chains.

    A law may know better than its start states and offer `curvature_bound(z, x) -> float`.

    Raises:
        Diverged: the curvature is not finite at `z`.
    """
    few = min(batch_size(z), PROBED_CHAINS)
    z_few = tree_map(lambda leaf: leaf[:few], z)
    x_few = None if x is None else tree_map(lambda leaf: leaf[:few], x)
    own = getattr(law, "curvature_bound", None)
    value = float(own(z_few, x_few)) if own else float(curvature(law, z_few, x_few).max())
    if not 0.0 <= value < float("inf"):
        raise Diverged(
            "no step size can be found: the curvature of the energy is not finite at the start "
            "states; give step_size or other start states"
        )
    return max(value, 1e-12)


def _unit(v: State) -> State:
    length = inner(v, v).sqrt().clamp_min(1e-30)

    def divide(leaf: Tensor) -> Tensor:
        return leaf / length.reshape(-1, *([1] * (leaf.ndim - 1))).to(leaf.dtype)

    return tree_map(divide, v)
