"""Linearisation of a map: Jacobian products and the spectral radius, matrix-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.state import State, flatten, leaves, rebuild, unflatten
from driftwell.dynamics.laws import call


def jacobian_vector(f: Callable[..., State], z: State, v: State, x: Any = None) -> State:
    """Jacobian-vector product (df/dz) v, a tree like z, by forward-mode differentiation.

    Example:
        >>> jacobian_vector(lambda z: z**2, torch.tensor([[3.0]]), torch.tensor([[1.0]]))
        tensor([[6.]])
    """

    def of_leaves(*parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaves(call(f, rebuild(z, parts), x=x)))

    # forward mode refuses tensors that were expanded over the batch
    point, direction = (tuple(leaf.contiguous() for leaf in leaves(tree)) for tree in (z, v))
    _, tangents = torch.func.jvp(of_leaves, point, direction)[:2]
    return rebuild(z, tangents)


def vector_jacobian(f: Callable[..., State], z: State, v: State, x: Any = None) -> State:
    """Vector-Jacobian product (df/dz)^T v, a tree like z, by reverse-mode differentiation.

    Example:
        >>> vector_jacobian(lambda z: z**2, torch.tensor([[3.0]]), torch.tensor([[1.0]]))
        tensor([[6.]])
    """
    with torch.enable_grad():
        inputs = [leaf.detach().requires_grad_(True) for leaf in leaves(z)]
        output = leaves(call(f, rebuild(z, inputs), x=x))
        products = torch.autograd.grad(output, inputs, grad_outputs=leaves(v), allow_unused=True)
    return rebuild(
        z,
        [
            torch.zeros_like(leaf) if p is None else p
            for leaf, p in zip(inputs, products, strict=True)
        ],
    )


def spectral_radius(
    f: Callable[..., State], z: State, x: Any = None, *, krylov: int = 24, seed: int = 0
) -> Tensor:
    """Spectral radius of df/dz per sample, (B,): the largest modulus of its `ritz_values`.

    Complex pairs are found, which a Rayleigh quotient misses.

    Args:
        f: map z -> z (or f(z, x)), row-wise.
        z: where it is linearised, (B, ...).
        x: its input.
        krylov: dimension of the Krylov space, at least 1.
        seed: of the keyed start vector.

    Example:
        >>> turn = torch.tensor([[0.0, 0.9], [-0.9, 0.0]])
        >>> spectral_radius(lambda z: z @ turn.T, torch.zeros(1, 2))
        tensor([0.9000])
    """
    radius: Tensor = ritz_values(f, z, x, krylov=krylov, seed=seed).abs().amax(dim=1)
    return radius.to(flatten(z).dtype)


def ritz_values(
    f: Callable[..., State], z: State, x: Any = None, *, krylov: int = 24, seed: int = 0
) -> Tensor:
    """Eigenvalues of df/dz as Arnoldi iteration sees them, complex (B, m), largest modulus first.

    Those of df/dz within a Krylov space of dimension m = min(`krylov`, state dimension): the
    outermost are good first, and all are exact when the space is the whole state.

    Args:
        f: map z -> z (or f(z, x)), row-wise.
        z: where it is linearised, (B, ...).
        x: its input.
        krylov: dimension of the Krylov space, at least 1.
        seed: of the keyed start vector.

    Raises:
        InvalidInput: krylov below 1.

    Example:
        >>> ritz_values(lambda z: torch.tensor([0.5, -0.9]) * z, torch.zeros(1, 2)).real
        tensor([[-0.9000,  0.5000]], dtype=torch.float64)
    """
    if krylov < 1:
        raise InvalidInput(f"krylov must be at least 1, got {krylov}")
    flat = flatten(z)
    batch, dimension = flat.shape
    m = min(krylov, dimension)
    start = normal(
        (batch, dimension), seed=seed, purpose=Purpose.PROBE,
        chains=torch.arange(batch, device=flat.device), step=0, dtype=flat.dtype,
    )  # fmt: skip
    basis = torch.zeros(batch, m + 1, dimension, dtype=flat.dtype, device=flat.device)
    hessenberg = torch.zeros(batch, m + 1, m, dtype=torch.float64, device=flat.device)
    basis[:, 0] = start / start.norm(dim=1, keepdim=True)
    for k in range(m):
        w = flatten(jacobian_vector(f, z, unflatten(basis[:, k], z), x))
        for _ in range(2):  # Gram-Schmidt twice keeps the basis orthogonal to rounding
            overlap = torch.einsum("bkd,bd->bk", basis[:, : k + 1], w)
            w = w - torch.einsum("bk,bkd->bd", overlap, basis[:, : k + 1])
            hessenberg[:, : k + 1, k] += overlap.double()
        length = w.norm(dim=1)
        hessenberg[:, k + 1, k] = length.double()
        # A vanishing remainder closes the Krylov space: later columns stay zero.
        keep = length > 1e-7 * hessenberg[:, : k + 1, k].norm(dim=1).to(length.dtype)
        basis[:, k + 1] = torch.where(keep[:, None], w / length.clamp_min(1e-30)[:, None], 0.0)
        hessenberg[:, k + 1, k] = torch.where(keep, hessenberg[:, k + 1, k], 0.0)
    ritz = torch.linalg.eigvals(hessenberg[:, :m, :m])
    sorted_ritz: Tensor = ritz.gather(1, ritz.abs().argsort(dim=1, descending=True))
    return sorted_ritz
