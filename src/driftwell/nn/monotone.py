"""Monotone layers: a unique equilibrium by construction, however large the weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

WINSTON_KOLTER = Paper(
    key="winston2020monotone",
    title="Monotone operator equilibrium networks",
    authors="Winston, Ezra and Kolter, J. Zico",
    year=2020,
    arxiv="2006.08591",
    venue="NeurIPS 2020",
)


class Prox(ABC):
    """An activation that is the proximal operator of a convex function; a frozen dataclass."""

    @abstractmethod
    def __call__(self, u: Tensor, alpha: float = 1.0) -> Tensor:
        """argmin_z 1/2 |z - u|^2 + alpha phi(z), entry by entry; alpha = 1 is the activation."""


@final
@dataclass(frozen=True)
class Clamp(Prox):
    """Projection on a box, the prox of its indicator: ReLU as it stands, hard tanh with -1, 1.

    It does not depend on alpha.

    Example:
        >>> Clamp()(torch.tensor([-1.0, 2.0])), Clamp(-1.0, 1.0)(torch.tensor([-0.5, 2.0]))
        (tensor([0., 2.]), tensor([-0.5000,  1.0000]))
    """

    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InvalidInput(f"Clamp(low, high) needs low < high, got {self.low}, {self.high}")

    def __call__(self, u: Tensor, alpha: float = 1.0) -> Tensor:
        """The nearest point of [low, high]."""
        return u.clamp(self.low, self.high)


@final
@dataclass(frozen=True)
class SoftThreshold(Prox):
    """Soft threshold, the prox of threshold |z|: sign(u) max(|u| - alpha threshold, 0).

    Example:
        >>> SoftThreshold(0.5)(torch.tensor([-1.0, 0.2, 2.0]))
        tensor([-0.5000,  0.0000,  1.5000])
    """

    threshold: float = 0.1

    def __post_init__(self) -> None:
        if not self.threshold >= 0.0:
            raise InvalidInput(f"SoftThreshold must not be negative, got {self.threshold}")

    def __call__(self, u: Tensor, alpha: float = 1.0) -> Tensor:
        """u, shrunk by alpha * threshold."""
        return u - u.clamp(-alpha * self.threshold, alpha * self.threshold)


@final
@dataclass(frozen=True, eq=False)
class MonotoneLaw:
    """The law z <- prox(W z + U x + b) with I - W monotone, its matrices at hand for one solve.

    A plain callable for `fixed_point`, and what the splitting solvers `ForwardBackward` and
    `PeacemanRachford` need: its fixed point is the zero of (I - W) z - (U x + b) + d phi(z).
    Made by `MonotoneLayer.law`; products of W cost nothing here, and an inverse is made once.

    Args:
        W: (n, n), as it acts on columns.
        U: (n, inputs).
        b: (n,).
        margin: m with <z, (I - W) z> >= m |z|^2.
        prox: the activation.
    """

    W: Tensor
    U: Tensor
    b: Tensor
    margin: float
    prox: Prox
    _kept: dict[tuple[str, float, bool], Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, z: Tensor, x: Tensor) -> Tensor:
        """prox(W z + U x + b): z (B, n), x (B, inputs) -> (B, n)."""
        return self.prox(self.linear(z) + self.drive(x))

    def linear(self, z: Tensor) -> Tensor:
        """W z of rows (B, n)."""
        return z @ self.W.T

    def drive(self, x: Tensor) -> Tensor:
        """U x + b of rows (B, inputs)."""
        return torch.addmm(self.b, x, self.U.T)

    def lipschitz(self) -> float:
        """L = |I - W| in the spectral norm."""
        gap = self._gap().detach()
        return float(self._keep("lipschitz", 0.0, lambda: torch.linalg.matrix_norm(gap, 2)))

    def resolvent(self, u: Tensor, alpha: float) -> Tensor:
        """(I + alpha (I - W))^{-1} u of rows (B, n); the inverse is dense and kept."""

        def inverse() -> Tensor:
            gap = self._gap()
            dense: Tensor = torch.linalg.inv(torch.eye(len(gap), device=gap.device) + alpha * gap)
            dense = dense.to(self.W.dtype)
            return dense

        result: Tensor = u @ self._keep("resolvent", alpha, inverse).T
        return result

    def _gap(self) -> Tensor:
        """I - W, in float64 where the device has it."""
        mps = self.W.device.type == "mps"
        wide = self.W.to(torch.float32 if mps else torch.float64)
        return torch.eye(len(wide), dtype=wide.dtype, device=wide.device) - wide

    def _keep(self, name: str, alpha: float, make: Callable[[], Tensor]) -> Tensor:
        if torch.compiler.is_compiling():  # a tracer's tensors must not be kept
            return make()
        # what was made without a record must not serve where one is wanted
        key = (name, alpha, torch.is_grad_enabled())
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


@final
class MonotoneLayer(nn.Module):
    """Monotone equilibrium layer, from Winston and Kolter, *Monotone operator equilibrium
    networks*, 2020, arXiv:2006.08591.

        z <- prox(W z + U x + b),   W = (1 - m) I - A^T A + B - B^T

    For every A and B, <z, (I - W) z> = m |z|^2 + |A z|^2 >= m |z|^2: I - W is strongly monotone,
    and with an activation that is a prox there is exactly one fixed point, however large W is.
    Picard iteration need not find it; `ForwardBackward` and `PeacemanRachford` do.

    Args:
        inputs: width of x.
        width: width n of the state.
        margin: m, positive; the smaller, the richer and the slower to solve.
        prox: the activation.
        gain: scale of A and B, whose entries are N(0, gain^2 / n).
        seed: of the weights.

    Raises:
        InvalidInput: a size below 1, or a margin or gain out of range.

    Example:
        >>> import driftwell as dw
        >>> layer = MonotoneLayer(2, 3, seed=0)
        >>> found = dw.fixed_point(layer.law(), torch.zeros(1, 3), torch.ones(1, 2), tol=1e-6)
        >>> bool((layer(found.z, torch.ones(1, 2)) - found.z).abs().max() < 1e-5)
        True
    """

    papers = (WINSTON_KOLTER,)

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        margin: float = 1.0,
        prox: Prox = Clamp(),
        gain: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if inputs < 1 or width < 1:
            raise InvalidInput(f"inputs and width must be at least 1, got {inputs} and {width}")
        if not 0.0 < margin < math.inf:
            raise InvalidInput(f"margin must be positive, got {margin}")
        if not 0.0 <= gain < math.inf:
            raise InvalidInput(f"gain must not be negative, got {gain}")
        self.margin, self.prox = margin, prox
        generator = torch.Generator().manual_seed(seed)

        def weights(rows: int, columns: int, scale: float) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(rows, columns, generator=generator))

        self.A = weights(width, width, gain / width**0.5)
        self.B = weights(width, width, gain / width**0.5)
        self.U = weights(width, inputs, inputs**-0.5)
        self.b = nn.Parameter(torch.zeros(width))

    @property
    def width(self) -> int:
        """n, the size of the state."""
        return len(self.b)

    def weight(self) -> Tensor:
        """W = (1 - m) I - A^T A + B - B^T, (n, n)."""
        eye = torch.eye(self.width, dtype=self.A.dtype, device=self.A.device)
        return (1.0 - self.margin) * eye - self.A.T @ self.A + self.B - self.B.T

    def law(self) -> MonotoneLaw:
        """The law for one solve: W is formed once, derivatives reach A, B, U and b."""
        return MonotoneLaw(self.weight(), self.U, self.b, self.margin, self.prox)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """One application of the map: z (B, n), x (B, inputs) -> (B, n)."""
        value: Tensor = self.law()(z, x)
        return value
