"""Dropout whose mask does not change while a state is iterated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform
from driftwell.core.papers import Paper

VARIATIONAL_DROPOUT = Paper(
    key="gal2016dropout",
    title="A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
    authors="Gal, Yarin and Ghahramani, Zoubin",
    year=2016,
    arxiv="1512.05287",
    venue="NeurIPS 2016",
)


@final
class VariationalDropout(nn.Module):
    """Variational dropout, from Gal and Ghahramani, *A Theoretically Grounded Application of
    Dropout in Recurrent Neural Networks*, 2016, arXiv:1512.05287: one mask for all steps of an
    iteration, as a map needs it to have a fixed point.

        z -> m z / (1 - p),        m_i = 1 with probability 1 - p, else 0

    The mask is drawn by `draw`, outside of the map, once a forward pass. It is keyed: a function
    of (seed, step, sample, layer), so that it is the same in any batch and after a restart.

    In evaluation mode it is the identity. The mask is neither a parameter nor saved.

    Args:
        p: probability of dropping, in [0, 1).
        layer: number of this layer in its network, so that no two layers share a mask.

    Raises:
        InvalidInput: p outside [0, 1), a negative layer; in `forward`, no mask or one that does
            not fit.

    Example:
        >>> drop = VariationalDropout(0.5)
        >>> drop.draw((2, 4), seed=0, step=0)
        >>> z = torch.ones(2, 4)
        >>> bool((drop(z) == drop(z)).all()), sorted(set(drop(z).flatten().tolist()))
        (True, [0.0, 2.0])
    """

    papers = (VARIATIONAL_DROPOUT,)

    mask: Tensor | None

    def __init__(self, p: float = 0.1, layer: int = 0) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise InvalidInput(f"VariationalDropout(p=...) must be in [0, 1), got {p}")
        if layer < 0:
            raise InvalidInput(f"VariationalDropout(layer=...) must not be negative, got {layer}")
        self.p, self.layer = p, layer
        self.register_buffer("mask", None, persistent=False)

    def draw(
        self,
        shape: Sequence[int],
        *,
        seed: int,
        step: int,
        samples: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        """Draw the mask of the coming forward pass.

        Args:
            shape: (B, ...), which must broadcast to the state: (B, C, 1, 1) drops whole channels
                of (B, C, H, W).
            seed: of the keyed noise.
            step: index of the training step.
            samples: ids of the samples, int64 (B,); 0..B-1 if None.
            dtype: of the mask, the state's.
            device: where it lies, if `samples` does not say it.
        """
        chains = torch.arange(shape[0], device=device) if samples is None else samples
        u = uniform(
            shape, seed=seed, purpose=Purpose.MASK, chains=chains, step=step, leaf=self.layer
        )
        self.mask = ((u >= self.p) / (1.0 - self.p)).to(dtype)

    def forward(self, z: Tensor) -> Tensor:
        """The state with its mask, (B, ...)."""
        if not self.training or self.p == 0.0:
            return z
        if self.mask is None:
            raise InvalidInput(
                "VariationalDropout has no mask yet; call draw(shape, seed=..., step=...) before "
                "each solve, outside of the map"
            )
        if self.mask.ndim != z.ndim or self.mask.shape[0] != z.shape[0]:
            raise InvalidInput(
                f"the mask of shape {tuple(self.mask.shape)} does not fit a state of shape "
                f"{tuple(z.shape)}; draw one for this batch (compact solves drop samples: use "
                "compact=False)"
            )
        return z * self.mask
