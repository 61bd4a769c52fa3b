"""MagR: large weights are made smaller where the layer's output does not mind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.formats import Format, Quantized
from driftwell.quantization.post_training.comq import COMQ
from driftwell.quantization.post_training.gptq import GPTQ
from driftwell.quantization.post_training.method import (
    Method,
    checked,
    checked_gram,
    keeps_scale,
)

MAGR = Paper(
    "zhang2024magr",
    "MagR: Weight Magnitude Reduction for Enhancing Post-Training Quantization",
    "Zhang, Aozhong and Wang, Naigang and Deng, Yanxia and Li, Xin and Yang, Zi and Yin, Penghang",
    2024,
    arxiv="2406.00800",
    venue="NeurIPS",
)


@final
@dataclass(frozen=True)
class MagR(Method):
    """Weight magnitude reduction, from A. Zhang et al., *MagR: Weight Magnitude Reduction for
    Enhancing Post-Training Quantization*, 2024, arXiv:2406.00800.

    Where features are nearly dependent, many weights give the same output. Each row takes the one
    with a small largest entry, by proximal gradient steps with A = G / lambda_max(G):

        v = argmin 1/2 (v - w) A (v - w)^T + a |v|_inf,   a = alpha max|w|
        v <- prox_{a |.|_inf} (v - (v - w) A),            from v = w

    Then `then` quantizes V in place of W, on a range scaled by `shrink`, and coordinate descent
    brings the codes back towards the outputs of W itself.

    alpha is relative to the largest weight of each row, so that neither the unit of the weights
    nor that of the inputs matters. (The paper's 1e-3 is in the unit of the weights.)

    Args:
        then: what quantizes the reduced weights.
        alpha: weight of |v|_inf, positive.
        steps: proximal gradient steps.
        shrink: factor on the range, if `then` is GPTQ or COMQ; None takes the paper's: 0.8 to 2
            bits, 0.9 at 3 bits, 1 from 4 bits on.
        refine: the descent towards W, or None.

    Raises:
        InvalidInput: a setting out of range.

    Example:
        >>> gram = torch.ones(2, 2)  # both inputs are always the same
        >>> MagR(steps=2000).reduce(torch.tensor([[3.0, 1.0]]), gram).round(decimals=2)
        tensor([[2., 2.]])
    """

    papers = (MAGR,)

    then: Method = GPTQ()
    alpha: float = 1e-3
    steps: int = 200
    shrink: float | None = None
    refine: COMQ | None = COMQ(order="cyclic")

    def __post_init__(self) -> None:
        """Raise on a setting out of range."""
        if not self.alpha > 0:
            raise InvalidInput(f"MagR(alpha=...) is positive, not {self.alpha}")
        if self.steps < 1:
            raise InvalidInput(f"MagR(steps=...) is at least 1, not {self.steps}")
        if self.shrink is not None and not 0 < self.shrink <= 2:
            raise InvalidInput(f"MagR(shrink=...) is in (0, 2] or None, not {self.shrink}")

    def quantize(self, w: Tensor, gram: Tensor, format: Format) -> Quantized:
        """Codes for the outputs of `w`, found by way of smaller weights."""
        matrix, gram = checked(w, gram, format)
        found = self._method(format).quantize(self._reduced(matrix, gram), gram, format)
        if self.refine is not None:
            descent = replace(self.refine, fit="nothing") if keeps_scale(format) else self.refine
            found = descent.refine(matrix, gram, found)
        return replace(found, shape=tuple(w.shape), dtype=w.dtype)

    def reduce(self, w: Tensor, gram: Tensor) -> Tensor:
        """V (R, C): weights with nearly the outputs of `w` (R, C) and smaller largest entries.

        Raises:
            InvalidInput: `w` is not a matrix, or `gram` no Gram matrix of its inputs.
        """
        if w.ndim != 2:
            raise InvalidInput(f"magnitudes of a matrix (R, C) are reduced, not of {w.ndim} axes")
        matrix = w.detach() if w.dtype == torch.float64 else w.detach().float()
        return self._reduced(matrix, checked_gram(gram, matrix)).to(w.dtype)

    def _reduced(self, w: Tensor, gram: Tensor) -> Tensor:
        largest = torch.linalg.eigvalsh(gram)[-1]
        if not largest > 0:
            return w
        A, a = gram / largest, self.alpha * w.abs().amax(dim=1, keepdim=True)
        v = w
        for _ in range(self.steps):
            v = prox_largest(v - (v - w) @ A, a)
        return v

    def _method(self, format: Format) -> Method:
        shrink = self.shrink
        if shrink is None:
            shrink = {1: 0.8, 2: 0.8, 3: 0.9}.get(format.bits, 1.0)
        if isinstance(self.then, (GPTQ, COMQ)) and not keeps_scale(format):
            return replace(self.then, shrink=shrink * self.then.shrink)
        return self.then


def prox_largest(x: Tensor, weight: Tensor) -> Tensor:
    """The proximal map of the largest entry, row by row.

        prox(x) = argmin_v 1/2 |v - x|^2 + weight |v|_inf
                = x - P(x),   P the projection onto {|y|_1 <= weight}   (Moreau's identity)

    P shrinks by the threshold that leaves the sum `weight`; so prox clips |x| at that threshold.

    Args:
        x: (R, C).
        weight: (R, 1), not negative.

    Example:
        >>> prox_largest(torch.tensor([[3.0, -1.0, 0.5]]), torch.tensor([[1.0]]))
        tensor([[ 2.0000, -1.0000,  0.5000]])
    """
    size = x.abs().sort(dim=1, descending=True).values
    count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)
    excess = size.cumsum(dim=1) - weight
    # the k largest are clipped together, with the largest k for which the k-th is above the clip
    k = (size * count > excess).sum(dim=1, keepdim=True).clamp(min=1)
    threshold = (excess.gather(1, k - 1) / k).clamp(min=0)
    return x.clamp(min=-threshold, max=threshold)
