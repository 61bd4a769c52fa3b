"""Straight-through estimators: what stands for the derivative of a step in the backward pass."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

__all__ = [
    "ClippedReLUSTE",
    "ClippedSTE",
    "IdentitySTE",
    "LogTailedSTE",
    "ReLUSTE",
    "StraightThrough",
    "through",
]

YIN_STE = Paper(
    key="yin2019ste",
    title="Understanding Straight-Through Estimator in Training Activation Quantized Neural Nets",
    authors="Yin, Penghang and Lyu, Jiancheng and Zhang, Shuai and Osher, Stanley "
    "and Qi, Yingyong and Xin, Jack",
    year=2019,
    arxiv="1903.05662",
    venue="ICLR 2019",
)
LONG_COARSE = Paper(
    key="long2021coarse",
    title="Learning Quantized Neural Nets by Coarse Gradient Method for Non-linear Classification",
    authors="Long, Ziang and Yin, Penghang and Xin, Jack",
    year=2021,
    arxiv="2011.11256",
    venue="Research in the Mathematical Sciences",
)


@dataclass(frozen=True)
class StraightThrough(ABC):
    """What replaces the derivative of a step function in the backward pass, as in Yin et al.,
    *Understanding Straight-Through Estimator in Training Activation Quantized Neural Nets*, 2019,
    arXiv:1903.05662.

    A quantizer q is flat almost everywhere, so backpropagation through it finds nothing. A
    surrogate g with a derivative g' >= 0 stands in for it: forward q(x), backward g'(x).

    Example:
        >>> ClippedReLUSTE(2.0).derivative(torch.tensor([-1.0, 1.0, 3.0]))
        tensor([0., 1., 0.])
    """

    papers: ClassVar[tuple[Paper, ...]] = (YIN_STE,)

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """g'(x), in the shape and dtype of x."""


