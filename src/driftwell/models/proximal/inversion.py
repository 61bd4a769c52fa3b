"""Inverting the gradient of a convex function: which y gives f(y) = x?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput


def invert(
    f: Callable[[Tensor], Tensor], x: Tensor, *, tol: float = 1e-4, max_steps: int = 500
) -> Tensor:
    """y with f(y) = x for a monotone gradient field f = grad psi, detached.

    Minimises the convex psi(y) - <x, y> from y = x by Barzilai-Borwein steps, which need f only:

        r_k = f(y_k) - x,  y_{k+1} = y_k - t_k r_k,  t_k = |dy|^2 / <dy, dr> or <dy, dr> / |dr|^2

    by turns, each sample with its own step; a sample whose residual grows by more than 10 goes
    back to its best point with a step divided by 10. What is returned is the best point seen.
    Where x is outside the range of f there is none, and y grows with f(y) approaching x.

    Args:
        f: row-wise map, (B, ...) to the same shape.
        x: points, (B, ...).
        tol: |f(y) - x| <= tol max(|x|, |f(y)|) ends a sample.
        max_steps: evaluations of f, at least 1.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> invert(lambda y: 4.0 * y, torch.ones(1, 2))
        tensor([[0.2500, 0.2500]])
    """
    if not tol >= 0.0 or max_steps < 1:
        raise InvalidInput(f"inverting needs tol >= 0 and max_steps >= 1, got {tol}, {max_steps}")
    with torch.no_grad():
        search = _Search(f, x.detach())
        while search.evaluations < max_steps and bool((search.least > tol).any()):
            search.step()
        return search.best


class _Search:
    """One Barzilai-Borwein search a row."""

    def __init__(self, f: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.f, self.x, self.evaluations = f, x, 0
        self.y = self.best = x
        self.least = x.new_full((len(x),), float("inf"))
        self.best_residual = torch.zeros_like(x)
        self.residual = self._residual(x)
        self.t = x.new_ones(len(x))

    def step(self) -> None:
        y = self.y - _per_row(self.t, self.y) * self.residual
        residual = self._residual(y)
        dy, dr = y - self.y, residual - self.residual
        across = _dot(dy, dr)
        long = _dot(dy, dy) / across
        short = across / _dot(dr, dr)
        t = long if self.evaluations % 2 else short
        # Where f is flat, or rounding hides its slope, a growing step crosses the plateau.
        t = torch.where(torch.isfinite(t) & (t > 0), t, 4.0 * self.t).clamp(max=1e4)
        size, least = _dot(residual, residual), _dot(self.best_residual, self.best_residual)
        lost = ~(size <= 100.0 * least)
        self.t = torch.where(lost, 0.1 * self.t.clamp(max=10.0), t)
        self.y = torch.where(_per_row(lost, y), self.best, y)
        self.residual = torch.where(_per_row(lost, y), self.best_residual, residual)

    def _residual(self, y: Tensor) -> Tensor:
        """f(y) - x; remembers the best point."""
        self.evaluations += 1
        value = self.f(y)
        residual = value - self.x
        scale = torch.maximum(_dot(self.x, self.x), _dot(value, value))
        error = (_dot(residual, residual) / scale.clamp_min(torch.finfo(y.dtype).tiny)).sqrt()
        better = error < self.least
        self.least = torch.where(better, error, self.least)
        self.best = torch.where(_per_row(better, y), y, self.best)
        self.best_residual = torch.where(_per_row(better, y), residual, self.best_residual)
        return residual


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _per_row(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *([1] * (like.ndim - 1)))
