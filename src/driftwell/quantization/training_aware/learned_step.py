"""Learned step size quantization: the distance of the levels is trained with the weights."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.formats import Grid, Quantized, Uniform
from driftwell.quantization.training_aware.quantized_weights import WeightQuantizer

__all__ = [
    "LearnedStep",
    "LearnedStepQuantizer",
    "LearnedStepWeight",
    "level_range",
    "rounded_to_steps",
    "slowed",
]

LSQ = Paper(
    key="esser2020lsq",
    title="Learned Step Size Quantization",
    authors="Esser, Steven K. and McKinstry, Jeffrey L. and Bablani, Deepika "
    "and Appuswamy, Rathinakumar and Modha, Dharmendra S.",
    year=2020,
    arxiv="1902.08153",
    venue="ICLR 2020",
)


def rounded_to_steps(x: Tensor, step: Tensor, lowest: int, highest: int) -> Tensor:
    """x on evenly spaced levels, differentiable in the step too, from Esser et al., *Learned Step
    Size Quantization*, 2020, arXiv:1902.08153.

        xhat = s clamp(round(x / s), n, p)
        dxhat/dx = 1[n < x/s < p],    dxhat/ds = round(x/s) - x/s there, n below, p above

    It is the derivative of s (clamp(x/s) + e), e the rounding error held still. Halves round to
    the even level.

    Args:
        x: any shape, floating.
        step: s > 0, in the units of x; what broadcasts to x, in its dtype.
        lowest: n, the lowest level.
        highest: p, the highest level.

    Example:
        >>> x, s = torch.tensor([-1.0, 0.3, 0.5, 9.0]), torch.tensor(0.5, requires_grad=True)
        >>> y = rounded_to_steps(x, s, 0, 3)
        >>> y.sum().backward()
        >>> y.detach(), s.grad  # 0 + (1 - .6) + 0 + 3
        (tensor([0.0000, 0.5000, 0.5000, 1.5000]), tensor(3.4000))
    """
    held, s = x.detach(), step.detach()
    v = held / s
    level = v.round().clamp(lowest, highest)
    inside = (v > lowest) & (v < highest)
    # both differences are zero: they carry the derivatives; `where` keeps inf - inf out
    in_x = torch.where(inside, x - held, torch.zeros_like(held))
    in_step = torch.where(inside, level - v, level) * (step - s)
    return s * level + in_x + in_step


def slowed(parameter: Tensor, rate: float) -> Tensor:
    """A parameter whose gradient is multiplied with `rate`, as Esser et al., 2020,
    arXiv:1902.08153, do with steps; the value is untouched, bit for bit.

    Example:
        >>> s = torch.tensor(3.0, requires_grad=True)
        >>> float(torch.autograd.grad(slowed(s, 0.1) * 2.0, s)[0])
        0.20000000298023224
    """
    held = parameter.detach()
    return held + rate * (parameter - held)


@final
class LearnedStep(nn.Module):
    """The step s > 0 of an activation quantizer, from Esser et al., *Learned Step Size
    Quantization*, 2020, arXiv:1902.08153.

    The first batch in training sets s = 2 mean|x| / sqrt(p). The gradient of s is multiplied with
    1 / sqrt(N p), N the numbers of one sample, so that it moves s about as fast, in proportion,
    as weights move.

    Args:
        highest: p, the highest level.
        start: s at the start, in the units of x; None leaves it to the first batch.

    Raises:
        InvalidInput: a start that is not positive; in use, a first batch of zeros, or evaluation
            before training while no start was given.

    Example:
        >>> step = LearnedStep(4)
        >>> step(torch.tensor([[1.0, -3.0]])).detach()
        tensor(2.)
    """

    papers = (LSQ,)
    started: Tensor

    def __init__(self, highest: int, start: float | None = None) -> None:
        super().__init__()
        if start is not None and not 0.0 < start < math.inf:
            raise InvalidInput(f"a learned step starts at a positive number, got {start}")
        self.highest = highest
        self.s = nn.Parameter(torch.tensor(1.0 if start is None else float(start)))
        self.register_buffer("started", torch.tensor(start is not None))

    def forward(self, x: Tensor) -> Tensor:
        """S in the dtype of x (B, ...)."""
        if not bool(self.started):
            self._start(x)
        numbers = max(x[0].numel() if len(x) else 1, 1)
        return slowed(_magnitude(self.s, x), 1.0 / math.sqrt(numbers * self.highest))

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        if not self.training:
            raise InvalidInput(
                "this quantizer has no step yet: show it a batch in training, or give step="
            )
        self.s.copy_(_start_value(x, self.highest, "the first batch"))
        self.started.fill_(True)

    def extra_repr(self) -> str:
        """The step."""
        return f"{float(self.s.detach()):.4g}" if bool(self.started) else "not started"


@final
class LearnedStepQuantizer(nn.Module):
    """An activation of b bits whose step is learned, from Esser et al., *Learned Step Size
    Quantization*, 2020, arXiv:1902.08153.

        xhat = s clamp(round(x / s), n, p),    [n, p] = [0, 2^b - 1] or [-2^(b-1), 2^(b-1) - 1]

    with the derivatives of `rounded_to_steps` and the `LearnedStep` s.

    Args:
        bits: b, 1 to 8; at least 2 if signed.
        signed: whether inputs below zero have levels.
        step: s at the start, in the units of x; None leaves it to the first batch in training.

    Raises:
        InvalidInput: bits or step out of range.

    Example:
        >>> quantizer = LearnedStepQuantizer(2, step=0.5)
        >>> quantizer(torch.tensor([[-1.0, 0.2, 0.6, 9.0]])).detach()
        tensor([[0.0000, 0.0000, 0.5000, 1.5000]])
    """

    papers = (LSQ,)

    def __init__(self, bits: int, signed: bool = False, step: float | None = None) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.lowest, self.highest = level_range(bits, signed)
        self.step = LearnedStep(self.highest, step)

    def forward(self, x: Tensor) -> Tensor:
        """Xhat in the shape and dtype of x (B, ...)."""
        return rounded_to_steps(x, self.step(x), self.lowest, self.highest)

    def extra_repr(self) -> str:
        """Bits and sign."""
        return f"{self.bits}, signed={self.signed}"


@final
class LearnedStepWeight(WeightQuantizer):
    """A weight of b bits whose step is learned, one for the whole weight, from Esser et al.,
    *Learned Step Size Quantization*, 2020, arXiv:1902.08153.

        what = s clamp(round(w / s), -2^(b-1), 2^(b-1) - 1),    s = 2 mean|w| / sqrt(p) at the start

    The gradient of s is multiplied with 1 / sqrt(N p), N the number of weights. What ships is
    `Uniform(bits, symmetric=True, per="tensor")`.

    Args:
        w: the weight at the start.
        bits: b, 2 to 8.

    Raises:
        InvalidInput: bits out of range, or a weight that is all zero or not finite.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4))
        >>> from driftwell.quantization.training_aware.quantized_weights import quantization_aware
        >>> aware = quantization_aware(model, lambda w: LearnedStepWeight(w, 2))
        >>> len(aware[0].weight.unique()) <= 4
        True
    """

    papers = (LSQ,)

    def __init__(self, w: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.lowest, self.highest = level_range(bits, signed=True)
        self.step = nn.Parameter(_start_value(w, self.highest, "the weight"))

    def forward(self, w: Tensor) -> Tensor:
        """What in the shape and dtype of w."""
        rate = 1.0 / math.sqrt(w.numel() * self.highest)
        step = slowed(_magnitude(self.step, w), rate)
        return rounded_to_steps(w, step, self.lowest, self.highest)

    def quantized(self, w: Tensor) -> Quantized:
        """The codes of w, and s as the scale of its grid."""
        format = Uniform(self.bits, symmetric=True, per="tensor")
        matrix = format.matrix(w)
        scale = _magnitude(self.step.detach(), matrix).reshape(1, 1)
        level = (matrix / scale).round().clamp(self.lowest, self.highest)
        zero = torch.full_like(scale, -float(self.lowest))
        grid = Grid(format.levels.to(matrix), scale, zero, matrix.shape[1], self.bits)
        return Quantized((level - self.lowest).to(torch.uint8), grid, tuple(w.shape), w.dtype)

    def extra_repr(self) -> str:
        """Bits and step."""
        return f"{self.bits}, step={float(self.step.detach()):.4g}"


def level_range(bits: int, signed: bool) -> tuple[int, int]:
    """Lowest and highest level, n and p.

    Raises:
        InvalidInput: bits out of range.

    Example:
        >>> level_range(4, signed=True)
        (-8, 7)
    """
    least = 2 if signed else 1
    if not least <= bits <= 8:
        raise InvalidInput(
            f"{'signed' if signed else 'unsigned'} levels need {least} to 8 bits, got {bits}"
        )
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def _magnitude(step: Tensor, x: Tensor) -> Tensor:
    # an optimizer that steps over zero turns no level around, and none is divided by zero
    return step.abs().clamp(min=torch.finfo(x.dtype).tiny).to(x.dtype)


def _start_value(x: Tensor, highest: int, what: str) -> Tensor:
    """2 mean|x| / sqrt(p)."""
    mean = x.detach().abs().to(torch.promote_types(x.dtype, torch.float32)).mean()
    if not 0.0 < float(mean) < math.inf:
        raise InvalidInput(
            f"a step starts at 2 mean|x| / sqrt(p), and mean|x| of {what} is {float(mean)}: "
            "look at what makes it, or give the step"
        )
    return 2.0 * mean / math.sqrt(highest)
