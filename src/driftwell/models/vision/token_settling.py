"""Tokens that stop when they have converged, around an equilibrium block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.results import FixedPoint
from driftwell.core.status import Status
from driftwell.models.equilibrium.transformer import DEQTransformerBlock, pick
from driftwell.models.vision.token_routing import ROUTING


@final
@dataclass(frozen=True)
class SettledTokens:
    """Equilibria, and how many updates of single tokens they took.

    Attributes:
        found: states (B, T, D) with their residuals; `steps` counts sweeps.
        updates: evaluations of single tokens, checks included, int64 (B,).

    Example:
        >>> block = DEQTransformerBlock(8, heads=2, seed=0)
        >>> settled = settle_tokens(block, torch.zeros(1, 6, 8))
        >>> bool(settled.updates <= 6 * settled.found.steps)
        True
    """

    papers = (ROUTING,)

    found: FixedPoint
    updates: Tensor


def settle_tokens(
    block: DEQTransformerBlock,
    x: Tensor,
    *,
    tol: float = 1e-4,
    max_sweeps: int = 200,
) -> SettledTokens:
    """Equilibrium of a transformer block by plain iteration in which a token stops once it rests:
    the idea of Ma, Fei and Huang, *DiT*, 2023, arXiv:2308.03409, with convergence as the gate.

    A token t is updated, z_t <- f_t(z), while |f_t(z) - z_t| > tol |f_t(z)|; a token at rest is
    only attended to. As others move it may lose its rest, so when none is left all are evaluated
    once more, and those that fail go on: what is returned rests as a whole,
    |f(z) - z| <= tol |f(z)|. For inference: nothing is recorded.

    Args:
        block: whose layer is brought to rest.
        x: tokens, (B, T, D).
        tol: relative tolerance of every token, positive.
        max_sweeps: evaluations of the layer, on some tokens or all, that are allowed.

    Raises:
        InvalidInput: tol or max_sweeps that are not positive, or tokens of another width.

    Example:
        >>> block = DEQTransformerBlock(8, heads=2, seed=0)
        >>> settled = settle_tokens(block, torch.randn(1, 6, 8, generator=torch.Generator()))
        >>> bool(settled.found.residual <= 1e-4)
        True
    """
    if not tol > 0.0 or max_sweeps < 1:
        raise InvalidInput(f"tol and max_sweeps must be positive, got {tol} and {max_sweeps}")
    if x.ndim != 3 or x.shape[2] != block.width:
        raise InvalidInput(f"tokens have the shape (B, T, {block.width}), got {tuple(x.shape)}")
    with torch.no_grad():
        return _sweep(block, x, tol, max_sweeps)


def _sweep(block: DEQTransformerBlock, x: Tensor, tol: float, max_sweeps: int) -> SettledTokens:
    given, z = {"tokens": x}, torch.zeros_like(x)
    batch, length, _ = x.shape
    moving = torch.ones(batch, length, dtype=torch.bool, device=x.device)
    updates = torch.zeros(batch, dtype=torch.int64, device=x.device)
    steps, sweeps = updates.clone(), 0
    while True:
        checking = not bool(moving.any())
        asked = torch.ones_like(moving) if checking else moving
        index = torch.argsort((~asked).to(torch.int8), dim=1, stable=True)
        index = index[:, : int(asked.sum(dim=1).max())]
        value, old = block.layer.at(z, given, index), pick(z, index)
        real = asked.gather(1, index)
        gap = torch.linalg.vector_norm(value - old, dim=2)
        restless = real & (gap > tol * torch.linalg.vector_norm(value, dim=2))
        sweeps += 1
        updates += asked.sum(dim=1)
        steps = torch.where(asked.any(dim=1), sweeps, steps)
        if (checking and not bool(restless.any())) or sweeps >= max_sweeps:
            break
        # A token that passes keeps its state, so that a check moves nothing that rests.
        wide = index[..., None].expand_as(value)
        z = z.scatter(1, wide, torch.where(restless[..., None], value, old))
        moving = torch.zeros_like(moving).scatter(1, index, restless)
    return SettledTokens(_judged(block, z, given, tol, steps), updates)


def _judged(
    block: DEQTransformerBlock, z: Tensor, given: dict[str, Tensor], tol: float, steps: Tensor
) -> FixedPoint:
    value = block.layer.at(z, given)
    gap = (value - z).flatten(1).norm(dim=1)
    residual = gap / value.flatten(1).norm(dim=1)
    good = torch.where(residual <= tol, int(Status.CONVERGED), int(Status.BUDGET_REACHED))
    return FixedPoint(z=z, residual=residual, steps=steps, status=good.to(torch.int8))
