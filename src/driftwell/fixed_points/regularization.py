"""Regularisation of a map towards contraction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper
from driftwell.core.state import State, flatten, leaves, rebuild
from driftwell.dynamics.laws import call

JACOBIAN_REGULARIZATION = Paper(
    key="bai2021jacobian",
    title="Stabilizing Equilibrium Models by Jacobian Regularization",
    authors="Bai, Shaojie and Koltun, Vladlen and Kolter, J. Zico",
    year=2021,
    arxiv="2106.14342",
    venue="ICML 2021",
)


def jacobian_regularization(
    f: Callable[..., State],
    z: State,
    x: Any = None,
    *,
    seed: int,
    step: int = 0,
    probes: int = 1,
    samples: Tensor | None = None,
) -> Tensor:
    """Jacobian regulariser, from Bai, Koltun and Kolter, *Stabilizing Equilibrium Models by
    Jacobian Regularization*, 2021, arXiv:2106.14342.

    |J|_F^2 / d per sample, (B,), with J = df/dz at z and d the size of a state, by the estimator
    of Hutchinson:

        1/(d n) sum_{i<n} |J^T e_i|^2,        e_i ~ N(0, I),        E |J^T e|^2 = |J|_F^2

    Unbiased, and a bound on the spectral radius in the mean: rho(J)^2 <= |J|_F^2. Differentiable
    in the parameters of f, in x and in z: at ``z = fixed_point(...).z`` with `Implicit()` the
    gradient includes how z* moves, which is one more adjoint solve; at ``z.detach()`` it is the
    paper's, of f alone.

    Args:
        f: map z -> z, or (z, x) -> z, row-wise.
        z: where it is linearised, (B, ...) or a tree.
        x: input of f.
        seed: of the probes e_i, keyed noise.
        step: index of the training step, for new probes in each.
        probes: number n, at least 1; the estimator's spread falls as 1 / sqrt(n).
        samples: ids of the samples, int64 (B,); the same sample has the same probes in any batch.

    Raises:
        InvalidInput: probes below 1, or a state that is not real.

    Example:
        >>> W = torch.eye(2)
        >>> penalty = jacobian_regularization(
        ...     lambda z: 0.5 * z @ W, torch.zeros(1, 2), seed=0, probes=4000)
        >>> penalty.round(decimals=1)  # |J|_F^2 / d = 2 * 0.25 / 2
        tensor([0.2000])
    """
    if probes < 1:
        raise InvalidInput(f"probes must be at least 1, got {probes}")
    if any(leaf.is_complex() for leaf in leaves(z)):
        raise InvalidInput("jacobian_regularization needs a real state, got a complex one")
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inside = [leaf if leaf.requires_grad else leaf.requires_grad_(True) for leaf in _views(z)]
        value = flatten(call(f, rebuild(z, inside), x=x))
        total = value.new_zeros(value.shape[0])
        for i in range(probes):
            e = _probe(value, seed, step, i, samples)
            products = torch.autograd.grad(
                value, inside, e, retain_graph=True, create_graph=create_graph,
                materialize_grads=True,
            ) if value.requires_grad else ()  # fmt: skip
            for product in products:
                total = total + product.flatten(1).square().sum(dim=1)
    return total / (probes * value.shape[1])


def _views(z: State) -> list[Tensor]:
    """Leaves that are not the user's own tensors, so that recording at them stays here."""
    return [leaf.view_as(leaf) if leaf.requires_grad else leaf.detach() for leaf in leaves(z)]


def _probe(like: Tensor, seed: int, step: int, number: int, samples: Tensor | None) -> Tensor:
    batch, dimension = like.shape
    chains = torch.arange(batch, device=like.device) if samples is None else samples
    return normal(
        (batch, dimension), seed=seed, purpose=Purpose.PROBE, chains=chains, step=step,
        leaf=number, dtype=like.dtype,
    )  # fmt: skip
