"""Boxes refined stage by stage, by filters that stages make and hand on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.models.vision.boxes import corners
from driftwell.models.vision.stage_labels import STAGE_INTERACTOR
from driftwell.nn.drawn_layers import drawn_linear


class Filters(NamedTuple):
    """Dynamic filters of one stage: over channels (B, Q, C, C) and over points (B, Q, P, P)."""

    channels: Tensor
    points: Tensor


@final
@dataclass(frozen=True)
class Stage:
    """What one stage says.

    Attributes:
        state: box states (x, y, z, r) in pixels and octaves, (B, Q, 4); see `boxes.corners`.
        content: of the queries, (B, Q, D).
        logits: of the classes, (B, Q, K), each its own yes or no.
        filters: what it mixed with.

    Example:
        >>> none = torch.zeros(0)
        >>> Stage(torch.tensor([[[8.0, 8.0, 3.0, 0.0]]]), none, none, Filters(none, none)).boxes
        tensor([[[ 4.,  4., 12., 12.]]])
    """

    papers = (STAGE_INTERACTOR,)

    state: Tensor
    content: Tensor
    logits: Tensor
    filters: Filters

    @property
    def boxes(self) -> Tensor:
        """Left, top, right, bottom in pixels, (B, Q, 4)."""
        return corners(self.state)


@final
class RefinerCell(nn.Module):
    """One stage: look where the box is, mix what is seen with filters made from the query, answer.

        s = features at a P-point grid in the box                       (P, C)
        s <- relu(LN(s W_c(q))),  s <- relu(LN(W_p(q) s)),  and so with each filter handed on,
             W' = W * (1 + U(q) V(q)^T)
        q <- LN(q + O s),  q <- LN(q + MLP(q)),  box <- box + delta(q) in units of its own size

    The adapter of handed-on filters is a light one of rank 1; the paper's exact form is another.

    Args:
        channels: C, of the features.
        width: D, of a query's content.
        classes: K.
        draw: source of the start weights.
        grid: side of the point grid; P = grid^2.
        handed_on: how many earlier stages' filters are used, at most.

    Raises:
        InvalidInput: a size below 1.

    Example:
        >>> cell = RefinerCell(4, 8, 3, torch.Generator().manual_seed(0), grid=2)
        >>> start = Stage(torch.tensor([[[8.0, 8.0, 3.0, 0.0]]]), torch.ones(1, 1, 8), *[None] * 2)
        >>> cell(torch.zeros(1, 4, 8, 8), 2, start, []).boxes
        tensor([[[ 4.,  4., 12., 12.]]], grad_fn=<StackBackward0>)
    """

    papers = (STAGE_INTERACTOR,)

    def __init__(
        self,
        channels: int,
        width: int,
        classes: int,
        draw: torch.Generator,
        *,
        grid: int = 4,
        handed_on: int = 0,
    ) -> None:
        super().__init__()
        if min(channels, width, classes, grid) < 1 or handed_on < 0:
            raise InvalidInput("a refiner cell needs channels, width, classes and grid >= 1")
        P = grid * grid
        self.channels, self.grid, self.handed_on = channels, grid, handed_on
        self.W_c = drawn_linear(width, channels * channels, draw, gain=channels**-0.5)
        self.W_p = drawn_linear(width, P * P, draw, gain=P**-0.5)
        self.adapters = nn.ModuleList(
            drawn_linear(width, 2 * channels + 2 * P, draw, gain=0.3) for _ in range(handed_on)
        )
        self.O = drawn_linear(P * channels, width, draw)
        self.mlp = nn.Sequential(
            drawn_linear(width, 2 * width, draw), nn.GELU(), drawn_linear(2 * width, width, draw)
        )
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.delta = drawn_linear(width, 4, draw, gain=0.0)  # at the start no box moves
        self.classify = drawn_linear(width, classes, draw)
        with torch.no_grad():
            self.classify.bias.fill_(-2.0)  # most queries find nothing

    def forward(
        self, features: Tensor, stride: int, before: Stage, earlier: Sequence[Filters]
    ) -> Stage:
        """The next stage.

        Args:
            features: (B, C, H, W) of the image.
            stride: pixels of the image per feature.
            before: the stage before; its box is taken as given, without gradient.
            earlier: filters of the stages so far, the latest last.
        """
        state, q = before.state.detach(), before.content
        batch, queries, _ = q.shape
        P = self.grid * self.grid
        own = Filters(
            self.W_c(q).view(batch, queries, self.channels, self.channels),
            self.W_p(q).view(batch, queries, P, P),
        )
        s = _mixed(self._seen(features, stride, state), own)
        for adapter, filters in zip(self.adapters, reversed(earlier), strict=False):
            s = s + _mixed(s, self._adapted(adapter(q), filters))
        q = self.norm_1(q + self.O(s.flatten(2)))
        q = self.norm_2(q + self.mlp(q))
        delta, size = self.delta(q), torch.exp2(state[..., 2:3])
        moved = torch.cat(
            [state[..., :2] + size * delta[..., :2], state[..., 2:] + delta[..., 2:]], 2
        )
        return Stage(moved, q, self.classify(q), own)

    def _seen(self, features: Tensor, stride: int, state: Tensor) -> Tensor:
        """Features at the grid points of each box, (B, Q, P, C)."""
        box = corners(state)
        place = (torch.arange(self.grid, device=box.device, dtype=box.dtype) + 0.5) / self.grid
        x = box[..., 0:1] + place * (box[..., 2:3] - box[..., 0:1])
        y = box[..., 1:2] + place * (box[..., 3:4] - box[..., 1:2])
        points = torch.stack(
            [
                x[..., None, :].expand(-1, -1, self.grid, -1),
                y[..., None].expand(-1, -1, -1, self.grid),
            ],
            dim=-1,
        ).flatten(2, 3)
        size = points.new_tensor([features.shape[3], features.shape[2]]) * stride
        seen = functional.grid_sample(features, 2.0 * points / size - 1.0, align_corners=False)
        return seen.permute(0, 2, 3, 1)

    def _adapted(self, raw: Tensor, filters: Filters) -> Filters:
        C, P = self.channels, self.grid * self.grid
        u_c, v_c, u_p, v_p = raw.split([C, C, P, P], dim=-1)
        return Filters(
            filters.channels * (1.0 + u_c[..., :, None] * v_c[..., None, :]),
            filters.points * (1.0 + u_p[..., :, None] * v_p[..., None, :]),
        )


@final
class IterativeRefiner(nn.Module):
    """Query-based refinement of boxes over several stages, after Teng, Liu, Guo and Wang,
    *StageInteractor: Query-based Object Detector with Cross-stage Interaction*, 2023,
    arXiv:2304.04978: a fixed-point iteration of (box, content) whose cells are not tied, each
    supervised, with dynamic filters that later stages reuse.

    Args:
        cell: makes the cell of stage number s, told how many earlier filters it may use: with
            `reuse_filters` min(s, 2), else 0.
        n_stages: at least 1.
        queries: Q.
        width: D, of a query's content.
        side: of the square images, in pixels.
        reuse_filters: whether stages use the filters of earlier ones.
        seed: of the queries' start.

    Raises:
        InvalidInput: a size below 1.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> def cell(stage, handed_on):
        ...     return RefinerCell(4, 8, 3, draw, grid=2, handed_on=handed_on)
        >>> refiner = IterativeRefiner(cell, n_stages=3, queries=5, width=8, side=16)
        >>> [stage.boxes.shape for stage in refiner(torch.zeros(2, 4, 8, 8), stride=2)]
        [torch.Size([2, 5, 4]), torch.Size([2, 5, 4]), torch.Size([2, 5, 4])]
    """

    papers = (STAGE_INTERACTOR,)

    def __init__(
        self,
        cell: Callable[[int, int], RefinerCell],
        n_stages: int,
        *,
        queries: int = 16,
        width: int = 64,
        side: int = 64,
        reuse_filters: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(n_stages, queries, width, side) < 1:
            raise InvalidInput(
                "n_stages, queries, width and side must be at least 1, got "
                f"{n_stages}, {queries}, {width} and {side}"
            )
        self.cells = nn.ModuleList(
            cell(s, min(s, 2) if reuse_filters else 0) for s in range(n_stages)
        )
        draw = torch.Generator().manual_seed(seed)
        self.content = nn.Parameter(torch.randn(queries, width, generator=draw))
        # Boxes of half the image around centres that are spread evenly (a golden-ratio lattice).
        k = torch.arange(queries, dtype=torch.float32)
        centre = torch.stack([(k + 0.5) / queries, (0.5 + 0.6180340 * k) % 1.0], dim=1)
        scale = torch.log2(torch.tensor(0.5 * side)).expand(queries, 1)
        self.start = nn.Parameter(torch.cat([side * centre, scale, torch.zeros(queries, 1)], dim=1))

    def forward(self, features: Tensor, stride: int) -> list[Stage]:
        """Every stage's answer for images with these features.

        Args:
            features: (B, C, H, W).
            stride: pixels of the image per feature.
        """
        batch = features.shape[0]
        none = features.new_zeros(0)
        stage = Stage(
            self.start.expand(batch, -1, -1), self.content.expand(batch, -1, -1), none,
            Filters(none, none),
        )  # fmt: skip
        stages: list[Stage] = []
        for cell in self.cells:
            stage = cell(features, stride, stage, [each.filters for each in stages])
            stages.append(stage)
        return stages


def _mixed(s: Tensor, filters: Filters) -> Tensor:
    """relu(LN(W_p relu(LN(s W_c)))), (B, Q, P, C)."""
    s = s @ filters.channels
    s = functional.relu(functional.layer_norm(s, s.shape[-2:]))
    s = filters.points @ s
    return functional.relu(functional.layer_norm(s, s.shape[-2:]))
