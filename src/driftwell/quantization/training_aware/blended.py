"""Blended coarse gradient descent: the float weights leak toward the quantized ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.training_aware.quantized_weights import seen_weights

__all__ = ["BlendedCoarseGradient"]

BCGD = Paper(
    key="yin2018bcgd",
    title="Blended Coarse Gradient Descent for Full Quantization of Deep Neural Networks",
    authors="Yin, Penghang and Zhang, Shuai and Lyu, Jiancheng and Osher, Stanley "
    "and Qi, Yingyong and Xin, Jack",
    year=2018,
    arxiv="1808.05240",
    venue="Research in the Mathematical Sciences",
)


@final
class BlendedCoarseGradient:
    """Any optimizer around a blend of float and quantized weights, from Yin, Zhang, Lyu, Osher,
    Qi and Xin, *Blended Coarse Gradient Descent for Full Quantization of Deep Neural Networks*,
    2018, arXiv:1808.05240.

        w <- (1 - rho) w + rho Q(w) - eta d,    d the optimizer's direction at grad f(Q(w))

    With rho = 0 this is BinaryConnect, bit for bit. The momentum is the optimizer's and belongs
    to w; weight decay, which the optimizer adds to the gradient, sees the blend. Parameters that
    are not quantized weights, have no gradient or are frozen take the plain step.

    Schedulers of the step size take the inner `optimizer`.

    Args:
        optimizer: holds the float weights; one that evaluates closures itself (L-BFGS) will not do.
        model: from `quantization_aware`; Q is that of its weights' quantizers.
        rho: share of the quantized weight in the blend, in [0, 1].

    Raises:
        InvalidInput: rho outside [0, 1], or no quantized weight in the optimizer.

    Example:
        >>> from driftwell.quantization.formats import Binary
        >>> from driftwell.quantization.training_aware.quantized_weights import quantization_aware
        >>> model = quantization_aware(nn.Linear(4, 1), Binary())
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> blended = BlendedCoarseGradient(sgd, model, rho=1e-4)
        >>> model(torch.ones(1, 4)).square().sum().backward()
        >>> blended.step()
    """

    papers = (BCGD,)

    def __init__(self, optimizer: Optimizer, model: nn.Module, rho: float = 1e-5) -> None:
        if not 0.0 <= rho <= 1.0:
            raise InvalidInput(f"BlendedCoarseGradient(rho=...) must be in [0, 1], got {rho}")
        moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._blended = [seen for seen in seen_weights(model) if id(seen.weight) in moved]
        if not self._blended:
            raise InvalidInput(
                "the optimizer holds no quantized weight of this model: make the model with "
                "quantization_aware first, then the optimizer of its parameters"
            )
        self.optimizer, self.rho = optimizer, rho

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the inner optimizer."""
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Blend, then let the inner optimizer step.

        Args:
            closure: clears the gradients, evaluates the loss, calls `backward`, returns the loss;
                called once, before the blend: the gradient is that at Q(w).

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.rho > 0:
            self._blend()
        self.optimizer.step()
        return loss

    @torch.no_grad()
    def _blend(self) -> None:
        done: set[int] = set()
        for seen in self._blended:
            w = seen.weight
            if w.grad is not None and w.requires_grad and id(w) not in done:
                w.lerp_(seen.value().to(w.dtype), self.rho)
                done.add(id(w))  # a weight that two layers share blends once

    def state_dict(self) -> dict[str, Any]:
        """State of the inner optimizer; the blend has none."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.optimizer.load_state_dict(state)
