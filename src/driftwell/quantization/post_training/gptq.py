"""GPTQ: columns are rounded one after another, each making up for the errors before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.formats import Format, Grid, Quantized
from driftwell.quantization.post_training import column_kernel
from driftwell.quantization.post_training.method import Method, checked

FRANTAR = Paper(
    "frantar2022gptq",
    "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    "Frantar, Elias and Ashkboos, Saleh and Hoefler, Torsten and Alistarh, Dan",
    2022,
    arxiv="2210.17323",
)
_BLOCK = 64  # columns whose feedback waits for one product of matrices
_MOST_DAMP = 1e3


class Feedback(NamedTuple):
    """How the errors of earlier columns move later ones, in the order in which they are rounded.

    `order` (C,) is that order; `rows` (C, C) is L, strictly lower; `weight` (C,) is d.
    """

    order: Tensor
    rows: Tensor
    weight: Tensor


@final
@dataclass(frozen=True)
class GPTQ(Method):
    """GPTQ, from Frantar et al., *GPTQ: Accurate Post-Training Quantization for Generative
    Pre-trained Transformers*, 2022, arXiv:2210.17323.

    With H = G + damp mean(diag G) I = B B^T, B upper triangular, the error of a row is a sum of
    squares in which column i meets the columns before it only, and is minimised column by column:

        L_ij = B_ji / B_ii,   d_i = B_ii^2
        t_i = w_i + sum_{j<i} L_ij (w_j - q_j),   q_i = nearest level to t_i
        E(q) + damping = sum_i d_i (t_i - q_i)^2

    This is the published recursion with the inverse of H, without ever inverting it. All rows are
    rounded side by side, in a compiled loop where there is one.

    Args:
        act_order: round the columns in falling order of diag G. Groups stay those of the columns'
            own places.
        damp: added to the diagonal, relative to its mean, at least 0; raised tenfold as often as
            the factorisation needs it.
        shrink: factor on the range of the format's own grid.

    Raises:
        InvalidInput: a setting out of range.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> GPTQ().quantize(torch.tensor([[0.0, 1.4, 3.0]]), torch.eye(3), Uniform(2)).decode()
        tensor([[0., 1., 3.]])
    """

    papers = (FRANTAR,)

    act_order: bool = True
    damp: float = 0.01
    shrink: float = 1.0

    def __post_init__(self) -> None:
        """Raise on a setting out of range."""
        if not 0.0 <= self.damp <= 1.0:
            raise InvalidInput(f"GPTQ(damp=...) is in [0, 1], not {self.damp}")
        if not 0.0 < self.shrink <= 2.0:
            raise InvalidInput(f"GPTQ(shrink=...) is in (0, 2], not {self.shrink}")

    def quantize(self, w: Tensor, gram: Tensor, format: Format) -> Quantized:
        """Codes on the format's own grid for `w`, shrunk."""
        matrix, gram = checked(w, gram, format)
        grid = format.fit(matrix).shrunk(self.shrink)
        codes, _ = round_in_turn(matrix, self.feedback(gram), grid)
        return Quantized(codes, grid, tuple(w.shape), w.dtype)

    def feedback(self, gram: Tensor) -> Feedback:
        """L and d of a Gram matrix (C, C), and the order of its columns.

        Raises:
            InvalidInput: it has a negative eigenvalue too large to be rounding.
        """
        columns = len(gram)
        if self.act_order:
            order = gram.diagonal().argsort(descending=True, stable=True)
        else:
            order = torch.arange(columns, device=gram.device)
        # B is upper triangular: the lower factor of H read backwards
        backwards = order.flip(0)
        H = gram[backwards[:, None], backwards]
        mean = H.diagonal().mean()
        mean, damp = torch.where(mean > 0, mean, torch.ones_like(mean)), self.damp
        while True:
            damped = H + damp * mean * torch.eye(columns, dtype=H.dtype, device=H.device)
            factor, failed = torch.linalg.cholesky_ex(damped)
            if not failed and bool(factor.diagonal().amin() > 0):
                break
            damp = max(10 * damp, 1e-6)
            if damp > _MOST_DAMP:
                raise InvalidInput("the Gram matrix is not positive semidefinite")
        B = factor.flip(0, 1)
        diagonal = B.diagonal()
        rows = (B / diagonal).T.tril(-1).contiguous()
        return Feedback(order, rows, diagonal.square())


def round_in_turn(w: Tensor, feedback: Feedback, grid: Grid) -> tuple[Tensor, Tensor]:
    """Codes (R, C) of `w` (R, C) by successive rounding, and sum_i d_i (t_i - q_i)^2, (R,)."""
    order, rows, weight = feedback
    if column_kernel.applies(w, rows, weight, grid.scale):
        return column_kernel.gptq(w, rows, weight, order, grid)
    ahead, places = w[:, order], order.tolist()
    errors, codes = torch.zeros_like(ahead), torch.empty_like(w, dtype=torch.uint8)
    loss = w.new_zeros(w.shape[0])
    for start in range(0, len(places), _BLOCK):
        stop = min(start + _BLOCK, len(places))
        block = ahead[:, start:stop] + errors[:, :start] @ rows[start:stop, :start].T
        for i in range(start, stop):
            t = block[:, i - start] + errors[:, start:i] @ rows[i, start:i]
            codes[:, places[i]] = grid.nearest_in_column(t, places[i])
            q = grid.values_in_column(codes[:, places[i]], places[i])
            errors[:, i] = ahead[:, i] - q
            loss += weight[i] * (t - q).square()
    return codes, loss.double()
