"""Columns of levels that are undone exactly on the way back, and so need not be kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.models.vision.reversible_backward import ReversibleFunction

REVCOL = Paper(
    key="cai2022revcol",
    title="Reversible Column Networks",
    authors="Cai, Yuxuan and Zhou, Yizhuang and Han, Qi and Sun, Jianjian and Kong, Xiangwen and "
    "Li, Jun and Zhang, Xiangyu",
    year=2022,
    arxiv="2212.11696",
    venue="ICLR 2023",
)

# Below this a scale would amplify rounding in the inverse by more than a thousand.
SMALLEST_SCALE = 1e-3


@final
class ReversibleColumn(nn.Module):
    """One column: each level adds to its old state what it makes of its two neighbours.

        c_l = a_l * c_l' + F_l(c_{l-1}, c_{l+1}'),       l = 0 .. L-1 upwards
        c_l' = (c_l - F_l(c_{l-1}, c_{l+1}')) / a_l,     l = L-1 .. 0 downwards

    with c' the previous column, c_{-1} the stem x, and nothing above the top. a_l is kept off
    zero, |a_l| >= 1e-3, where it is used; the parameter itself is never overwritten.

    Args:
        levels: F_0 .. F_{L-1}, called F(below, above) -> (B, C_l, ...); `above` is None at the top.
        channels: C_0 .. C_{L-1}.
        scale: start of every a_l.
        dtype: of the scales.

    Example:
        >>> from driftwell.models.vision.column_levels import DenseLevel
        >>> level = DenseLevel(3, 2, None, torch.Generator().manual_seed(0))
        >>> column, x = ReversibleColumn([level], (2,)), torch.ones(1, 3)
        >>> column.inverse(x, column(x, (torch.tensor([[1.0, 2.0]]),)))[0].detach()
        tensor([[1.0000, 2.0000]])
    """

    papers = (REVCOL,)

    def __init__(
        self,
        levels: Sequence[nn.Module],
        channels: Sequence[int],
        scale: float = 0.5,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.scales = nn.ParameterList(
            [nn.Parameter(torch.full((width,), scale, dtype=dtype)) for width in channels]
        )

    def scale(self, level: int, like: Tensor) -> Tensor:
        """a_l, shaped to act on the channels of `like`."""
        raw = self.scales[level]
        sign = torch.where(raw < 0, -1.0, 1.0).to(raw.dtype)
        kept = torch.where(raw.abs() < SMALLEST_SCALE, sign * SMALLEST_SCALE, raw)
        return kept.view(1, -1, *[1] * (like.ndim - 2))

    def forward(self, x: Tensor, old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The column's levels from the stem x and the previous column's."""
        new: list[Tensor] = []
        for level, state in enumerate(old):
            below = new[-1] if new else x
            new.append(self.scale(level, state) * state + self.branch(level, below, old))
        return tuple(new)

    def inverse(self, x: Tensor, new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The previous column's levels from the stem x and this column's."""
        old = list(new)
        for level in reversed(range(len(new))):
            below = new[level - 1] if level else x
            old[level] = (new[level] - self.branch(level, below, tuple(old))) / self.scale(
                level, new[level]
            )
        return tuple(old)

    def branch(self, level: int, below: Tensor, old: tuple[Tensor, ...]) -> Tensor:
        """F_l of the level below in this column and the level above in the previous one."""
        above = old[level + 1] if level + 1 < len(old) else None
        value: Tensor = self.levels[level](below, above)
        return value


@final
class ReversibleColumns(nn.Module):
    """Reversible columns, RevCol, from Cai et al., *Reversible Column Networks*, 2022,
    arXiv:2212.11696: the levels of n columns from those of the last alone.

    Forward keeps only the last column. Backward goes through columns and levels in reverse: each
    F_l is evaluated once more, with recording; that gives both the old state, by the exact inverse
    (see `ReversibleColumn`), and the gradients. Memory does not grow with the number of columns.
    What is drawn inside a level (dropout) is drawn again from the same random state, and under the
    same autocast; each such level keeps that state, 5 kB on a processor.

    The inverse divides by a_l, so rounding grows like prod 1/|a_l| over columns;
    `reconstruction_error` measures it. Gradients are of first order, and reach the stem, column 0
    and the parameters of the levels, nothing else that they capture.

    Args:
        column_factory: makes the levels F_0 .. F_{L-1} of column number i.
        channels: C_0 .. C_{L-1}.
        n_columns: at least 1.
        reversible: False keeps every activation instead, as a plain network does.
        scale: start of every a_l, not 0.
        dtype: of the scales.

    Raises:
        InvalidInput: no columns or levels, a scale of 0, or a factory that makes another number
            of levels than there are channels.

    Example:
        >>> from driftwell.models.vision.column_levels import DenseLevel
        >>> def levels(column):
        ...     draw = torch.Generator().manual_seed(column)
        ...     return [DenseLevel(8, 6, 5, draw), DenseLevel(6, 5, None, draw)]
        >>> net = ReversibleColumns(levels, (6, 5), n_columns=3)
        >>> [c.shape for c in net(torch.ones(2, 8), (torch.zeros(2, 6), torch.zeros(2, 5)))]
        [torch.Size([2, 6]), torch.Size([2, 5])]
    """

    papers = (REVCOL,)

    def __init__(
        self,
        column_factory: Callable[[int], Sequence[nn.Module]],
        channels: Sequence[int],
        n_columns: int,
        *,
        reversible: bool = True,
        scale: float = 0.5,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if n_columns < 1 or not channels or scale == 0.0:
            raise InvalidInput(
                "reversible columns need n_columns >= 1, at least one level and a scale that is "
                f"not 0, got n_columns={n_columns}, channels={tuple(channels)}, scale={scale}"
            )
        self.reversible, self.n_levels = reversible, len(channels)
        made = [column_factory(i) for i in range(n_columns)]
        for levels in made:
            if len(levels) != len(channels):
                raise InvalidInput(
                    f"column_factory made {len(levels)} levels for {len(channels)} channels"
                )
        self.columns = nn.ModuleList(
            ReversibleColumn(levels, channels, scale, dtype) for levels in made
        )

    def forward(self, x: Tensor, c0: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Levels of the last column.

        Args:
            x: stem, (B, C, ...), which level 0 of every column reads.
            c0: column 0, one tensor (B, C_l, ...) a level; zeros as a rule.

        Raises:
            InvalidInput: another number of levels than the columns have.
        """
        if len(c0) != self.n_levels:
            raise InvalidInput(f"c0 must hold {self.n_levels} levels, got {len(c0)}")
        if not (self.reversible and torch.is_grad_enabled()):
            for column in self._each():
                c0 = column(x, c0)
            return c0
        weights = [p for p in self.parameters() if p.requires_grad]
        last: tuple[Tensor, ...] = ReversibleFunction.apply(  # type: ignore[no-untyped-call]
            self._each(), weights, x, *c0, *weights
        )
        return last

    def _each(self) -> list[ReversibleColumn]:
        return [column for column in self.columns if isinstance(column, ReversibleColumn)]

    def inverse(self, x: Tensor, last: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Column 0 from the stem and the last column; without dropout."""
        for column in reversed(self._each()):
            last = column.inverse(x, last)
        return last

    def reconstruction_error(self, x: Tensor, c0: tuple[Tensor, ...]) -> Tensor:
        """Relative error of each column as `inverse` recovers it from the last, (n_columns,).

        Entry i belongs to the input of column i, over all levels and samples; without dropout.
        """
        with torch.no_grad():
            states = [c0]
            for column in self._each():
                states.append(column(x, states[-1]))
            errors, back = [], states.pop()
            for column, exact in zip(reversed(self._each()), reversed(states), strict=True):
                back = column.inverse(x, back)
                gap = torch.cat(
                    [(a - b).flatten() for a, b in zip(back, exact, strict=True)]
                ).norm()
                # Column 0 is zero as a rule: measure it by the one after.
                size = torch.cat([b.flatten() for b in exact]).norm()
                after = torch.cat([b.flatten() for b in column(x, exact)]).norm()
                errors.append(gap / torch.maximum(size, after))
        return torch.stack(errors[::-1])
