"""Gradient of the last step alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from driftwell.core.papers import Paper
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.unrecorded import settle, with_derivatives_of
from driftwell.fixed_points.iteration import Outcome, Problem

JACOBIAN_FREE = Paper(
    key="fung2022jfb",
    title="JFB: Jacobian-Free Backpropagation for Implicit Networks",
    authors="Fung, Samy Wu and Heaton, Howard and Li, Qiuwei and McKenzie, Daniel and "
    "Osher, Stanley and Yin, Wotao",
    year=2022,
    arxiv="2103.12803",
    venue="AAAI 2022",
)


@final
@dataclass(frozen=True)
class OneStep(Gradient):
    """Jacobian-free gradient, from Fung et al., *JFB: Jacobian-Free Backpropagation for Implicit
    Networks*, 2022, arXiv:2103.12803.

    For z* = f(z*, x) and an incoming gradient v, the Jacobian J = df/dz is taken to be zero:

        dL/dx = (df/dx)^T v        instead of        (df/dx)^T (I - J^T)^{-1} v

    It costs one application of f and no solve. It is biased: the neglected terms are J^T v,
    (J^T)^2 v, ..., a factor 1 / (1 - rho) for the slowest mode of J, rho its spectral radius. A
    descent direction it is where f is enough of a contraction; near rho = 1 only its sign is
    worth something. Second derivatives are those of the one step, biased alike.

    Example:
        >>> import torch, driftwell as dw
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> z = dw.fixed_point(lambda z, x: 0.5 * z + x, torch.zeros(1, 1), x,
        ...                    gradient=OneStep()).z
        >>> torch.autograd.grad(z.sum(), x)  # the implicit gradient is 2
        (tensor([[1.]]),)
    """

    papers = (JACOBIAN_FREE,)

    def run(self, problem: Problem) -> Outcome:
        """Solve without recording, then record one application of f."""
        outcome, differentiable = settle(problem)
        if not differentiable:
            return outcome
        return with_derivatives_of(problem.f(outcome.z), outcome)
