"""A quantized ReLU that learns the height of its stairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.training_aware.blended import BCGD

__all__ = [
    "ExactStep",
    "LearnedStepReLU",
    "SaturatedStep",
    "StepDerivative",
    "ThreeValuedStep",
    "half_normal_step",
]

LEAST, MOST = 1e-3, 5.0  # where the official code keeps the step


@dataclass(frozen=True)
class StepDerivative(ABC):
    """What stands for the derivative of the staircase in its step, from Yin et al., *Blended
    Coarse Gradient Descent*, 2018, arXiv:1808.05240.

    Example:
        >>> ThreeValuedStep().derivative(torch.tensor([0.0, 1.0, 3.0, 4.0]), 3)
        tensor([0., 2., 2., 3.])
    """

    papers = (BCGD,)

    @abstractmethod
    def derivative(self, stair: Tensor, top: int) -> Tensor:
        """dq/dstep, where `stair` is ceil(x / step) between 0 and top + 1: the last is above."""


@final
@dataclass(frozen=True)
class ExactStep(StepDerivative):
    """The derivative where there is one: the number of the stair; Yin et al., 2018,
    arXiv:1808.05240.

    Example:
        >>> ExactStep().derivative(torch.tensor([0.0, 1.0, 3.0, 4.0]), 3)
        tensor([0., 1., 3., 3.])
    """

    def derivative(self, stair: Tensor, top: int) -> Tensor:
        """The stair's number, `top` above."""
        return stair.clamp(max=top)


@final
@dataclass(frozen=True)
class SaturatedStep(StepDerivative):
    """Only what is above the top stair pulls on the step, as in PACT; Yin et al., 2018,
    arXiv:1808.05240.

    Example:
        >>> SaturatedStep().derivative(torch.tensor([0.0, 1.0, 3.0, 4.0]), 3)
        tensor([0., 0., 0., 3.])
    """

    def derivative(self, stair: Tensor, top: int) -> Tensor:
        """`top` above, else 0."""
        return top * (stair > top).to(stair.dtype)


@final
@dataclass(frozen=True)
class ThreeValuedStep(StepDerivative):
    """Zero, the mean stair, the top: the derivative that the authors recommend; Yin et al., 2018,
    arXiv:1808.05240.

    Example:
        >>> ThreeValuedStep().derivative(torch.tensor([0.0, 1.0, 3.0, 4.0]), 3)
        tensor([0., 2., 2., 3.])
    """

    def derivative(self, stair: Tensor, top: int) -> Tensor:
        """(top + 1) / 2 on the stairs, `top` above, 0 below."""
        inside = (stair > 0) & (stair <= top)
        return torch.where(inside, (top + 1) / 2, top * (stair > top).to(stair.dtype))


