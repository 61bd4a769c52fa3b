"""COMQ: coordinate descent on the layer's output error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.formats import Format, Grid, Quantized
from driftwell.quantization.post_training.descent import (
    Descent,
    Zeros,
    begin,
    descend,
    fit_one_scale,
    settle,
)
from driftwell.quantization.post_training.method import Method, checked, checked_gram, keeps_scale

ZHANG = Paper(
    "zhang2024comq",
    "COMQ: A Backpropagation-Free Algorithm for Post-Training Quantization",
    "Zhang, Aozhong and Yang, Zi and Wang, Naigang and Qi, Yingyong and Xin, Jack and Li, Xin and "
    "Yin, Penghang",
    2024,
    arxiv="2403.07134",
)


@final
@dataclass(frozen=True)
class COMQ(Method):
    """Coordinate descent on codes and scales, from A. Zhang et al., *COMQ: A Backpropagation-Free
    Algorithm for Post-Training Quantization*, 2024, arXiv:2403.07134.

    Per row w, with q = s (l - z) and r = (w - q) G, a column's turn is the exact minimum of
    E(q) = (w - q) G (w - q)^T over its code alone, and after each sweep comes the exact minimum
    over the scales (and zeros):

        q_i <- nearest level to q_i + r_i / G_ii,   r <- r + (old q_i - new q_i) G_i
        s <- (l - z) G w^T / (l - z) G (l - z)^T

    It starts from q = w, so that in the first sweep columns yet to come make up for those rounded;
    from then on E cannot rise.

    Args:
        sweeps: turns of every column, at least 1.
        order: "greedy", each row its own columns in falling |w_i| sqrt(G_ii), or "cyclic".
        fit: what the fit after a sweep may change: "nothing", "scale", "whole zero" (the scale,
            and zeros of an affine grid among whole numbers) or "zero" (any number). One scale
            for the whole tensor is fitted without its zero.
        pairs: turns over pairs of columns after the sweeps (not in the paper): each column is moved
            by one code together with the best of the 16 columns most correlated with it. They
            leave minima that no single code leaves.
        shrink: factor on the range of the format's own grid before the start.

    Raises:
        InvalidInput: a setting out of range.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> w, gram = torch.tensor([[0.0, 1.4, 3.0]]), torch.eye(3)
        >>> COMQ(fit="nothing").quantize(w, gram, Uniform(2)).decode()
        tensor([[0., 1., 3.]])
    """

    papers = (ZHANG,)

    sweeps: int = 3
    order: Literal["greedy", "cyclic"] = "greedy"
    fit: Literal["nothing", "scale", "whole zero", "zero"] = "scale"
    pairs: int = 0
    shrink: float = 1.0

    def __post_init__(self) -> None:
        """Raise on a setting out of range."""
        if self.sweeps < 1:
            raise InvalidInput(f"COMQ(sweeps=...) is at least 1, not {self.sweeps}")
        if self.pairs < 0:
            raise InvalidInput(f"COMQ(pairs=...) is at least 0, not {self.pairs}")
        if self.order not in ("greedy", "cyclic"):
            raise InvalidInput(f"COMQ(order=...) is 'greedy' or 'cyclic', not {self.order!r}")
        if self.fit not in ("nothing", "scale", "whole zero", "zero"):
            raise InvalidInput(
                f"COMQ(fit=...) is 'nothing', 'scale', 'whole zero' or 'zero', not {self.fit!r}"
            )
        if not 0.0 < self.shrink <= 2.0:
            raise InvalidInput(f"COMQ(shrink=...) is in (0, 2], not {self.shrink}")

    def quantize(self, w: Tensor, gram: Tensor, format: Format) -> Quantized:
        """Codes from a cold start at the weights themselves."""
        matrix, gram = checked(w, gram, format)
        grid = format.fit(matrix).shrunk(self.shrink)
        it = begin(matrix, gram, None, grid)
        settle(it, self._order(matrix, gram))
        rest, free = self.sweeps - 1, not keeps_scale(format)
        return self.descended(matrix, gram, it.codes, grid, free=free, sweeps=rest).result(grid, w)

    def refine(self, w: Tensor, gram: Tensor, start: Quantized) -> Quantized:
        """Better codes and scales from given ones: no row's E is larger than at the start.

        Set `fit="nothing"` for scales that are bound to a set of their own (powers of two).

        Raises:
            InvalidInput: shapes that do not belong together, or numbers that are not finite.
        """
        if tuple(w.shape) != tuple(start.shape):
            raise InvalidInput(
                f"the start is for a weight of shape {start.shape}, not {tuple(w.shape)}"
            )
        matrix = w.detach().reshape(w.shape[0], -1)
        matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
        if not matrix.isfinite().all():
            raise InvalidInput("the weight holds NaN or infinity")
        gram = checked_gram(gram, matrix)
        it = self.descended(matrix, gram, start.codes, start.grid.to(dtype=matrix.dtype))
        return it.result(start.grid, w)

    def descended(
        self, w: Tensor, gram: Tensor, codes: Tensor, grid: Grid, *, free: bool = True,
        sweeps: int | None = None,
    ) -> Descent:  # fmt: skip
        """The descent of `w` (R, C) from codes on a grid, after `sweeps` (by default all) sweeps.

        Args:
            w: float32 or float64.
            gram: (C, C) in the same dtype.
            codes: (R, C) start.
            grid: what they stand for.
            free: False keeps the scales, whatever `fit` says.
            sweeps: how many, in place of the own number.
        """
        it, order = begin(w, gram, codes, grid), self._order(w, gram)
        sweeps, fit = self.sweeps if sweeps is None else sweeps, free and self.fit != "nothing"
        if grid.scale.shape == (1, 1) and w.shape[0] > 1:
            for turn in range(sweeps + self.pairs):
                if fit:
                    fit_one_scale(it)
                descend(it, order, sweeps=int(turn < sweeps), pairs=int(turn >= sweeps), fit=False)
            if fit:
                fit_one_scale(it)
        else:
            descend(it, order, sweeps=sweeps, fit=fit, zeros=self._zeros(grid), pairs=self.pairs)
        return it

    def _zeros(self, grid: Grid) -> Zeros:
        if self.fit in ("scale", "nothing") or not _is_affine(grid):
            return "kept"
        return "free" if self.fit == "zero" else "whole"

    def _order(self, w: Tensor, gram: Tensor) -> Tensor:
        """Columns in the order of their turns, (C,) for all rows or (R, C)."""
        if self.order == "cyclic":
            return torch.arange(w.shape[1], device=w.device)
        return (w.abs() * gram.diagonal().sqrt()).argsort(dim=1, descending=True, stable=True)


def _is_affine(grid: Grid) -> bool:
    """Whether zeros differ from those of a symmetric or lookup grid, which must stay."""
    middle = (len(grid.levels) - 1) / 2
    return grid.is_uniform and not (grid.is_symmetric or bool((grid.zero == middle).all()))
