"""A fixed point with a fixed number of iterations: what a small processor runs."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from driftwell.core.errors import InvalidInput


@final
class Settling(nn.Module):
    """The state after K applications of a map from 0: z_{k+1} = f(z_k, x), z_0 = 0.

    The plain iteration that `FixedBudget` with `Picard` runs without looking at residuals; as C
    it is one loop over integers, with the state in 8 bits.

    Args:
        layer: f, called as layer(z, x), with z (B, ...) and x (B, ...).
        shape: of a state, without the batch.
        iterations: K, at least 1.

    Raises:
        InvalidInput: no iteration, or an empty shape.

    Example:
        >>> import torch
        >>> class Halve(nn.Module):
        ...     def forward(self, z, x):
        ...         return 0.5 * z + x
        >>> Settling(Halve(), (1,), 3)(torch.ones(1, 1))
        tensor([[1.7500]])
    """

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], iterations: int) -> None:
        super().__init__()
        if iterations < 1 or not shape or min(shape) < 1:
            raise InvalidInput(
                "settling needs at least one iteration and a state of at least one entry, got "
                f"iterations={iterations}, shape={tuple(shape)}"
            )
        self.layer, self.shape, self.iterations = layer, tuple(shape), iterations

    def forward(self, x: Tensor) -> Tensor:
        """The K-th state (B, *shape) for inputs x (B, ...)."""
        z = x.new_zeros(len(x), *self.shape)
        for _ in range(self.iterations):
            z = self.layer(z, x)
        return z