@final
class LearnedStepReLU(nn.Module):
    """The staircase ReLU of b bits whose step is learned, from Yin, Zhang, Lyu, Osher, Qi and
    Xin, *Blended Coarse Gradient Descent for Full Quantization of Deep Neural Networks*, 2018,
    arXiv:1808.05240.

        q(x) = step * min(ceil(x / step), L) for x > 0, else 0,      L = 2^b - 1
        backward: dq/dx = 1[0 < x <= step L],   dq/dstep by a `StepDerivative`

    A batch sums the step's gradient over all entries, so it is multiplied with `rate` and clamped
    to [-1, 1]. In training the step is put back into [0.001, 5] before it is used.

    Args:
        bits: b, 1 to 8.
        step: at the start, in the units of x; by default `half_normal_step(bits)`, for inputs
            that a batch norm has scaled.
        derivative: of the staircase in its step.
        rate: factor of the step's gradient, > 0.

    Raises:
        InvalidInput: a setting out of range.

    Example:
        >>> relu = LearnedStepReLU(2, 0.5)
        >>> y = relu(torch.tensor([-1.0, 0.2, 0.6, 9.0]))
        >>> y.sum().backward()
        >>> y.detach(), relu.step.grad  # 0.01 * (0 + 2 + 2 + 3)
        (tensor([0.0000, 0.5000, 1.0000, 1.5000]), tensor(0.0700))
    """

    papers = (BCGD,)

    def __init__(
        self,
        bits: int,
        step: float | None = None,
        derivative: StepDerivative = ThreeValuedStep(),
        rate: float = 0.01,
    ) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise InvalidInput(f"LearnedStepReLU(bits=...) must be 1 to 8, got {bits}")
        step = half_normal_step(bits) if step is None else step
        if not LEAST <= step <= MOST:
            raise InvalidInput(
                f"LearnedStepReLU(step=...) must be in [{LEAST}, {MOST}], got {step}: "
                "scale the inputs, for instance with a batch norm"
            )
        if not 0.0 < rate < float("inf"):
            raise InvalidInput(f"LearnedStepReLU(rate=...) must be positive, got {rate}")
        self.bits, self.derivative, self.rate = bits, derivative, rate
        self.step = nn.Parameter(torch.tensor(float(step)))

    @property
    def top(self) -> int:
        """L, the number of the highest stair."""
        return int(2**self.bits) - 1

    def forward(self, x: Tensor) -> Tensor:
        """q(x) in the shape and dtype of x."""
        if self.training:
            with torch.no_grad():
                self.step.clamp_(LEAST, MOST)
        return _staircase(x, _slowed(self.step, self.rate).to(x.dtype), self.top, self.derivative)

    def extra_repr(self) -> str:
        """Bits, step and derivative."""
        return f"{self.bits}, step={float(self.step.detach()):.4g}, {self.derivative}"


def _staircase(x: Tensor, step: Tensor, top: int, derivative: StepDerivative) -> Tensor:
    held, at = x.detach(), step.detach()
    stair = torch.ceil(held / at).clamp(0, top + 1)
    inside = (stair > 0) & (stair <= top)
    # the two differences are zero: they carry the derivatives; `where` keeps inf - inf out
    in_x = torch.where(inside, x - held, torch.zeros_like(held))
    in_step = derivative.derivative(stair, top) * (step - at)
    return at * stair.clamp(max=top) + in_x + in_step


class _Slowed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Tensor, rate: float) -> Tensor:
        ctx.rate = rate
        return step.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (ctx.rate * grad).clamp(-1.0, 1.0), None


def _slowed(step: Tensor, rate: float) -> Tensor:
    slowed: Tensor = _Slowed.apply(step, rate)  # type: ignore[no-untyped-call]
    return slowed


@lru_cache(maxsize=8)
def half_normal_step(bits: int) -> float:
    """The step that rounds max(x, 0), x ~ N(0, 1), with least mean square error, the start of Yin
    et al., 2018, arXiv:1808.05240.

    The staircase rises by `ceil`. (The authors' constants 1.2221, 0.6511 and 0.1946 for 1, 2 and
    4 bits are the optimum of rounding to the nearest stair.)

    Args:
        bits: 1 to 8.

    Raises:
        InvalidInput: bits out of range.

    Example:
        >>> round(half_normal_step(1), 3)  # the mean of what is positive, sqrt(2 / pi)
        0.798
    """
    if not 1 <= bits <= 8:
        raise InvalidInput(f"half_normal_step(bits) needs 1 to 8 bits, got {bits}")
    x = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 5000
    weight = torch.exp(-x.square() / 2)
    top = 2**bits - 1

    def cost(step: float) -> float:
        return float((weight * (x - step * torch.ceil(x / step).clamp(max=top)).square()).sum())

    low, high = 0.0, 8.0 / top
    for _ in range(5):  # each round looks ten times closer
        tried = torch.linspace(low, high, 42, dtype=torch.float64)[1:-1].tolist()
        best, gap = min(tried, key=cost), (high - low) / 41
        low, high = best - gap, best + gap
    return float(best)
