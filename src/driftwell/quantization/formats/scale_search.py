"""The scale that fits a table of levels to weights in least squares."""

from __future__ import annotations

import torch
from torch import Tensor

STARTS = 40  # scales tried, from the largest weight down by factors of 2^(1/8)
SWEEPS = 6  # assignments and closed-form scales in turn after that


def least_squares_scale(w: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Scale a of each block that (nearly) minimises sum (w - a nearest(w / a))^2, and zeros.

    The cost has many local minima in a: the best of a ladder of scales starts the alternation
    of nearest levels and the closed form a = sum w t / sum t^2, which never raises the cost.

    Args:
        w: blocks of weights (R, G, n).
        levels: (K,) ascending.

    Returns:
        Scale and zero, (R, G) each.

    Example:
        >>> least_squares_scale(torch.tensor([[[3.0, -3.0, 0.0]]]), torch.tensor([-1.0, 0, 1]))
        (tensor([[3.]]), tensor([[0.]]))
    """
    levels = levels.to(w)
    top = w.abs().amax(dim=2) / levels.abs().max()
    best = torch.where(top > 0, top, torch.ones_like(top))
    cost = _cost(w, levels, best)
    for start in range(1, STARTS):
        scale = best.new_tensor(2.0 ** (-start / 8)) * torch.where(top > 0, top, 1.0)
        trial = _cost(w, levels, scale)
        best, cost = torch.where(trial < cost, scale, best), torch.minimum(trial, cost)
    for _ in range(SWEEPS):
        t = _nearest(w / best[..., None], levels)
        energy = t.square().sum(dim=2)
        scale = (w * t).sum(dim=2) / energy.clamp(min=torch.finfo(w.dtype).tiny)
        best = torch.where((energy > 0) & (scale > 0), scale, best)
    return best, torch.zeros_like(best)


def _cost(w: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
    a = scale[..., None]
    return (w - a * _nearest(w / a, levels)).square().sum(dim=2)


def _nearest(t: Tensor, levels: Tensor) -> Tensor:
    return levels[torch.bucketize(t, (levels[1:] + levels[:-1]) / 2, right=True)]
