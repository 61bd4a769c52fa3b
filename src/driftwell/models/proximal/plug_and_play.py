"""Plug and play: inverse problems solved by iterating a learned proximal operator."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.state import State
from driftwell.dynamics.laws import Energy, Map
from driftwell.models.proximal.learned import LPN
from driftwell.models.proximal.matching import LPN_PAPER

PLUG_AND_PLAY = Paper(
    key="venkatakrishnan2013pnp",
    title="Plug-and-Play priors for model based reconstruction",
    authors="Venkatakrishnan, Singanallur V. and Bouman, Charles A. and Wohlberg, Brendt",
    year=2013,
    venue="IEEE GlobalSIP 2013",
    doi="10.1109/GlobalSIP.2013.6737048",
)


@final
class LeastSquares(Energy):
    """Fidelity D(x; b) = weight / 2 |A x - b|^2 of a linear measurement, with its proximal map.

    A denoiser trained with noise s has R = -s^2 log p, so the posterior mode for measurement noise
    s_b is the minimiser of D + R with weight = s^2 / s_b^2.

    Args:
        A: (M, D).
        weight: positive.

    Raises:
        InvalidInput: A that is not a matrix, a weight that is not positive.

    Example:
        >>> LeastSquares(torch.eye(2)).prox(torch.zeros(1, 2), torch.ones(1, 2))
        tensor([[0.5000, 0.5000]])
    """

    def __init__(self, A: Tensor, weight: float = 1.0) -> None:
        super().__init__()
        if A.ndim != 2 or not 0.0 < weight < float("inf"):
            raise InvalidInput(
                f"A is a matrix and weight is positive, got {tuple(A.shape)} and {weight}"
            )
        self.A, self.weight = A, weight
        self.smoothness = weight * float(torch.linalg.matrix_norm(A, 2)) ** 2
        inner = torch.eye(A.shape[1], dtype=A.dtype, device=A.device) + weight * A.T @ A
        self.factor = torch.linalg.cholesky(inner)

    def energy(self, z: State, x: Any = None) -> Tensor:
        """D(z; b), (B,), for the measurement b = x (B, M)."""
        error: Tensor = _vectors(z) @ self.A.T - x
        return 0.5 * self.weight * error.square().sum(1)

    def energy_and_force(self, z: State, x: Any = None) -> tuple[Tensor, State]:
        """D (B,) and -weight A^T (A z - b), detached."""
        with torch.no_grad():
            error = _vectors(z) @ self.A.T - x
            return 0.5 * self.weight * error.square().sum(1), -self.weight * error @ self.A

    def prox(self, v: Tensor, b: Tensor) -> Tensor:
        """argmin_z D(z; b) + 1/2 |z - v|^2 = (I + weight A^T A)^-1 (v + weight A^T b)."""
        right = v + self.weight * b @ self.A
        return torch.cholesky_solve(right.unsqueeze(-1), self.factor).squeeze(-1)


@final
class PlugAndPlayPGD(Map):
    """Plug-and-play proximal gradient descent, from Venkatakrishnan, Bouman and Wohlberg,
    *Plug-and-Play priors for model based reconstruction*, 2013, with the learned proximal operator
    of Fang et al., arXiv:2310.14344.

    z <- f(z - grad D(z; b)),  which never raises  D(z; b) + R(z)

    as f is exactly a proximal operator, if D is 1-smooth; R need not be convex. Solve it by
    `fixed_point(map, z0, b)`. Gradients do not pass to D.

    Args:
        lpn: the network, of samples (D,).
        fidelity: D, an energy of the state with the measurement as its input.

    Raises:
        InvalidInput: least squares that are not 1-smooth.

    Example:
        >>> import driftwell as dw
        >>> step = PlugAndPlayPGD(LPN((3,), hidden=8), LeastSquares(torch.eye(3), weight=0.5))
        >>> b = torch.ones(2, 3)
        >>> dw.fixed_point(step, b, b).z.shape
        torch.Size([2, 3])
    """

    papers = (PLUG_AND_PLAY, LPN_PAPER)

    def __init__(self, lpn: LPN, fidelity: Energy) -> None:
        super().__init__()
        if isinstance(fidelity, LeastSquares) and fidelity.smoothness > 1.0 + 1e-6:
            raise InvalidInput(
                f"weight |A|^2 is {fidelity.smoothness:.4g}, and proximal gradient descent needs "
                "at most 1: use PlugAndPlayADMM, which has no such limit, or a smaller weight"
            )
        self.lpn, self.fidelity = lpn, fidelity

    def forward(self, z: State, x: Any = None) -> State:
        """One step, (B, D)."""
        return self.lpn.prox(self._descended(z, x))

    def objective_after(self, z: State, x: Any = None) -> Tensor:
        """D + R at the point one step from `z`, (B,): exact, as that point's pre-image is known."""
        after, prior = self.lpn.prior_at(self._descended(z, x))
        return self.fidelity.energy_and_force(after, x)[0] + prior

    def _descended(self, z: State, x: Any) -> Tensor:
        return _vectors(z) + _vectors(self.fidelity.force(z, x))


@final
class PlugAndPlayADMM(Map):
    """Plug-and-play ADMM, from Venkatakrishnan, Bouman and Wohlberg, *Plug-and-Play priors for
    model based reconstruction*, 2013, with the learned proximal operator of Fang et al.,
    arXiv:2310.14344, as a map of the state (z, u).

    v = prox_D(z - u; b),  z <- f(v + u),  u <- u + v - z

    At a fixed point v = z, which is stationary for D(z; b) + R(z).

    Args:
        lpn: the network, of samples (D,).
        fidelity: D with its proximal map.

    Example:
        >>> import driftwell as dw
        >>> admm = PlugAndPlayADMM(LPN((3,), hidden=8), LeastSquares(torch.eye(3), weight=4.0))
        >>> b = torch.ones(2, 3)
        >>> z, u = dw.fixed_point(admm, (b, torch.zeros_like(b)), b).z
        >>> z.shape
        torch.Size([2, 3])
    """

    papers = (PLUG_AND_PLAY, LPN_PAPER)

    def __init__(self, lpn: LPN, fidelity: LeastSquares) -> None:
        super().__init__()
        self.lpn, self.fidelity = lpn, fidelity

    def forward(self, z: State, x: Any = None) -> State:
        """One round (z, u) -> (z, u)."""
        if not isinstance(z, tuple) or len(z) != 2:
            raise InvalidInput("the state of ADMM is a pair (z, u); start from (z, zeros like z)")
        old, u = _vectors(z[0]), _vectors(z[1])
        v = self.fidelity.prox(old - u, x)
        new = self.lpn.prox(v + u)
        return new, u + v - new


def _vectors(z: State) -> Tensor:
    if not isinstance(z, Tensor) or z.ndim != 2:
        shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise InvalidInput(f"samples of an inverse problem are vectors, (B, D), got {shape}")
    return z
