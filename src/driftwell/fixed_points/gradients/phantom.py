"""Gradient of a few steps from the fixed point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.unrecorded import (
    settle,
    sound_rows,
    with_derivatives_of,
)
from driftwell.fixed_points.iteration import Outcome, Problem

PHANTOM = Paper(
    key="geng2021phantom",
    title="On Training Implicit Models",
    authors="Geng, Zhengyang and Zhang, Xin-Yu and Bai, Shaojie and Wang, Yisen and Lin, Zhouchen",
    year=2021,
    arxiv="2111.05177",
    venue="NeurIPS 2021",
)


@final
@dataclass(frozen=True)
class Phantom(Gradient):
    """Phantom gradient (unrolled form), from Geng et al., *On Training Implicit Models*, 2021,
    arXiv:2111.05177.

    From the solution z_0 = z*, k damped steps are recorded and back-propagated:

        z_{i+1} = (1 - damping) z_i + damping f(z_i, x)

    At an exact fixed point, with J = df/dz and an incoming gradient v, that is the Neumann series
    of the implicit gradient, cut off:

        dL/dx = damping (df/dx)^T sum_{i<k} ((1 - damping) I + damping J^T)^i v

    Its error falls as |1 - damping + damping lambda|^k for each eigenvalue lambda of J, so that
    damping = 1 is best where they are near 0 or positive and 1/2 where some are near -1. Memory
    is that of k applications of f. The value is z* itself, to which the residual belongs; second
    derivatives are those of the k steps, biased alike. ``Phantom(1)`` is `OneStep()`.

    Args:
        k: steps recorded, at least 1.
        damping: in (0, 1].

    Raises:
        InvalidInput: k below 1, or damping outside (0, 1].

    Example:
        >>> import torch, driftwell as dw
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> z = dw.fixed_point(lambda z, x: 0.5 * z + x, torch.zeros(1, 1), x,
        ...                    gradient=Phantom(3)).z
        >>> torch.autograd.grad(z.sum(), x)  # 1 + 1/2 + 1/4
        (tensor([[1.7500]]),)
    """

    papers = (PHANTOM,)

    k: int = 5
    damping: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise InvalidInput(f"Phantom(k=...) must be an integer of at least 1, got {self.k!r}")
        if not 0.0 < self.damping <= 1.0:
            raise InvalidInput(f"Phantom(damping=...) must be in (0, 1], got {self.damping}")

    def run(self, problem: Problem) -> Outcome:
        """Solve without recording, then record k damped steps."""
        outcome, differentiable = settle(problem)
        if not differentiable:
            return outcome
        z, sound = outcome.z, sound_rows(outcome)
        for _ in range(self.k):
            z = torch.where(sound, z + self.damping * (problem.f(z) - z), outcome.z)
        return with_derivatives_of(z, outcome)
