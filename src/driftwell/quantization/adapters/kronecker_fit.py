"""The sum of Kronecker products nearest to a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.adapters.adapter import check_count

VAN_LOAN = Paper(
    key="vanloan1993kronecker",
    title="Approximation with Kronecker products",
    authors="Van Loan, Charles F. and Pitsianis, Nikos",
    year=1993,
    venue="Linear Algebra for Large Scale and Real-Time Applications",
    doi="10.1007/978-94-015-8196-7_17",
)


def closest_kronecker(delta: Tensor, r1: int, r2: int, r: int) -> tuple[Tensor, Tensor]:
    """Nearest sum of r Kronecker products, from Van Loan and Pitsianis, *Approximation with
    Kronecker products*, 1993.

        min ||delta - sum_i B_i (x) A_i||_F,   A_i (r1, in/r2),  B_i (out/r1, r2)

    With its entries rearranged to (out/r1 * r2, r1 * in/r2), B_i (x) A_i is the outer product of
    the entries of B_i and of A_i, so the answer is a truncated SVD; done in float64.

    Args:
        delta: matrix (out, in).
        r1: rows of A_i, a divisor of out.
        r2: columns of B_i, a divisor of in.
        r: number of terms; more than min(out r2/r1, in r1/r2) adds terms that are zero.

    Returns:
        B (out/r1, r, r2) and A (r, r1, in/r2), in the layout of `KroneckerAdapter`.

    Raises:
        InvalidInput: r1 or r2 does not divide its side, or delta is not a finite matrix.

    Example:
        >>> b, a = torch.randn(2, 3), torch.randn(2, 2)
        >>> fit_b, fit_a = closest_kronecker(torch.kron(b, a), r1=2, r2=3, r=1)
        >>> torch.allclose(torch.kron(fit_b[:, 0], fit_a[0]), torch.kron(b, a), atol=1e-6)
        True
    """
    if delta.ndim != 2 or not bool(torch.isfinite(delta).all()):
        raise InvalidInput(f"delta must be a finite matrix, got shape {tuple(delta.shape)}")
    out, columns = delta.shape
    check_components(out, columns, r1, r2, r)
    entries = delta.double().reshape(out // r1, r1, r2, columns // r2)
    rearranged = entries.transpose(1, 2).reshape(out // r1 * r2, r1 * (columns // r2))
    u, s, v = torch.linalg.svd(rearranged, full_matrices=False)
    kept = min(r, len(s))
    b = delta.new_zeros(out // r1, r, r2)
    a = delta.new_zeros(r, r1, columns // r2)
    root = s[:kept].sqrt()
    b[:, :kept] = (u[:, :kept] * root).reshape(out // r1, r2, kept).mT.to(delta.dtype)
    a[:kept] = (root[:, None] * v[:kept]).reshape(kept, r1, columns // r2).to(delta.dtype)
    return b, a


def check_components(out: int, columns: int, r1: int, r2: int, r: int) -> None:
    """Refuse components that do not tile a matrix (out, columns)."""
    for name, value in (("r1", r1), ("r2", r2), ("r", r)):
        check_count(name, value)
    if out % r1 or columns % r2:
        raise InvalidInput(
            f"r1 must divide the {out} outputs and r2 the {columns} inputs of the layer, "
            f"got r1={r1}, r2={r2}"
        )
