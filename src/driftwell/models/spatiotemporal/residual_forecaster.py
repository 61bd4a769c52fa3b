"""ST-ResNet: three residual networks over past maps, fused cell by cell."""

from __future__ import annotations

from typing import cast, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.models.spatiotemporal.representation import CRIME_FORECASTING, PastMaps
from driftwell.nn.drawn_layers import drawn_conv, drawn_linear

__all__ = ["STResNet"]


@final
class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), two 3x3 convolutions that keep the width."""

    def __init__(self, width: int, draw: torch.Generator) -> None:
        super().__init__()
        self.first = drawn_conv(width, width, 3, draw, gain=2**0.5)
        self.second = drawn_conv(width, width, 3, draw, gain=0.3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same."""
        y: Tensor = self.second(torch.relu(self.first(torch.relu(x))))
        return x + y


@final
class STResNet(nn.Module):
    """Forecast of the next map of sparse counts on a grid, after Wang, Yin, Bertozzi,
    Brantingham, Osher and Xin, *Deep Learning for Real-Time Crime Forecasting and its
    Ternarization*, 2017, arXiv:1711.08833.

        map(t) = tanh( sum_b W_b * net_b(past maps of b) + ext(features of t) ),
        b: the last hours, the same hour of past days, of past weeks

    with a weight W_b for each cell, each net a convolution, `depth` residual units and a
    convolution, and a small dense net of the hour's features. Maps are scaled to [-1, 1], as the
    tanh asks for; the loss is the mean square. All weights but W_b sit in linear layers and
    convolutions, so that quantization finds them.

    It forecasts counts from counts, of anything: a forecast repeats how events were recorded,
    not how they happened, and is no advice to act on people.

    Args:
        side: cells along each side, >= 1.
        past: which maps it sees.
        external: features of the hour to forecast, E >= 1.
        width: channels of the residual units.
        depth: residual units of each branch.
        seed: of the start weights.

    Raises:
        InvalidInput: a number below 1.

    Example:
        >>> past = PastMaps(near=3, daily=2, weekly=1)
        >>> model = STResNet(16, past, external=2)
        >>> stacks = past(torch.zeros(200, 16, 16), torch.tensor([168, 180]))
        >>> model(*stacks, torch.zeros(2, 2)).shape
        torch.Size([2, 16, 16])
    """

    papers = (CRIME_FORECASTING,)

    def __init__(
        self,
        side: int,
        past: PastMaps = PastMaps(),
        *,
        external: int = 1,
        width: int = 16,
        depth: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(side, external, width, depth) < 1:
            raise InvalidInput(
                "STResNet needs side, external, width and depth of at least 1, got "
                f"{side}, {external}, {width} and {depth}"
            )
        draw = torch.Generator().manual_seed(seed)
        self.side = side
        self.near = _branch(past.near, width, depth, draw)
        self.daily = _branch(past.daily, width, depth, draw)
        self.weekly = _branch(past.weekly, width, depth, draw)
        self.fusion = nn.Parameter(torch.full((3, side, side), 1 / 3))
        self.features = nn.Sequential(
            drawn_linear(external, width, draw, gain=2**0.5),
            nn.ReLU(),
            drawn_linear(width, side * side, draw, gain=0.1),
        )

    def forward(self, near: Tensor, daily: Tensor, weekly: Tensor, external: Tensor) -> Tensor:
        """The next map (B, side, side), in (-1, 1).

        Args:
            near: (B, c, side, side), maps scaled to [-1, 1].
            daily: (B, p, side, side).
            weekly: (B, q, side, side).
            external: (B, E).

        Raises:
            InvalidInput: maps of another size.
        """
        if near.shape[-2:] != (self.side, self.side):
            raise InvalidInput(
                f"maps of {self.side} x {self.side} cells are needed, got {tuple(near.shape)}"
            )
        branches = torch.cat([self.near(near), self.daily(daily), self.weekly(weekly)], dim=1)
        ext = cast(Tensor, self.features(external)).reshape(-1, self.side, self.side)
        return torch.tanh((self.fusion * branches).sum(dim=1) + ext)


def _branch(maps: int, width: int, depth: int, draw: torch.Generator) -> nn.Sequential:
    return nn.Sequential(
        drawn_conv(maps, width, 3, draw),
        *(ResidualUnit(width, draw) for _ in range(depth)),
        nn.ReLU(),
        drawn_conv(width, 1, 3, draw),
    )
