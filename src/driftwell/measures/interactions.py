"""Which inputs act together: pairwise interactions and the context of one input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

CONTEXT = Paper(
    key="ling2019alphago",
    title="Explaining AlphaGo: Interpreting Contextual Effects in Neural Networks",
    authors="Ling, Zenan and Ma, Haotian and Yang, Yu and Qiu, Robert C. and Zhu, Song-Chun and "
    "Zhang, Quanshi",
    year=2019,
    arxiv="1901.02184",
)


@final
@dataclass(frozen=True)
class ContextualEffects:
    """With whom an input unit i acts on a model's output, for each sample.

    Attributes:
        effect: f(x) - f(x without i), (B,), in units of f.
        mask: p, how much of each unit the effect of i needs, in [0, 1], (B, n); 1 at i.
        interactions: I_ij with every unit of the region mask > 1/2, (B, n); 0 outside and at i.
        partner: the unit with the largest |I_ij|, int64 (B,); -1 where the region is empty.

    Example:
        >>> x = torch.tensor([[2.0, 3.0]])
        >>> contextual_effects(lambda x: x[:, 0] + x[:, 1], x, unit=0).partner
        tensor([-1])
    """

    papers = (CONTEXT,)

    effect: Tensor
    mask: Tensor
    interactions: Tensor
    partner: Tensor


def pairwise_interactions(
    model: Callable[[Tensor], Tensor], x: Tensor, unit: int, *, baseline: Tensor | float = 0.0
) -> Tensor:
    """Interactions of one input unit i with every other unit j.

        I_ij = [f(x) - f(x without i)] - [f(x without j) - f(x without i and j)]

    "Without" puts the baseline in the unit's place. I_ij is 0 where f is a sum of a function that
    ignores i and one that ignores j.

    Args:
        model: f, from (B, n) to (B,), row-wise.
        x: inputs, (B, n).
        unit: i.
        baseline: what stands for an absent unit, broadcast to x.

    Returns:
        (B, n), 0 at i; n + 1 times as many evaluations as f(x) takes, twice.

    Raises:
        InvalidInput: x that is not (B, n), a unit outside it, or a model that returns no (B,).

    Example:
        >>> x = torch.tensor([[2.0, 3.0, 5.0]])
        >>> pairwise_interactions(lambda x: x[:, 0] * x[:, 1] + x[:, 2], x, unit=0)
        tensor([[0., 6., 0.]])
    """
    _check(x, unit)
    absent = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand_as(x)
    batch, n = x.shape
    alone = torch.eye(n, dtype=torch.bool, device=x.device)
    with torch.no_grad():
        # Row j: x without j; the effect of i on each, and on x itself.
        without = torch.where(alone[None], absent[:, None], x[:, None]).reshape(batch * n, n)
        doubled = absent[:, None].expand(-1, n, -1).reshape(batch * n, n)
        effects = _effect(model, without, doubled, unit).view(batch, n)
        found = _effect(model, x, absent, unit)[:, None] - effects
    return torch.where(alone[unit], 0.0, found)


def contextual_effects(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    unit: int,
    *,
    baseline: Tensor | float = 0.0,
    penalty: float = 0.05,
    steps: int = 200,
    step_size: float = 0.05,
) -> ContextualEffects:
    """The context in which an input unit i acts, after Ling et al., *Explaining AlphaGo:
    Interpreting Contextual Effects in Neural Networks*, 2019, arXiv:1901.02184: first a coarse
    region, then the ranking of units within it.

        D_i(x) = f(x) - f(x without i),      x_p = baseline + p (x - baseline),  p in [0, 1]^n
        p = argmin (D_i(x_p) / D_i(x) - 1)^2 + penalty * sum_{j != i} p_j

    from p = 1 by projected Adam steps; the region is p > 1/2, and within it the units are ranked
    by their `pairwise_interactions` with i. The paper asks the same two questions of a network
    that plays Go; the estimators are this library's.

    Args:
        model: f, from (B, n) to (B,), row-wise and differentiable.
        x: inputs, (B, n).
        unit: i.
        baseline: what stands for an absent unit. If absence itself says something, as an empty
            point in Go does, so does this baseline.
        penalty: price of keeping a unit, as a share of the squared effect.
        steps: of the descent, at least 1.
        step_size: of the descent, positive.

    Raises:
        InvalidInput: what `pairwise_interactions` refuses, or a setting that is not positive.

    Example:
        >>> x = torch.tensor([[2.0, 3.0, 5.0]])
        >>> found = contextual_effects(lambda x: x[:, 0] * x[:, 1] + x[:, 2], x, unit=0)
        >>> found.partner, found.effect, found.interactions
        (tensor([1]), tensor([6.]), tensor([[0., 6., 0.]]))
    """
    _check(x, unit)
    if not (penalty > 0.0 and step_size > 0.0 and steps >= 1):
        raise InvalidInput(
            f"penalty, step_size and steps must be positive, got {penalty}, {step_size} and {steps}"
        )
    absent = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand_as(x)
    with torch.no_grad():
        effect = _effect(model, x, absent, unit)
    mask = _mask(model, x.detach(), absent, unit, effect, penalty, steps, step_size)
    others = torch.arange(x.shape[1], device=x.device) != unit
    region = (mask > 0.5) & others
    found = pairwise_interactions(model, x, unit, baseline=baseline)
    found = torch.where(region, found, 0.0)
    strength = torch.where(region, found.abs(), -1.0)
    partner = torch.where(region.any(dim=1), strength.argmax(dim=1), -1)
    return ContextualEffects(effect, mask, found, partner)


def _mask(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    absent: Tensor,
    unit: int,
    effect: Tensor,
    penalty: float,
    steps: int,
    step_size: float,
) -> Tensor:
    p = torch.ones_like(x, requires_grad=True)
    optimizer = torch.optim.Adam([p], lr=step_size)
    # Without any effect there is no scale to compare with; the target is then zero itself.
    scale = torch.where(effect == 0.0, 1.0, effect)
    for _ in range(steps):
        with torch.enable_grad():
            kept = _effect(model, absent + p * (x - absent), absent, unit)
            loss = ((kept - effect) / scale).square() + penalty * p.sum(dim=1)
            (slope,) = torch.autograd.grad(loss.sum(), p)
        slope[:, unit] = 0.0  # the unit itself stays
        p.grad = slope
        optimizer.step()
        with torch.no_grad():
            p.clamp_(0.0, 1.0)
    return p.detach()


def _effect(model: Callable[[Tensor], Tensor], x: Tensor, absent: Tensor, unit: int) -> Tensor:
    """f(x) - f(x without the unit), (B,)."""
    own = torch.arange(x.shape[1], device=x.device) == unit
    both = torch.cat([x, torch.where(own, absent, x)])
    value = model(both)
    if value.shape != both.shape[:1]:
        raise InvalidInput(
            f"the model must return one number a row, shape ({len(both)},), got "
            f"{tuple(value.shape)}; pick one output"
        )
    return value[: len(x)] - value[len(x) :]


def _check(x: Tensor, unit: int) -> None:
    if x.ndim != 2 or not x.is_floating_point():
        raise InvalidInput(f"x must be floating point of shape (B, n), got {tuple(x.shape)}")
    if not 0 <= unit < x.shape[1]:
        raise InvalidInput(f"unit must lie in 0..{x.shape[1] - 1}, got {unit}")
