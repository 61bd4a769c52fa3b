"""A deep equilibrium classifier: one tied layer brought to rest, then read out."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.results import FixedPoint
from driftwell.core.state import State, detach, leaves
from driftwell.dynamics.laws import Map
from driftwell.fixed_points import (
    Anderson,
    Gradient,
    Implicit,
    Solver,
    fixed_point,
    jacobian_regularization,
)
from driftwell.fixed_points.gradients.implicit import BAI_KOLTER_KOLTUN
from driftwell.fixed_points.regularization import JACOBIAN_REGULARIZATION

ACTIVATIONS = ("tanh", "relu")


@final
class TiedLayer(Map):
    """The layer that a classifier repeats until it rests: z <- phi(z W^T + x).

    Args:
        W: couplings of the state to itself, (width, width).
        activation: phi, ``"tanh"`` or ``"relu"``.

    Example:
        >>> layer = TiedLayer(torch.zeros(2, 2), "relu")
        >>> layer(torch.ones(1, 2), torch.tensor([[-1.0, 3.0]]))
        tensor([[0., 3.]])
    """

    def __init__(self, W: Tensor, activation: str) -> None:
        super().__init__()
        self.W, self.activation = W, activation

    def forward(self, z: State, x: Any = None) -> Tensor:
        """phi(z W^T + x), (B, width), with x the injected input (B, width)."""
        sum_ = torch.addmm(x, leaves(z)[0], self.W.T)
        return torch.tanh(sum_) if self.activation == "tanh" else torch.relu(sum_)


@final
class DEQClassifier(nn.Module):
    """Deep equilibrium classifier, after Bai, Kolter and Koltun, *Deep Equilibrium Models*, 2019,
    arXiv:1909.01377, with a layer that contracts by construction.

    The state rests where one layer maps it onto itself, and the classes are read off there:

        z* = phi(W z* + U x + b),    logits = V z* + c,    W = W_0 min(1, bound / |W_0|_2)

    phi is 1-Lipschitz and |W|_2 <= bound < 1, so z* exists, is unique, and plain iteration finds
    it at the rate `bound` or better. ``bound=None`` leaves W free: the state may then have several
    equilibria or none, and `jacobian_regularization`, from Bai, Koltun and Kolter, *Stabilizing
    Equilibrium Models by Jacobian Regularization*, 2021, arXiv:2106.14342, is what keeps it tame.

    Args:
        inputs: entries of an input.
        width: entries of the state.
        classes: number of classes.
        activation: phi, ``"tanh"`` or ``"relu"``.
        bound: largest |W|_2, in (0, 1), or None for a free W.
        solver: of the fixed point.
        gradient: how derivatives pass through the solve.
        tol: relative tolerance of the solve, per sample.
        max_steps: evaluations of the layer that are allowed.
        seed: of the start weights.
        dtype: of the weights.

    Raises:
        InvalidInput: a size below 1 (or fewer than 2 classes), an unknown activation, a bound
            outside (0, 1).

    Example:
        >>> model = DEQClassifier(64, 32, 10, seed=0)
        >>> logits, found = model(torch.rand(5, 64))
        >>> logits.shape, bool((found.residual < 1e-4).all())
        (torch.Size([5, 10]), True)
    """

    papers = (BAI_KOLTER_KOLTUN, JACOBIAN_REGULARIZATION)

    def __init__(
        self,
        inputs: int,
        width: int,
        classes: int,
        *,
        activation: str = "tanh",
        bound: float | None = 0.9,
        solver: Solver = Anderson(),
        gradient: Gradient = Implicit(tol=1e-5),
        tol: float = 1e-4,
        max_steps: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if inputs < 1 or width < 1 or classes < 2:
            raise InvalidInput(
                "a classifier needs inputs and width of at least 1 and 2 classes, got "
                f"inputs={inputs}, width={width}, classes={classes}"
            )
        if activation not in ACTIVATIONS:
            raise InvalidInput(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        if bound is not None and not 0.0 < bound < 1.0:
            raise InvalidInput(
                f"bound must lie in (0, 1) for a contraction, or be None, got {bound}"
            )
        self.activation, self.bound = activation, bound
        self.solver, self.gradient, self.tol, self.max_steps = solver, gradient, tol, max_steps

        def weight(rows: int, columns: int, gain: float, step: int) -> nn.Parameter:
            drawn = normal(
                (rows, columns), seed=seed, purpose=Purpose.PARAMETERS, chains=rows, step=step,
                dtype=dtype,
            )  # fmt: skip
            return nn.Parameter(gain / columns**0.5 * drawn)

        self.W_0 = weight(width, width, 0.5, 0)
        self.U = weight(width, inputs, 1.0, 1)
        self.b = nn.Parameter(torch.zeros(width, dtype=dtype))
        self.V = weight(classes, width, 1.0, 2)
        self.c = nn.Parameter(torch.zeros(classes, dtype=dtype))

    @property
    def width(self) -> int:
        """Entries of the state."""
        return len(self.b)

    def couplings(self) -> Tensor:
        """W (width, width), within its bound."""
        if self.bound is None:
            return self.W_0
        norm: Tensor = torch.linalg.matrix_norm(self.W_0, 2)
        return self.W_0 * (self.bound / norm).clamp(max=1.0)

    def layer(self) -> TiedLayer:
        """The map z <- phi(z W^T + x) with W as it is now; its x is `inject` of an input."""
        return TiedLayer(self.couplings(), self.activation)

    def inject(self, x: Tensor) -> Tensor:
        """U x + b of inputs (B, ...), flattened, as (B, width)."""
        flat = x.flatten(1).to(self.U)
        if flat.shape[1] != self.U.shape[1]:
            raise InvalidInput(
                f"this classifier takes inputs of {self.U.shape[1]} entries, got "
                f"{flat.shape[1]} (shape {tuple(x.shape)})"
            )
        return torch.addmm(self.b, flat, self.U.T)

    def forward(self, x: Tensor, throw: bool = False) -> tuple[Tensor, FixedPoint]:
        """Logits (B, classes) of inputs (B, ...), and the equilibria they are read off from.

        Args:
            x: inputs, flattened after the first axis.
            throw: raise if a sample does not come to rest; otherwise its status says so.
        """
        injected = self.inject(x)
        found = fixed_point(
            self.layer(), torch.zeros_like(injected).detach(), injected, solver=self.solver,
            gradient=self.gradient, tol=self.tol, max_steps=self.max_steps, throw=throw,
        )  # fmt: skip
        return self.readout(leaves(found.z)[0]), found

    def readout(self, z: Tensor) -> Tensor:
        """V z + c of states (B, width), as (B, classes)."""
        return torch.addmm(self.c, z, self.V.T)

    def jacobian_penalty(
        self, x: Tensor, z: State, *, seed: int, step: int = 0, samples: Tensor | None = None
    ) -> Tensor:
        """Mean of `jacobian_regularization` over the batch, with the states held fixed.

        Args:
            x: inputs, (B, ...).
            z: states, (B, width).
            seed: of the probes.
            step: index of the training step, for new probes in each.
            samples: ids of the samples, int64 (B,).
        """
        return jacobian_regularization(
            self.layer(), detach(z), self.inject(x), seed=seed, step=step, samples=samples
        ).mean()
