"""Training with 16-bit storage and 32-bit sums, simulated: what is kept, and what is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.training_half_updates import (
    LARGEST,
    MIXED_PRECISION,
    Carry,
    MasterWeights,
    WeightUpdate,
    round_to_half,
)
from driftwell.quantization.edge.training_plan import PULP_TRAINLIB


@final
@dataclass(frozen=True)
class LossScale:
    """A factor on the loss that keeps small gradients above 2^-24, from Micikevicius et al.,
    *Mixed Precision Training*, 2018, arXiv:1710.03740.

    A step whose gradients are not finite is left out and the factor shrinks; after `interval`
    steps without, it grows. ``LossScale(1.0, growth=1.0, backoff=1.0)`` does without.

    Args:
        initial: factor to begin with.
        growth: what it grows by, at least 1.
        backoff: what it shrinks by, in (0, 1].
        interval: steps between growths.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> LossScale(1024.0, interval=10).after(1024.0, 9, finite=True)
        (2048.0, 0)
    """

    papers = (MIXED_PRECISION,)

    initial: float = 2.0**12
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 200

    def __post_init__(self) -> None:
        if not (self.initial > 0 and self.growth >= 1 and 0 < self.backoff <= 1):
            raise InvalidInput(
                "a loss scale is positive, grows by at least 1 and shrinks by a factor in (0, 1], "
                f"got {self.initial}, {self.growth} and {self.backoff}"
            )
        if self.interval < 1:
            raise InvalidInput(f"the interval is at least one step, got {self.interval}")

    def after(self, scale: float, good: int, *, finite: bool) -> tuple[float, int]:
        """Factor and count of good steps after a step; the factor stays within [2^-24, 2^40]."""
        if not finite:
            return max(scale * self.backoff, 2.0**-24), 0
        if good + 1 < self.interval:
            return scale, good + 1
        return min(scale * self.growth, 2.0**40), 0


@final
@dataclass(frozen=True, eq=False)
class HalfState:
    """What `HalfDescent` carries from step to step.

    Attributes:
        step: updates tried so far.
        scale: of the loss.
        good: steps since the scale changed.
        carry: of the update.
        skipped: steps left out because gradients were not finite.
        lost: share of the moves that were not zero and moved nothing, of the last step.
        loss: of the last step.
    """

    step: int
    scale: float
    good: int
    carry: Carry
    skipped: int = 0
    lost: float = 0.0
    loss: float = float("nan")


@final
@dataclass(frozen=True)
class HalfDescent:
    """Stochastic gradient descent of a network in half precision, simulated on float32 tensors,
    from Nadalini et al., *Reduced Precision Floating-Point Optimization for Deep Neural Network
    On-Device Learning on MicroControllers*, 2023, arXiv:2305.19167.

    Weights, what layers take and give, gradients of these and of weights are rounded to float16;
    sums within a layer, the loss, and the step rate dL/dw are float32.

    Args:
        rate: of learning.
        update: how a step is taken on rounded weights.
        scale: of the loss.

    Raises:
        InvalidInput: a rate that is not positive.

    Example:
        >>> from driftwell.nn.drawn_layers import drawn_linear
        >>> model = drawn_linear(3, 1, torch.Generator().manual_seed(0))
        >>> descent, x = HalfDescent(0.1), torch.eye(3)
        >>> state = descent.init(model)
        >>> for _ in range(50):
        ...     state = descent.step(model, lambda: (model(x) - 1.0).square().mean(), state)
        >>> state.skipped, state.loss < 0.05
        (0, True)
    """

    papers = (PULP_TRAINLIB, MIXED_PRECISION)

    rate: float
    update: WeightUpdate = MasterWeights()
    scale: LossScale = LossScale()

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise InvalidInput(f"the learning rate is positive, got {self.rate}")

    def init(self, model: nn.Module) -> HalfState:
        """Round the model's parameters in place; masters begin with what they were.

        Raises:
            InvalidInput: parameters that are not float32, or do not fit half precision.
        """
        every = list(model.parameters())
        if any(p.dtype != torch.float32 for p in every):
            raise InvalidInput("half precision is simulated on float32: call model.float()")
        if not all(bool((p.abs() <= LARGEST).all()) for p in every):
            raise InvalidInput(f"a parameter is not a number of half precision, up to {LARGEST}")
        learned = tuple(p.detach().clone() for p in every if p.requires_grad)
        with torch.no_grad():
            for p in every:
                p.copy_(round_to_half(p))
        return HalfState(0, self.scale.initial, 0, self.update.init(learned))

    def step(self, model: nn.Module, loss: Callable[[], Tensor], state: HalfState) -> HalfState:
        """One update of the model's parameters, in place.

        Args:
            model: whose parameters were rounded by `init`.
            loss: runs the model and gives a scalar.
            state: of `init` or of the step before.
        """
        learned = [p for p in model.parameters() if p.requires_grad]
        with stored_in_half(model):
            value = loss()
            found = torch.autograd.grad(value * state.scale, learned, materialize_grads=True)
        rounded = [round_to_half(g) for g in found]
        finite = all(bool(torch.isfinite(g).all()) for g in rounded)
        scale, good = self.scale.after(state.scale, state.good, finite=finite)
        count, loss_now = state.step + 1, float(value.detach())
        if not finite:
            return HalfState(count, scale, good, state.carry, state.skipped + 1, 0.0, loss_now)
        moves = tuple(-self.rate / state.scale * g for g in rounded)
        before = tuple(p.detach() for p in learned)
        weights, carry = self.update.apply(before, state.carry, moves, state.step)
        lost = lost_share(state.carry or before, carry or weights, moves)
        with torch.no_grad():
            for p, w in zip(learned, weights, strict=True):
                p.copy_(w)
        return HalfState(count, scale, good, carry, state.skipped, lost, loss_now)


def lost_share(before: Carry, after: Carry, moves: Carry) -> float:
    """Share of the moves that were not zero and left what they should move where it was.

    Example:
        >>> one = (torch.ones(2),)
        >>> lost_share(one, (torch.tensor([1.0, 2.0]),), one)
        0.5
    """
    wanted = torch.cat([(m != 0).flatten() for m in moves])
    still = torch.cat([(a == b).flatten() for a, b in zip(after, before, strict=True)])
    return float((wanted & still).sum() / wanted.sum().clamp(min=1))


@contextmanager
def stored_in_half(model: nn.Module) -> Iterator[None]:
    """Within it, what layers take and give is rounded to float16, and their gradients on the way
    back; sums within a layer stay float32. Layers are modules without modules of their own.

    Example:
        >>> layer = nn.Identity()
        >>> with stored_in_half(layer):
        ...     print(layer(torch.tensor([1.0 + 2.0**-12])).tolist())
        [1.0]
    """

    def take(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(_stored(each) for each in given)

    def give(module: nn.Module, given: tuple[Any, ...], found: Any) -> Any:
        return _stored(found)

    hooks = []
    try:
        for module in model.modules():
            if not any(True for _ in module.children()):
                hooks += [
                    module.register_forward_pre_hook(take), module.register_forward_hook(give)
                ]  # fmt: skip
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _stored(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return _Stored.apply(value)  # type: ignore[no-untyped-call]
    return value


class _Stored(torch.autograd.Function):
    """Half precision on the way there and on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return round_to_half(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return round_to_half(gradients[0])
