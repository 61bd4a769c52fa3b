"""Adaptive step size quantization: each sample sets the distance of its own levels."""

from __future__ import annotations

from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats.lookup import ASQ
from driftwell.quantization.training_aware.learned_step import (
    LSQ,
    LearnedStep,
    level_range,
    rounded_to_steps,
)

__all__ = ["AdaptiveStepQuantizer", "StepAdapter"]

_LEAST = 1e-3


@final
class StepAdapter(nn.Module):
    """What reads a sample's size off its channels and sets its step, from Zhou et al., *Precision
    Neural Network Quantization via Learnable Adaptive Modules*, 2025, arXiv:2504.17263.

        beta = 2 sigmoid(a^T m + a_0),    m_c the mean of |x| over the places of channel c

    at least 0.002, below 2, and 1 at the start: a and a_0 are zero.

    Args:
        channels: entries of axis 1 of x.
        hidden: neurons (ReLU, without offset) between m and a; 0 for none.
        draw: source of the start weights of the hidden neurons; needed if there are any.

    Raises:
        InvalidInput: sizes that cannot be, or hidden neurons without `draw`.

    Example:
        >>> StepAdapter(3)(torch.rand(2, 3, 4, 4)).detach()
        tensor([[1.],
                [1.]])
    """

    papers = (ASQ,)

    def __init__(self, channels: int, hidden: int = 0, draw: torch.Generator | None = None) -> None:
        super().__init__()
        if channels < 1 or hidden < 0 or (hidden > 0 and draw is None):
            raise InvalidInput(
                "an adapter has channels >= 1 and hidden >= 0, and draw= if hidden > 0; got "
                f"{channels}, {hidden} and draw={draw}"
            )
        self.channels = channels
        self.hidden: nn.Parameter | None = None
        # bare numbers, not layers: what quantizes a model's layers leaves them alone
        if draw is not None and hidden > 0:
            first = torch.randn(hidden, channels, generator=draw) * (2.0 / channels) ** 0.5
            self.hidden = nn.Parameter(first)
        self.a = nn.Parameter(torch.zeros(1, hidden or channels))
        self.a0 = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Beta (B, 1) of x (B, C, ...)."""
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise InvalidInput(
                f"this adapter reads {self.channels} channels on axis 1, "
                f"not a tensor of shape {tuple(x.shape)}"
            )
        m = x.abs().flatten(2).mean(2) if x.ndim > 2 else x.abs()
        m = m.to(self.a.dtype)
        inner = m if self.hidden is None else F.linear(m, self.hidden).relu()
        # the sigmoid of a large negative number is zero, and nothing is divided by that
        beta = 2.0 * torch.sigmoid(F.linear(inner, self.a, self.a0)).clamp(min=_LEAST)
        return beta.to(x.dtype)


@final
class AdaptiveStepQuantizer(nn.Module):
    """An activation of b bits whose learned step each sample scales (ASQ), from Zhou et al.,
    *Precision Neural Network Quantization via Learnable Adaptive Modules*, 2025,
    arXiv:2504.17263.

        beta = A(x) > 0,    s_a = s beta,    xhat = s_a clamp(round(x / s_a), n, p)
        dxhat/ds = beta d,    dxhat/dbeta = s d
        d = round(x/s_a) - x/s_a where n < x/s_a < p,  n below, p above

    A trained adapter A makes beta from the sample itself: for integer products every sample has
    a scale of its own, as with per-token scales. With beta = 1 it is `LearnedStepQuantizer`.

    `dequantize="learned"` returns s clamp(..) in place of s_a clamp(..), which is what summaries
    of the paper write: then beta divides the size of the sample out of the values too, and the
    derivatives are dxhat/ds = d and dxhat/dbeta = -x / beta^2 where x is between the levels.

    Before a sum of two branches, dequantize: their steps differ.

    Args:
        bits: b, 1 to 8; at least 2 if signed.
        channels: entries of axis 1 of x, for the adapter `StepAdapter(channels)`.
        signed: whether inputs below zero have levels.
        step: s at the start, in the units of x; None leaves it to the first batch in training.
        dequantize: "adapted" or "learned".
        adapter: another module x (B, C, ...) -> beta (B, 1), positive.

    Raises:
        InvalidInput: a setting that cannot be.

    Example:
        >>> quantizer = AdaptiveStepQuantizer(2, channels=2, step=0.5)
        >>> quantizer(torch.tensor([[0.6, 9.0]])).detach()
        tensor([[0.5000, 1.5000]])
    """

    papers = (ASQ, LSQ)

    def __init__(
        self,
        bits: int,
        channels: int,
        signed: bool = False,
        step: float | None = None,
        dequantize: Literal["adapted", "learned"] = "adapted",
        adapter: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if dequantize not in ("adapted", "learned"):
            raise InvalidInput(f"dequantize is 'adapted' or 'learned', not {dequantize!r}")
        self.bits, self.signed, self.dequantize = bits, signed, dequantize
        self.lowest, self.highest = level_range(bits, signed)
        self.step = LearnedStep(self.highest, step)
        self.adapter = StepAdapter(channels) if adapter is None else adapter

    def forward(self, x: Tensor) -> Tensor:
        """Xhat in the shape and dtype of x (B, C, ...)."""
        beta = self.adapter(x).reshape(-1, *[1] * (x.ndim - 1))
        # the learned step in the sample's own units: x = beta y
        y = rounded_to_steps(x / beta, self.step(x), self.lowest, self.highest)
        return y * beta if self.dequantize == "adapted" else y

    def extra_repr(self) -> str:
        """Bits, sign and dequantization."""
        return f"{self.bits}, signed={self.signed}, dequantize={self.dequantize!r}"
