"""Rotary positions: queries and keys turned by angles that grow with their place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

ROPE = Paper(
    "su2021roformer",
    "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    "Su, Jianlin and Lu, Yu and Pan, Shengfeng and Murtadha, Ahmed and Wen, Bo and Liu, Yunfeng",
    2021,
    arxiv="2104.09864",
)
ROPE_ID = Paper(
    "wertheimer2026frayed",
    "Frayed RoPE and Long Inputs: A Geometric Perspective",
    "Wertheimer, Davis and Zhang, Aozhong and Liu, Derrick and Yin, Penghang and Wang, Naigang",
    2026,
    arxiv="2603.18017",
)


@final
class RotaryEmbedding(nn.Module):
    """Rotary positions, from Su et al., *RoFormer*, 2021, arXiv:2104.09864, on all channels or,
    as Wertheimer et al., *Frayed RoPE and Long Inputs*, 2026, arXiv:2603.18017, propose for long
    inputs, on a part of them and with high frequencies only (RoPE-ID).

    The first d_r = fraction d channels of a head turn in pairs (j, j + d_r / 2), the others carry
    no position:

        R_t x:  (x_j, x_j+) -> (x_j cos t w_j - x_j+ sin t w_j,  x_j sin t w_j + x_j+ cos t w_j)
        <R_s q, R_t k> = sum_j r_j cos((s - t) w_j + a_j) + <q, k>_unturned

    Frequencies w_j run geometrically from 1 down to 2 pi / longest_period. With a period of many
    times the training length (`longest_period=None`: base 10,000 as in RoPE) an input longer than
    those trained on turns pairs to angles that were never seen; with a period of a part of it,
    every angle was.

    Args:
        dim: d, channels of a head; even.
        fraction: part of the channels that turns, in (0, 1].
        longest_period: of a pair, in tokens; None for w_j = 10,000^(-2 j / d_r).

    Raises:
        InvalidInput: sizes that leave no whole pair, a fraction outside (0, 1], a period of less
            than two pi.

    Example:
        >>> rotary = RotaryEmbedding(8, fraction=0.5, longest_period=16.0)
        >>> x = torch.ones(1, 1, 3, 8)
        >>> turned = rotary(x)
        >>> bool((turned[..., 4:] == 1).all()), bool((turned[:, :, 0] == 1).all())
        (True, True)
    """

    papers = (ROPE, ROPE_ID)
    frequency: Tensor

    def __init__(
        self, dim: int, fraction: float = 1.0, longest_period: float | None = None
    ) -> None:
        super().__init__()
        if not 0.0 < fraction <= 1.0:
            raise InvalidInput(f"the fraction of channels that turn is in (0, 1], not {fraction}")
        turning = round(fraction * dim)
        if turning < 2 or turning % 2:
            raise InvalidInput(
                f"{fraction:g} of {dim} channels are {turning}, which makes no whole pairs"
            )
        if longest_period is not None and not 2 * math.pi <= longest_period < math.inf:
            raise InvalidInput(
                f"the longest period is at least 2 pi tokens, that of w = 1, not {longest_period}"
            )
        self.dim, self.turning, self.longest_period = dim, turning, longest_period
        self.register_buffer("frequency", self._frequencies(), persistent=False)

    def _frequencies(self) -> Tensor:
        pairs = self.turning // 2
        j = torch.arange(pairs, dtype=torch.float64)
        if self.longest_period is None:
            return (10_000.0 ** (-j / pairs)).float()
        lowest = 2 * math.pi / self.longest_period
        return (lowest ** (j / max(pairs - 1, 1))).float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # a module of short floats keeps its angles: in bfloat16 place 257 would be place 256
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frequency = self._frequencies().to(self.frequency.device)
        return self

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return f"dim={self.dim}, turning={self.turning}, longest_period={self.longest_period}"

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Queries or keys (..., T, d) turned by the angles of places first, first + 1, ..

        Angles are float32 numbers in every dtype: at place 100,000 they are good to .01.

        Raises:
            InvalidInput: another number of channels.
        """
        if x.shape[-1] != self.dim:
            raise InvalidInput(f"heads of {self.dim} channels are turned, not of {x.shape[-1]}")
        place = torch.arange(first, first + x.shape[-2], device=x.device, dtype=torch.float32)
        angle = place[:, None] * self.frequency
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        half = self.turning // 2
        a, b = x[..., :half], x[..., half : self.turning]
        return torch.cat([a * cos - b * sin, a * sin + b * cos, x[..., self.turning :]], dim=-1)


@final
@dataclass(frozen=True)
class ClusterGeometry:
    """Where the queries and keys of a head lie, after they were turned.

    Attributes:
        separation: distance of the two centroids over the root-mean-square distance of the points
            from their own; (B, H).
        opposition: cosine of the two centroids; (B, H).
        sink_mass: mean share of attention that goes to the first token; (B, H).
    """

    separation: Tensor
    opposition: Tensor
    sink_mass: Tensor


def cluster_geometry(queries: Tensor, keys: Tensor) -> ClusterGeometry:
    """Separation of query and key clusters and mass on the sink, the diagnostics of Wertheimer et
    al., *Frayed RoPE and Long Inputs*, 2026, arXiv:2603.18017.

        separation = |mean q - mean k| / sqrt((var q + var k) / 2),   var = mean |x - mean x|^2

    Keys and queries of a trained head lie in two tight clusters on opposite sides, which lets a
    sink token take the attention that is not needed. Turned by angles that were never trained on
    the clusters smear out and meet, and the sink fails.

    Args:
        queries: of causal attention, turned, (B, H, T, d).
        keys: likewise; the first one is the sink and is left out of the cluster of keys.

    Raises:
        InvalidInput: other shapes, or fewer than two tokens.

    Example:
        >>> q = torch.ones(1, 1, 4, 2) + 0.1 * torch.eye(4)[:, :2]
        >>> found = cluster_geometry(q, -q)
        >>> bool(found.separation > 10), round(float(found.opposition), 2)
        (True, -1.0)
    """
    if queries.ndim != 4 or queries.shape != keys.shape or queries.shape[2] < 2:
        raise InvalidInput(
            "queries and keys have one shape (B, H, T, d) with T >= 2, not "
            f"{tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    rest = keys[:, :, 1:]
    q, k = queries.mean(dim=2), rest.mean(dim=2)
    spread = (_variance(queries, q) + _variance(rest, k)) / 2
    # points without spread are as far apart as their dtype can tell
    numbers = torch.finfo(queries.dtype)
    least = numbers.eps * (q.norm(dim=-1) + k.norm(dim=-1)) + numbers.tiny
    separation = (q - k).norm(dim=-1) / spread.sqrt().maximum(least)
    opposition = torch.nn.functional.cosine_similarity(q, k, dim=-1)
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    share = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    # of the first token itself everything goes to the first token
    return ClusterGeometry(separation, opposition, share[:, :, 1:, 0].mean(dim=-1))


def _variance(points: Tensor, centre: Tensor) -> Tensor:
    return (points - centre[:, :, None]).square().sum(dim=-1).mean(dim=-1)
