"""The Learned Proximal Network: a denoiser that is exactly a proximal operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State
from driftwell.dynamics.laws import Map
from driftwell.models.proximal.inversion import invert
from driftwell.models.proximal.matching import LPN_PAPER
from driftwell.nn.convex import InputConvexNetwork


@final
@dataclass(frozen=True)
class Prior:
    """A learned prior at given points.

    Attributes:
        value: R(x) up to one constant, (B,).
        y: points with f(y) = x as nearly as they were found, (B, ...).
        error: |f(y) - x| relative to the larger of |x| and |f(y)|, (B,). Where it is not small, x
            is outside the range of f, and `value` is a lower bound of R(x).
    """

    value: Tensor
    y: Tensor
    error: Tensor


@final
class LPN(Map):
    """Learned Proximal Network, from Fang, Buchanan and Sulam, *What's in a Prior? Learned
    Proximal Networks for Inverse Problems*, 2024, arXiv:2310.14344.

    The gradient of an input-convex network psi is the proximal operator of a function R,

        f(y) = grad psi(y) = argmin_x 1/2 |x - y|^2 + R(x),
        R(f(y)) = <y, f(y)> - 1/2 |f(y)|^2 - psi(y)

    whatever the weights are. Trained by `proximal_matching_loss` on y = x + N(0, s^2), f is the
    maximum-a-posteriori denoiser and R is -s^2 log p(x), both learned from samples of p only. R
    need not be convex, and then f is not 1-Lipschitz.

    As a `Map` it is z <- f(z), whose fixed points are the stationary points of R.

    Args:
        shape: shape of one sample, (D,), (H, W) or (C, H, W).
        hidden: width, or channels, of the hidden layers.
        depth: number of hidden layers.
        sharpness: of the softplus, in units 1 / y.
        convexity: c of a term c/2 |y|^2 in psi; positive values make f one-to-one.
        seed: of the keyed start parameters.
        dtype: of the parameters.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> lpn = LPN((2,), hidden=8, seed=1)
        >>> y = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
        >>> x = lpn.prox(y)
        >>> bool(((y[0] - y[1]) * (x[0] - x[1])).sum() >= 0)  # f is monotone
        True
    """

    papers = (LPN_PAPER,)

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: int = 64,
        depth: int = 4,
        sharpness: float = 10.0,
        convexity: float = 0.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.psi = InputConvexNetwork(shape, hidden, depth, sharpness, convexity, seed, dtype)
        self.shape = self.psi.shape

    def forward(self, z: State, x: Any = None) -> State:
        """f(z), so that the denoiser is a law z <- f(z)."""
        if not isinstance(z, Tensor):
            raise InvalidInput(f"a state of this network is one tensor, got {type(z).__name__}")
        return self.prox(z)

    def potential(self, y: Tensor) -> Tensor:
        """psi(y), convex in y, (B,)."""
        value: Tensor = self.psi(y)
        return value

    def prox(self, y: Tensor) -> Tensor:
        """f(y) = grad psi(y), like y; differentiable in y and parameters."""
        return self.psi.gradient(y)

    def invert(self, x: Tensor, *, tol: float = 1e-4, max_steps: int = 500) -> Tensor:
        """y with f(y) = x, the minimiser of the convex psi(y) - <x, y>, like x and detached.

        `prior` reports how near f(y) came.

        Args:
            x: points, (B, ...).
            tol: on |f(y) - x|, relative as in `Prior.error`.
            max_steps: evaluations of f.
        """
        return invert(self.prox, x, tol=tol, max_steps=max_steps)

    def prior(self, x: Tensor, *, tol: float = 1e-4, max_steps: int = 500) -> Prior:
        """R(x) by inverting f, with the error of the inversion; detached.

        Arguments as `invert`. An error e of f(y) lowers R by at most |e| times the distance from
        y to the true inverse: by e^2 where f is steep, more where f is flat.

        Example:
            >>> lpn = LPN((1,), hidden=8, convexity=0.1, seed=1, dtype=torch.float64)
            >>> x = lpn.prox(torch.tensor([[0.5]], dtype=torch.float64)).detach()
            >>> there = lpn.prior(x, tol=1e-6)
            >>> bool(there.error < 1e-6), bool((there.y - 0.5).abs() < 1e-3)
            (True, True)
        """
        y = self.invert(x, tol=tol, max_steps=max_steps)
        with torch.no_grad():
            f = self.prox(y)
            size = torch.maximum(_norm(x), _norm(f)).clamp_min(math.sqrt(torch.finfo(x.dtype).tiny))
            return Prior(self.conjugate(y, x), y, _norm(f - x) / size)

    def prior_at(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f(y) and R(f(y)), (B,): exact and without inversion, as y is known; detached."""
        with torch.no_grad():
            x = self.prox(y)
            return x, self.conjugate(y, x)

    def conjugate(self, y: Tensor, x: Tensor) -> Tensor:
        """<y, x> - 1/2 |x|^2 - psi(y), (B,): R(x) where x = f(y), below it elsewhere."""
        product = (y * x).flatten(1).sum(1) - 0.5 * x.flatten(1).square().sum(1)
        return product - self.potential(y)


def _norm(z: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(z.flatten(1), dim=1)
    return length
