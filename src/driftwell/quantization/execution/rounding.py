"""Rows rounded to 8 bits, each by its own step: dynamic per-token symmetric quantization."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127.0


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers q (M, C) of at most 127 in the dtype of x, and steps (M, 1): x = step q, nearly.

        step_m = max_c |x_mc| / 127,    q_mc = round(x_mc / step_m)

    A row with a number that is not finite becomes step NaN, q zero: it spoils its own outputs and
    no other. Halves round to even.

    Example:
        >>> q, step = round_rows(torch.tensor([[1.0, -2.0, 0.5]]))
        >>> q.tolist()
        [[64.0, -127.0, 32.0]]
    """
    top = x.abs().amax(dim=1, keepdim=True) if x.shape[1] else x.new_zeros(x.shape[0], 1)
    size = top / LARGEST
    inverse = 1.0 / size
    usable = (top < torch.inf) & (inverse < torch.inf)
    q = torch.where(usable, torch.round(x * inverse), 0.0)
    return q, torch.where(top < torch.inf, size, torch.nan)


def rounded(x: Tensor) -> Tensor:
    """x (..., C) with every row rounded to 8 bits; gradients pass straight through.

    Example:
        >>> rounded(torch.tensor([[1.27, 0.014]])).tolist()
        [[1.2699999809265137, 0.009999999776482582]]
    """
    flat = x.detach().reshape(-1, x.shape[-1])
    q, step = round_rows(flat)
    return x + (q * step).reshape(x.shape) - x.detach()
