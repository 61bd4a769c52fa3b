"""Jacobian homeostasis: the asymmetry of a law's Jacobian, as a penalty and as a measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform
from driftwell.core.state import State, flatten, tree_map, unflatten
from driftwell.dynamics.linearization import jacobian_vector
from driftwell.learning.rules.sensitivity import Activation, slope


def jacobian_homeostasis(
    f: Callable[..., State],
    z: State,
    x: Any = None,
    *,
    activation: Activation | None = None,
    probes: int | None = 5,
    seed: int = 0,
    step: int = 0,
) -> Tensor:
    """Asymmetry of df/da per neuron, from Laborieux and Zenke, *Improving equilibrium propagation
    without weight symmetry through Jacobian homeostasis*, 2023, arXiv:2309.02214.

        L = (|J|_F^2 - tr J^2) / n = 1/2 |J - J^T|_F^2 / n,    J = df/da = (df/dz) / sigma'(z)
        |J|_F^2 = E |J e|^2,   tr J^2 = E e^T J J e,   e_i = +-1 (Hutchinson)

    Two Jacobian-vector products a probe; differentiable in the parameters of f and in z. Its
    gradient makes the fixed point's response to a nudge that of the adjoint, which is what
    `HolomorphicEP` needs. In a network f = W sigma(z) + x with `activation` sigma it is
    1/2 |W - W^T|^2 / n, whatever the state.

    Args:
        f: the law, z -> z or (z, x) -> z; adding -z changes nothing.
        z: where it is linearised, (B, ...), n real coordinates a sample.
        x: input of f.
        activation: sigma; None for a = z.
        probes: how many random signs; None takes all n unit vectors and is exact.
        seed: of the keyed probes.
        step: index of the update, so that each has probes of its own.

    Returns:
        (B,).

    Raises:
        InvalidInput: fewer than one probe.

    Example:
        >>> turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> jacobian_homeostasis(lambda z: z @ turn.T, torch.zeros(1, 2))
        tensor([2.])
    """
    square, trace, n = _moments(f, z, x, activation, probes, seed, step)
    return (square - trace) / n


def jacobian_symmetry(
    f: Callable[..., State],
    z: State,
    x: Any = None,
    *,
    activation: Activation | None = None,
    probes: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Symmetry |J_sym| / (|J_sym| + |J_anti|) of df/da, from Laborieux and Zenke, 2023,
    arXiv:2309.02214: 1 if symmetric, 0 if antisymmetric, about 1/2 if random.

    Args:
        f: the law; its own Jacobian is measured, without the -1 of a leak.
        z: where, (B, ...).
        x: input of f.
        activation: as in `jacobian_homeostasis`.
        probes: None is exact, at n products.
        seed: of the keyed probes.

    Returns:
        (B,).

    Example:
        >>> jacobian_symmetry(lambda z: 0.5 * z, torch.zeros(1, 2))
        tensor([1.])
    """
    square, trace, _ = _moments(f, z, x, activation, probes, seed, 0)
    symmetric = ((square + trace) / 2).clamp_min(0.0).sqrt()
    antisymmetric = ((square - trace) / 2).clamp_min(0.0).sqrt()
    return symmetric / (symmetric + antisymmetric)


def _moments(
    f: Callable[..., State],
    z: State,
    x: Any,
    activation: Activation | None,
    probes: int | None,
    seed: int,
    step: int,
) -> tuple[Tensor, Tensor, int]:
    """|J|_F^2 and tr J^2 of each sample, and n."""
    if probes is not None and probes < 1:
        raise InvalidInput(f"homeostasis needs at least one probe, got {probes}")
    # forward mode cannot write into expanded memory
    z = tree_map(Tensor.contiguous, z)
    flat = flatten(z)
    weights = None if activation is None else tree_map(lambda u: slope(activation, u), z)

    def J(e: Tensor) -> Tensor:
        v = unflatten(e, z)
        if weights is not None:
            v = tree_map(torch.div, v, weights)
        return flatten(jacobian_vector(f, z, v, x))

    square = trace = flat.new_zeros(len(flat))
    for e in _signs(flat, probes, seed, step) if probes else _units(flat):
        Je = J(e)
        square = square + Je.square().sum(dim=1)
        trace = trace + (e * J(Je)).sum(dim=1)
    count = probes or 1
    return square / count, trace / count, flat.shape[1]


def _signs(flat: Tensor, probes: int, seed: int, step: int) -> Iterator[Tensor]:
    for k in range(probes):
        chance = uniform(
            tuple(flat.shape), seed=seed, purpose=Purpose.PROBE, chains=len(flat), step=step,
            leaf=k, dtype=flat.dtype, device=flat.device,
        )  # fmt: skip
        yield torch.where(chance < 0.5, -1.0, 1.0).to(flat.dtype)


def _units(flat: Tensor) -> Iterator[Tensor]:
    for row in torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device):
        yield row.expand_as(flat)
