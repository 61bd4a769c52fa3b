"""The error that rounded weights make in a layer's output."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.post_training.method import checked_gram


def row_errors(w: Tensor, what: Tensor, gram: Tensor) -> Tensor:
    """E_r = (w_r - q_r) G (w_r - q_r)^T, the squared output error of every row, (R,) float64.

    Args:
        w: weight (R, ...).
        what: what stands for it, of the same shape.
        gram: (C, C) Gram matrix of the inputs.

    Raises:
        InvalidInput: the shapes differ or `gram` is no Gram matrix.

    Example:
        >>> row_errors(torch.ones(1, 2), torch.zeros(1, 2), torch.eye(2))
        tensor([2.], dtype=torch.float64)
    """
    if w.shape != what.shape:
        raise InvalidInput(f"weights of shapes {tuple(w.shape)} and {tuple(what.shape)} differ")
    return _energies((w.double() - what.double()).reshape(w.shape[0], -1), gram)


def output_error(w: Tensor, what: Tensor, gram: Tensor) -> float:
    """Relative output error |X (W - Q)^T|_F / |X W^T|_F; 0 / 0 is 0.

    Raises:
        InvalidInput: the shapes differ or `gram` is no Gram matrix.

    Example:
        >>> output_error(torch.ones(1, 2), torch.zeros(1, 2), torch.eye(2))
        1.0
    """
    error = float(row_errors(w, what, gram).sum())
    output = float(row_errors(w, torch.zeros_like(w), gram).sum())
    if error == 0.0:
        return 0.0
    return math.sqrt(error / output) if output > 0 else math.inf


def _energies(rows: Tensor, gram: Tensor) -> Tensor:
    """v G v^T of every row v, not below zero."""
    gram = checked_gram(gram, rows)
    return ((rows @ gram) * rows).sum(dim=1).clamp(min=0)
