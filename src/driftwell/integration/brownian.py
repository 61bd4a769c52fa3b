"""Brownian paths as a function of a key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal

_ID_BITS = 24  # of the noise key's step: nodes of one span's tree; the rest numbers the span
_SPAN_BITS = 16


@final
@dataclass(frozen=True)
class Brownian:
    """Keyed Brownian path: one path for a seed, whatever steps it is looked at with.

    Time is cut into spans; in each, W is built by midpoint refinement (Lévy's construction of
    the Brownian bridge), every node a keyed normal of (seed, sample, span, node, leaf, element):

        W(m) = (W(a) + W(b)) / 2 + sqrt(b - a) / 2 * N,   m = (a + b) / 2

    down to cells of span * 2^-k, the largest such length that does not exceed `resolution`.
    Inside a cell [a, b] of length h, W(a + u h) = (1 - u) W(a) + u W(b) + sqrt(h u (1 - u)) N
    with one N for the cell: exact in law as long as no two times asked for share a cell. So
    increments add up, refining a step keeps the path, a finer `resolution` keeps it at all
    coarser cells' ends, and a sample's path does not depend on the batch.

    Args:
        seed: 0 <= seed < 2**64.
        resolution: finest time that is resolved, in integration units; no larger than the step.
        span: length of a span, in integration units; two paths are the same only if theirs is.
        first_chain: chain id of sample 0, for those who split a batch.

    Raises:
        InvalidInput: a setting outside its range, or span / resolution above 2**22.

    Example:
        >>> path = Brownian(seed=0).path([(1,)], 4)
        >>> whole, half = path.increment(0.0, 1.0), path.increment(0.0, 0.5)
        >>> bool(torch.allclose(whole, half + path.increment(0.5, 1.0)))
        True
    """

    seed: int
    resolution: float = 2.0**-10
    span: float = 1.0
    first_chain: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise InvalidInput(f"Brownian(seed=...) must be in 0..2**64-1, got {self.seed}")
        for name, value in (("resolution", self.resolution), ("span", self.span)):
            if not 0.0 < value < math.inf:
                raise InvalidInput(f"Brownian({name}=...) must be positive, got {value}")
        if self.first_chain < 0:
            raise InvalidInput(
                f"Brownian(first_chain=...) must not be negative, got {self.first_chain}"
            )
        if self.levels > _ID_BITS - 2:
            raise InvalidInput(
                f"Brownian resolves span * 2**-{_ID_BITS - 2} at best, got resolution="
                f"{self.resolution} with span={self.span}; shorten span"
            )

    @property
    def levels(self) -> int:
        """Number of refinements k of a span."""
        return max(0, math.ceil(math.log2(self.span / self.resolution) - 1e-9))

    def path(
        self,
        shapes: Sequence[tuple[int, ...]],
        samples: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> BrownianPath:
        """The path of a state whose leaves have the given shapes (batch left out)."""
        return BrownianPath(self, shapes, samples, dtype, torch.device(device or "cpu"))


class BrownianPath:
    """A Brownian path of one batch, which remembers where it was last looked at.

    Memory is that of at most k + 2 states, k the number of refinements.
    """

    def __init__(
        self,
        law: Brownian,
        shapes: Sequence[tuple[int, ...]],
        samples: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._law, self._shapes, self._samples, self._dtype = law, tuple(shapes), samples, dtype
        self._chains = law.first_chain + torch.arange(samples, device=device)
        self._cells = 2**law.levels
        self._span: int | None = None
        self._nested: list[tuple[int, int, Tensor, Tensor]] = []
        self._last: tuple[float, int, Tensor] | None = None

    def increment(self, start: float, end: float) -> Tensor:
        """W(end) - W(start), flat (B, D), for start <= end."""
        span, before = self._at(start)
        last_span, after = self._at(end)
        total = after - before
        for number in range(span, last_span):
            total = total + self._whole(number)
        return total

    def _at(self, time: float) -> tuple[int, Tensor]:
        """Number of the span `time` lies in, and W there relative to the span's start."""
        if self._last is not None and self._last[0] == time:
            return self._last[1:]
        cells = time / self._law.span * self._cells
        nearest = round(cells)
        if abs(cells - nearest) <= 1e-6:  # the rounding of a time, not a time inside a cell
            cells = nearest
        cell = math.floor(cells)
        span, inside = divmod(cell, self._cells)
        value = self._inside(span, inside, cells - cell)
        self._last = (time, span, value)
        return span, value

    def _inside(self, span: int, cell: int, fraction: float) -> Tensor:
        if self._span != span:
            whole = self._whole(span)
            self._span, self._nested = span, [(0, self._cells, torch.zeros_like(whole), whole)]
        left = self._grid(cell)
        if fraction == 0.0:
            return left
        right = self._grid(cell + 1)
        spread = math.sqrt(self._law.span / self._cells * fraction * (1.0 - fraction))
        bend = spread * self._node(span, self._cells + cell)
        return (1.0 - fraction) * left + fraction * right + bend

    def _grid(self, cell: int) -> Tensor:
        """W at a cell's left end, by refining from the smallest known interval around it."""
        while not self._nested[-1][0] <= cell <= self._nested[-1][1]:
            self._nested.pop()
        low, high, w_low, w_high = self._nested[-1]
        while low < cell < high:
            middle = (low + high) // 2
            length = self._law.span * (high - low) / self._cells
            node = self._cells // (high - low) + low // (high - low)  # heap order: level, place
            bend = 0.5 * math.sqrt(length) * self._node(self._span or 0, node)
            w_middle = 0.5 * (w_low + w_high) + bend
            if cell < middle:
                high, w_high = middle, w_middle
            else:
                low, w_low = middle, w_middle
            self._nested.append((low, high, w_low, w_high))
        return w_low if cell == low else w_high

    def _whole(self, span: int) -> Tensor:
        """W over a whole span."""
        return math.sqrt(self._law.span) * self._node(span, 0)

    def _node(self, span: int, node: int) -> Tensor:
        """Keyed normals of one node, flat (B, D)."""
        number = 2 * span if span >= 0 else -2 * span - 1
        if number >= 2**_SPAN_BITS:
            raise InvalidInput(
                f"Brownian keys times up to {2 ** (_SPAN_BITS - 1)} spans from 0, and this one is "
                f"{abs(span)} away; raise Brownian(span={self._law.span})"
            )
        parts = [
            normal(
                (self._samples, *shape),
                seed=self._law.seed,
                purpose=Purpose.BROWNIAN,
                chains=self._chains,
                step=(number << _ID_BITS) | node,
                leaf=leaf,
                dtype=self._dtype,
            ).reshape(self._samples, -1)
            for leaf, shape in enumerate(self._shapes)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
