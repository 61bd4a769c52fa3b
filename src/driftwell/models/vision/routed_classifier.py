"""A small vision transformer whose tokens are routed."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.models.vision.token_routing import ROUTING, AttentionBlock, Routed, TokenRouter
from driftwell.nn.drawn_layers import drawn_conv, drawn_linear


@final
class RoutedClassifier(nn.Module):
    """A vision transformer with a `TokenRouter` around every block, after Ma, Fei and Huang,
    *DiT: Efficient Vision Transformers with Dynamic Token Routing*, 2023, arXiv:2308.03409.

    Of the paper's grid of paths it has the axis of depth, not that of resolution.

    Args:
        side: of the square grey images.
        patch: side of a patch; divides `side`.
        classes: number of classes.
        width: entries of a token.
        depth: number of routed blocks.
        heads: of the attention.
        seed: of the start weights.

    Raises:
        InvalidInput: a patch that does not divide the side, or a size below 1.

    Example:
        >>> model = RoutedClassifier(8, 2, 10, width=16, depth=2, heads=2)
        >>> logits, routed = model(torch.rand(3, 8, 8))
        >>> logits.shape, len(routed)
        (torch.Size([3, 10]), 2)
    """

    papers = (ROUTING,)

    def __init__(
        self,
        side: int,
        patch: int,
        classes: int,
        *,
        width: int = 64,
        depth: int = 8,
        heads: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(side, patch, depth) < 1 or side % patch or classes < 2:
            raise InvalidInput(
                "patch must divide side, depth be at least 1 and classes at least 2, got "
                f"side={side}, patch={patch}, depth={depth}, classes={classes}"
            )
        draw = torch.Generator().manual_seed(seed)
        self.embed = drawn_conv(1, width, patch, draw, stride=patch)
        if patch % 2:  # an odd kernel is padded for stride 1, and patches must not overlap the edge
            self.embed.padding = (0, 0)
        place = torch.randn((side // patch) ** 2, width, generator=draw)
        self.place = nn.Parameter(0.5 * place)
        self.routers = nn.ModuleList(
            TokenRouter(AttentionBlock(width, heads, draw), width, draw) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.readout = drawn_linear(width, classes, draw)

    def forward(self, x: Tensor, *, sparse: bool = False) -> tuple[Tensor, list[Routed]]:
        """Logits (B, classes) of images (B, side, side), and what each router did."""
        t = self.embed(x[:, None]).flatten(2).mT + self.place
        done: list[Routed] = []
        for router in self.routers:
            done.append(router(t, sparse=sparse))
            t = done[-1].tokens
        logits: Tensor = self.readout(self.norm(t).mean(dim=1))
        return logits, done

    def spent(self, done: list[Routed]) -> float:
        """Share of the blocks' per-token cost that was spent, over the batch, in [0, 1]."""
        return float(torch.stack([each.open.double().mean() for each in done]).mean())