@final
@dataclass(frozen=True)
class IdentitySTE(StraightThrough):
    """The identity's derivative, 1 everywhere, from Yin et al., 2019, arXiv:1903.05662.

    Behind a one-sided activation it does not vanish at every minimum of the population loss, and
    descent along it can leave one; behind a rounding of weights it is the usual choice.

    Example:
        >>> IdentitySTE().derivative(torch.tensor([-1.0, 2.0]))
        tensor([1., 1.])
    """

    def derivative(self, x: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(x)


@final
@dataclass(frozen=True)
class ReLUSTE(StraightThrough):
    """The derivative of ReLU, 1[x > 0], from Yin et al., 2019, arXiv:1903.05662.

    Example:
        >>> ReLUSTE().derivative(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0., 0., 1.])
    """

    def derivative(self, x: Tensor) -> Tensor:
        """1[x > 0]."""
        return (x > 0).to(x.dtype)


@final
@dataclass(frozen=True)
class ClippedReLUSTE(StraightThrough):
    """The derivative of a clipped ReLU, 1[0 < x < limit], from Yin et al., 2019,
    arXiv:1903.05662.

    The one to take for a quantized ReLU, with the limit where that saturates.

    Args:
        limit: where the surrogate becomes flat, > 0, in the units of x.

    Raises:
        InvalidInput: a limit that is not a positive number.

    Example:
        >>> ClippedReLUSTE(1.5).derivative(torch.tensor([-1.0, 1.0, 2.0]))
        tensor([0., 1., 0.])
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        _check_limit(self, self.limit)

    def derivative(self, x: Tensor) -> Tensor:
        """1[0 < x < limit]."""
        return ((x > 0) & (x < self.limit)).to(x.dtype)


@final
@dataclass(frozen=True)
class ClippedSTE(StraightThrough):
    """The derivative of a hard tanh, 1[|x| < limit], the two-sided sibling of the clipped ReLU
    for the sign function; see Yin et al., 2019, arXiv:1903.05662.

    Args:
        limit: where the surrogate becomes flat, > 0, in the units of x.

    Raises:
        InvalidInput: a limit that is not a positive number.

    Example:
        >>> ClippedSTE(1.0).derivative(torch.tensor([-2.0, -0.5, 0.0, 1.0]))
        tensor([0., 1., 1., 0.])
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        _check_limit(self, self.limit)

    def derivative(self, x: Tensor) -> Tensor:
        """1[|x| < limit]."""
        return (x.abs() < self.limit).to(x.dtype)


@final
@dataclass(frozen=True)
class LogTailedSTE(StraightThrough):
    """The derivative of a ReLU with a logarithmic tail, in the family of Long, Yin and Xin,
    *Learning Quantized Neural Nets by Coarse Gradient Method for Non-linear Classification*,
    2021, arXiv:2011.11256.

        g(x) = 0 (x <= 0),  x (0 < x <= limit),  limit (1 + log(x / limit)) (x > limit)

    so g' is 0, 1 and limit / x: a saturated neuron still learns, ever more slowly.

    Args:
        limit: where the tail begins, > 0, in the units of x.

    Raises:
        InvalidInput: a limit that is not a positive number.

    Example:
        >>> LogTailedSTE().derivative(torch.tensor([-1.0, 0.5, 4.0]))
        tensor([0.0000, 1.0000, 0.2500])
    """

    papers = (LONG_COARSE, YIN_STE)

    limit: float = 1.0

    def __post_init__(self) -> None:
        _check_limit(self, self.limit)

    def derivative(self, x: Tensor) -> Tensor:
        """0, 1 or limit / x."""
        # the clamp keeps x = 0 away from the division, in this pass and in the next one's
        return (x > 0).to(x.dtype) * (self.limit / x.clamp(min=self.limit))


def through(forward_value: Tensor, x: Tensor, ste: StraightThrough) -> Tensor:
    """`forward_value` with the derivative of a surrogate, from Yin et al., 2019, arXiv:1903.05662.

        forward: forward_value          backward: dL/dx = g'(x) * dL/d(output)

    Nothing flows into `forward_value`: what it was computed from learns through x alone. The
    backward pass is itself differentiable (of dL/d(output), and of x where g' depends on it);
    forward-mode derivatives, `torch.func` transforms and `torch.compile` work.

    Args:
        forward_value: what the layer returns, any shape and floating dtype.
        x: what it was quantized from; the same shape and dtype.
        ste: the surrogate g'.

    Raises:
        InvalidInput: shapes or dtypes that differ, or a dtype without fractions.

    Example:
        >>> x = torch.tensor([-0.3, 0.4, 7.0], requires_grad=True)
        >>> y = through((x > 0).to(x.dtype), x, ClippedReLUSTE(1.0))
        >>> y.detach(), torch.autograd.grad(y.sum(), x)[0]
        (tensor([0., 1., 1.]), tensor([0., 1., 0.]))
    """
    if forward_value.shape != x.shape or forward_value.dtype != x.dtype:
        raise InvalidInput(
            "through(forward_value, x, ste) needs two tensors of one shape and dtype, got "
            f"{tuple(forward_value.shape)} {forward_value.dtype} and {tuple(x.shape)} {x.dtype}: "
            "cast or expand one of them"
        )
    if not x.is_floating_point():
        raise InvalidInput(f"through() needs a floating dtype, got {x.dtype}: cast x first")
    # the compiler refuses a Function that knows its own forward mode
    function = _Through if torch.compiler.is_compiling() else _ThroughWithTangent
    result: Tensor = function.apply(forward_value.detach(), x, ste)  # type: ignore[no-untyped-call]
    return result


class _Through(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, x: Tensor, ste: StraightThrough) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, x, ctx.ste = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (x,) = ctx.saved_tensors
        return None, grad * ctx.ste.derivative(x), None


class _ThroughWithTangent(_Through):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Through.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def jvp(ctx: Any, value_t: Tensor | None, x_t: Tensor | None, ste_t: None) -> Tensor | None:
        (x,) = ctx.saved_tensors
        return torch.zeros_like(x) if x_t is None else x_t * ctx.ste.derivative(x)


def _check_limit(ste: StraightThrough, limit: float) -> None:
    if not 0.0 < limit < math.inf:
        raise InvalidInput(
            f"{type(ste).__name__}(limit=...) must be a positive number, got {limit}"
        )
