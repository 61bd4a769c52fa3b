"""Laplacian smoothing of gradients, under any optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

OSHER_SMOOTHING = Paper(
    key="osher2018laplacian",
    title="Laplacian Smoothing Gradient Descent",
    authors="Osher, Stanley and Wang, Bao and Yin, Penghang and Luo, Xiyang and Barekat, Farzin "
    "and Pham, Minh and Lin, Alex",
    year=2018,
    arxiv="1806.06317",
)


def laplacian_smooth(gradient: Tensor, sigma: float, order: int = 1) -> Tensor:
    """Smoothed gradient g~ of Osher et al., *Laplacian smoothing gradient descent*, 2018,
    arXiv:1806.06317.

        (1 + sigma (-Delta)^n) g~ = g  on the flattened tensor of length m, periodic
        g~_j = g_j / lambda_j in Fourier space,  lambda_j = 1 + sigma (2 - 2 cos(2 pi j / m))^n

    The mean is kept, the largest entry does not grow (order 1), and <g~, g> > 0: a descent
    direction. White noise keeps (1 + 2 sigma) / (1 + 4 sigma)^(3/2) of its power (order 1).

    Args:
        gradient: any shape; it is smoothed in the order of its memory layout's logical index.
        sigma: strength, at least 0.
        order: n, at least 1.

    Returns:
        Like `gradient`.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> laplacian_smooth(torch.tensor([1.0, 0.0, 0.0, 0.0]), sigma=1.0)
        tensor([0.4667, 0.2000, 0.1333, 0.2000])
    """
    _check(sigma, order)
    m = gradient.numel()
    wide = torch.float64 if gradient.dtype == torch.float64 else torch.float32
    flat = gradient.detach().reshape(-1).to(wide)
    j = torch.arange(m // 2 + 1, device=flat.device, dtype=wide)
    eigenvalues = 1.0 + sigma * (2.0 - 2.0 * torch.cos(2.0 * math.pi / max(m, 1) * j)) ** order
    smooth: Tensor = torch.fft.irfft(torch.fft.rfft(flat) / eigenvalues, n=m)
    return smooth.reshape(gradient.shape).to(gradient.dtype)


def white_noise_factor(sigma: float) -> float:
    """E |g~|^2 / E |g|^2 of white noise of great length, (1 + 2 sigma) / (1 + 4 sigma)^(3/2).

    Example:
        >>> round(white_noise_factor(1.0), 3)
        0.268
    """
    _check(sigma, 1)
    return (1.0 + 2.0 * sigma) / math.pow(1.0 + 4.0 * sigma, 1.5)


@final
class LaplacianSmoothing:
    """Any optimizer, fed with Laplacian-smoothed gradients, from Osher et al., *Laplacian
    smoothing gradient descent*, 2018, arXiv:1806.06317; see `laplacian_smooth`.

    Gradients are smoothed in place just before the optimizer sees them, so before momentum and
    before its weight decay. Learning-rate schedulers take the inner `optimizer`.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        sigma: strength, at least 0.
        order: power of the Laplacian, at least 1.
        skip_vectors: leave tensors of at most one dimension (biases, norms) alone.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = LaplacianSmoothing(torch.optim.SGD(layer.parameters(), lr=0.1), sigma=1.0)
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.zero_grad()
    """

    papers = (OSHER_SMOOTHING,)

    def __init__(
        self,
        optimizer: Optimizer,
        sigma: float = 1.0,
        order: int = 1,
        skip_vectors: bool = True,
    ) -> None:
        _check(sigma, order)
        self.optimizer = optimizer
        self.sigma, self.order, self.skip_vectors = float(sigma), order, skip_vectors

    def __repr__(self) -> str:
        return f"LaplacianSmoothing({self.optimizer!r}, sigma={self.sigma}, order={self.order})"

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimizer's parameter groups."""
        return self.optimizer.param_groups

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Smooth, then step; with a closure, smooth after each of its evaluations."""
        if closure is None:
            self._smooth()
            return self.optimizer.step()
        evaluate = closure

        def smoothed() -> Any:
            loss = evaluate()
            self._smooth()
            return loss

        return self.optimizer.step(smoothed)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state; smoothing has none."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the inner optimizer's state."""
        self.optimizer.load_state_dict(state_dict)

    @torch.no_grad()
    def _smooth(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and not (self.skip_vectors and p.ndim <= 1):
                    p.grad.copy_(laplacian_smooth(p.grad, self.sigma, self.order))


def _check(sigma: float, order: int) -> None:
    if not 0.0 <= sigma < float("inf"):
        raise InvalidInput(f"sigma must be finite and not negative, got {sigma}")
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise InvalidInput(f"order must be an integer of at least 1, got {order!r}")
