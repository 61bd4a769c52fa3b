"""The library's default: a range for every row, GPTQ on it, coordinate descent after it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Format, Grid, Quantized
from driftwell.quantization.post_training.comq import COMQ, ZHANG
from driftwell.quantization.post_training.descent import Descent
from driftwell.quantization.post_training.gptq import FRANTAR, GPTQ, Feedback, round_in_turn
from driftwell.quantization.post_training.magr import MAGR
from driftwell.quantization.post_training.method import Method, checked, keeps_scale

FACTORS = (0.45, 0.52, 0.58, 0.64, 0.7, 0.78, 0.86, 1.0)
AGAIN = (1.0, 0.93, 1.07, 0.97, 1.03)


@final
@dataclass(frozen=True)
class GPTQThenCOMQ(Method):
    """Range search, GPTQ and coordinate descent in turn: Frantar et al., *GPTQ*, 2022,
    arXiv:2210.17323, refined by A. Zhang et al., *COMQ*, 2024, arXiv:2403.07134, in the order of
    A. Zhang et al., *MagR*, 2024, arXiv:2406.00800.

    E(q) = (w - q) G (w - q)^T separates over rows, so every choice below is made row by row:

        1.  f <- the factor whose range gives GPTQ the smallest E, of all in `factors`
        2.  q <- GPTQ's codes on that range
        3.  descend: exact minima of E over scale and zero, then over one code after another
        4.  for each factor of `again`: GPTQ on the fitted range times it, descend, keep the better
        5.  `then.pairs` turns over pairs of codes

    GPTQ's factor of G does not depend on the range, so one pass rounds all candidates side by
    side. From step 3 on E cannot rise.

    Args:
        factors: ranges tried, relative to the format's own.
        first: GPTQ's settings.
        then: the descent's settings. Its `fit="zero"` allows any zero, which costs nothing where
            the sum of the inputs is at hand; "whole zero" keeps zeros among whole numbers.
        again: factors of further passes of GPTQ and descent, on the range fitted so far.

    Raises:
        InvalidInput: no factors, or one that is not positive.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> from driftwell.quantization.post_training import output_error
        >>> X, w = torch.randn(200, 16), torch.randn(8, 16)
        >>> plain, ours = (m.quantize(w, X.T @ X, Uniform(2)) for m in (GPTQ(), GPTQThenCOMQ()))
        >>> output_error(w, ours.decode(), X.T @ X) < output_error(w, plain.decode(), X.T @ X)
        True
    """

    papers = (FRANTAR, ZHANG, MAGR)

    factors: tuple[float, ...] = FACTORS
    first: GPTQ = field(default=GPTQ())
    then: COMQ = field(default=COMQ(sweeps=1, order="cyclic", fit="zero", pairs=2))
    again: tuple[float, ...] = AGAIN

    def __post_init__(self) -> None:
        """Raise on a setting that cannot be."""
        if not self.factors or not all(f > 0 for f in (*self.factors, *self.again)):
            raise InvalidInput(
                f"factors of the range are positive, not {self.factors} and {self.again}"
            )

    def quantize(self, w: Tensor, gram: Tensor, format: Format) -> Quantized:
        """Codes on the best grid found."""
        matrix, gram = checked(w, gram, format)
        free = not keeps_scale(format)
        feedback = self.first.feedback(gram)
        codes, grid = self._searched(matrix, feedback, format.fit(matrix), free)
        # pairs are the dearest step and wait for the end
        single, shared = replace(self.then, pairs=0), grid.scale.shape[0] == 1
        it = single.descended(matrix, gram, codes, grid, free=free)
        for factor in self.again if free else ():
            near = it.result(grid, w).grid.shrunk(factor)
            codes, _ = round_in_turn(matrix, feedback, near)
            other = single.descended(matrix, gram, codes, near, free=free)
            it = _better(matrix, it, other, shared)
        if self.then.pairs:
            near = it.result(grid, w).grid
            it = self.then.descended(matrix, gram, it.codes, near, free=free, sweeps=0)
        return it.result(grid, w)

    def _searched(
        self, w: Tensor, feedback: Feedback, grid: Grid, free: bool
    ) -> tuple[Tensor, Grid]:
        """GPTQ's codes on the best range of each row; one range for all where they share it."""
        factors = self.factors if free else (1.0,)
        count, (rows, groups) = len(factors), (w.shape[0], grid.scale.shape[1])
        trials = grid.replaced(
            scale=torch.cat([(grid.scale * f).expand(rows, groups) for f in factors]),
            zero=grid.zero.expand(rows, groups).repeat(count, 1),
        )
        codes, loss = round_in_turn(w.repeat(count, 1), feedback, trials)
        loss = loss.view(count, rows)
        if grid.scale.shape[0] == 1:
            best = int(loss.sum(dim=1).argmin())
            return codes.view(count, rows, -1)[best], grid.shrunk(factors[best])
        chosen = loss.argmin(dim=0) * rows + torch.arange(rows, device=w.device)
        return codes[chosen], trials.rows(chosen)


def _better(w: Tensor, one: Descent, other: Descent, shared: bool) -> Descent:
    """The rows with the smaller E of each; all rows of one where they share a scale."""
    gain = one.energies(w) - other.energies(w)
    take = (gain.sum() > 0).expand(len(gain)) if shared else gain > 0
    return one.where(take, other)
