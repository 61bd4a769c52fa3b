"""Spectrum of the couplings: eigenvalues in the complex plane, symmetric and antisymmetric part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput


@final
@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of J and what they say of the bare network dx/dt = -x + J phi(x).

    Attributes:
        eigenvalues: of J as (real, imaginary), largest real part first.
        symmetric: ||(J + J^T)/2||_F / ||J||_F.
        antisymmetric: ||(J - J^T)/2||_F / ||J||_F; the squares of both sum to one.
        singular: singular values of I - J, largest first; their squares are the curvatures of the
            energy at x = 0.
        diagonal: mean of J_ii.
    """

    eigenvalues: tuple[tuple[float, float], ...]
    symmetric: float
    antisymmetric: float
    singular: tuple[float, ...]
    diagonal: float

    @property
    def abscissa(self) -> float:
        """max Re lambda(J): below 1 the bare network is linearly stable at x = 0."""
        return self.eigenvalues[0][0]

    @property
    def radius(self) -> float:
        """max |lambda(J)|."""
        return max(abs(complex(*pair)) for pair in self.eigenvalues)

    @property
    def stiffness(self) -> float:
        """sigma_max(I - J)^2, the largest curvature of the energy at x = 0."""
        return self.singular[0] ** 2

    @property
    def unstable(self) -> int:
        """Number of eigenvalues with Re lambda > 1."""
        return sum(real > 1.0 for real, _ in self.eigenvalues)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "max_real": self.abscissa,
            "radius": self.radius,
            "unstable": self.unstable,
            "symmetric_share": self.symmetric,
            "antisymmetric_share": self.antisymmetric,
            "curvature_at_rest": self.stiffness,
            "mean_diagonal": self.diagonal,
            "singular_values": list(self.singular),
            "eigenvalues": [list(pair) for pair in self.eigenvalues],
        }


def coupling_spectrum(J: Tensor) -> Spectrum:
    """Spectrum of a coupling matrix, in float64.

    Args:
        J: (N, N).

    Raises:
        InvalidInput: not a square matrix, or NaN/Inf in it.

    Example:
        >>> rotation = coupling_spectrum(torch.tensor([[0.0, -2.0], [2.0, 0.0]]))
        >>> round(rotation.radius, 6), round(rotation.antisymmetric, 6)
        (2.0, 1.0)
    """
    if J.ndim != 2 or J.shape[0] != J.shape[1] or not J.numel():
        raise InvalidInput(f"couplings are a square matrix, not of the shape {tuple(J.shape)}")
    if not bool(torch.isfinite(J).all()):
        raise InvalidInput("the couplings hold NaN or infinite entries: the training diverged")
    M = J.detach().double().cpu()
    found = torch.linalg.eigvals(M)
    pairs = sorted(
        zip(found.real.tolist(), found.imag.tolist(), strict=True), key=lambda p: (-p[0], -p[1])
    )
    norm = float(M.norm())
    scale = norm if norm > 0.0 else 1.0
    identity = torch.eye(len(M), dtype=M.dtype)
    return Spectrum(
        eigenvalues=tuple(pairs),
        symmetric=float((M + M.T).norm()) / (2.0 * scale),
        antisymmetric=float((M - M.T).norm()) / (2.0 * scale),
        singular=tuple(torch.linalg.svdvals(identity - M).tolist()),
        diagonal=float(M.diagonal().mean()),
    )
