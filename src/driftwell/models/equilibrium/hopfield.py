"""Modern Hopfield networks: attention as the descent of an energy."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.results import FixedPoint
from driftwell.core.state import State, leaves
from driftwell.dynamics.laws import Energy, Map, check_temperature
from driftwell.fixed_points import Gradient, Implicit, Picard, Solver, fixed_point

HOPFIELD = Paper(
    key="ramsauer2020hopfield",
    title="Hopfield Networks is All You Need",
    authors="Ramsauer, Hubert and Schäfl, Bernhard and Lehner, Johannes and Seidl, Philipp and "
    "Widrich, Michael and Adler, Thomas and Gruber, Lukas and Holzleitner, Markus and "
    "Pavlović, Milena and Sandve, Geir Kjetil and Greiff, Victor and Kreil, David and "
    "Kopp, Michael and Klambauer, Günter and Brandstetter, Johannes and Hochreiter, Sepp",
    year=2020,
    arxiv="2008.02217",
    venue="ICLR 2021",
)


@final
class HopfieldEnergy(Energy):
    """Energy of a modern Hopfield network, from Ramsauer et al., *Hopfield Networks is All You
    Need*, 2020, arXiv:2008.02217.

    With patterns x_1 .. x_N as the rows of X and M = max |x_i|:

        E(z) = -1/beta log sum_i exp(beta x_i.z) + 1/2 |z|^2 + 1/beta log N + 1/2 M^2
        F = -dE/dz = X^T softmax(beta X z) - z

    E >= 0, the force is what `HopfieldUpdate` still has to go, and at the temperature 1/beta the
    law exp(-E/T) is exactly a mixture of Gaussians N(x_i, I/beta) with weights in proportion to
    exp(beta |x_i|^2 / 2): `dw.sample` then draws noisy memories.

    Args:
        patterns: X, (N, D); pass an `nn.Parameter` to learn them.
        beta: inverse width of a memory's basin, positive.
        temperature: T of the law, in units of E; 1/beta if None.

    Raises:
        InvalidInput: no patterns, or a beta or temperature that is not positive.

    Example:
        >>> law = HopfieldEnergy(torch.eye(3), beta=8.0)
        >>> law.force(torch.zeros(1, 3))
        tensor([[0.3333, 0.3333, 0.3333]])
    """

    papers = (HOPFIELD,)

    def __init__(
        self, patterns: Tensor, beta: float = 1.0, temperature: float | None = None
    ) -> None:
        super().__init__()
        _check(patterns, beta)
        self.beta = float(beta)
        self.temperature = check_temperature(1.0 / beta if temperature is None else temperature)
        self.X: Tensor
        _hold(self, patterns)

    def energy(self, z: State, x: Any = None) -> Tensor:
        """E (B,) of states (B, D)."""
        at = _checked(z, self.X)
        lift = torch.logsumexp(self.beta * at @ self.X.T, dim=1) - math.log(len(self.X))
        furthest = self.X.square().sum(1).max()
        return 0.5 * at.square().sum(1) - lift / self.beta + 0.5 * furthest

    def energy_and_force(self, z: State, x: Any = None) -> tuple[Tensor, State]:
        """E (B,) and F (B, D), in closed form, detached."""
        with torch.no_grad():
            at = _checked(z, self.X)
            return self.energy(at), attend(at, self.X, self.beta) - at


@final
class HopfieldUpdate(Map):
    """One update of a modern Hopfield network: f(z) = X^T softmax(beta X z), attention's own rule.

    It is the concave-convex step of `HopfieldEnergy`: E(f(z)) <= E(z), for every z and beta. And
    with D_i = min_{j != i} x_i.(x_i - x_j) the separation of pattern i and M = max |x_i|,

        |f(z) - x_i| <= 2 M (N - 1) exp(-beta (D_i - 2 M |z - x_i|)).

    Args:
        patterns: X, (N, D); pass an `nn.Parameter` to learn them.
        beta: positive.

    Raises:
        InvalidInput: no patterns, or a beta that is not positive.

    Example:
        >>> update = HopfieldUpdate(torch.eye(3), beta=20.0)
        >>> update(torch.tensor([[0.9, 0.1, 0.0]])).round(decimals=3)
        tensor([[1., 0., 0.]])
    """

    papers = (HOPFIELD,)

    def __init__(self, patterns: Tensor, beta: float = 1.0) -> None:
        super().__init__()
        _check(patterns, beta)
        self.beta = float(beta)
        self.X: Tensor
        _hold(self, patterns)

    def forward(self, z: State, x: Any = None) -> Tensor:
        """f(z), (B, D)."""
        return attend(_checked(z, self.X), self.X, self.beta)

    def separation(self) -> Tensor:
        """D_i of each pattern, (N,), in units of |x|^2."""
        overlap = self.X @ self.X.T
        own = overlap.diagonal()
        others = overlap.masked_fill(
            torch.eye(len(own), dtype=torch.bool, device=own.device), -torch.inf
        )
        return own - others.amax(dim=1)

    def error_bound(self, distance: Tensor) -> Tensor:
        """Largest |f(z) - x_i| that |z - x_i| = `distance` allows, (N, ...) like `distance`.

        Args:
            distance: of a state to its pattern, (N,) or (N, ...): row i belongs to pattern i.
        """
        M = self.X.square().sum(1).max().sqrt()
        room = self.separation().view(-1, *[1] * (distance.ndim - 1)) - 2.0 * M * distance
        return 2.0 * M * (len(self.X) - 1) * torch.exp(-self.beta * room)


@final
class HopfieldRetrieval(nn.Module):
    """Retrieval from a modern Hopfield network, from Ramsauer et al., *Hopfield Networks is All
    You Need*, 2020, arXiv:2008.02217: a query falls to the memory in whose basin it lies.

        z* = X^T softmax(beta X z*),   from z_0 = query

    Plain iteration, the default, lowers the energy at every step, so that it stays in the query's
    basin; an accelerated solver is faster near the end and may cross to a neighbour's. Gradients
    reach the patterns; none reaches the query, which decides only which memory is found (for
    attention as a layer, apply `update` once).

    Args:
        patterns: X, (N, D); pass an `nn.Parameter` to learn them.
        beta: positive; small ones average patterns, large ones separate them.
        solver: of the fixed point.
        gradient: how derivatives pass through the solve.
        tol: relative tolerance of the solve.
        max_steps: updates that are allowed.

    Raises:
        InvalidInput: no patterns, or a beta that is not positive.

    Example:
        >>> memory = HopfieldRetrieval(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), beta=4.0)
        >>> memory(torch.tensor([[0.3, 0.6], [1.5, -0.2]])).z.round(decimals=1)
        tensor([[ 1.,  1.],
                [ 1., -1.]])
    """

    papers = (HOPFIELD,)

    def __init__(
        self,
        patterns: Tensor,
        beta: float = 1.0,
        *,
        solver: Solver = Picard(),
        gradient: Gradient = Implicit(tol=1e-5),
        tol: float = 1e-4,
        max_steps: int = 200,
    ) -> None:
        super().__init__()
        self.update = HopfieldUpdate(patterns, beta)
        self.solver, self.gradient, self.tol, self.max_steps = solver, gradient, tol, max_steps

    def energy(self) -> HopfieldEnergy:
        """The energy that retrieval descends, over the same patterns."""
        return HopfieldEnergy(self.update.X, self.update.beta)

    def forward(self, query: Tensor, throw: bool = False) -> FixedPoint:
        """Memories (B, D) that queries (B, D) fall to.

        Args:
            query: starts.
            throw: raise if one does not come to rest; otherwise its status says so.
        """
        return fixed_point(
            self.update, query.detach(), solver=self.solver, gradient=self.gradient, tol=self.tol,
            max_steps=self.max_steps, throw=throw,
        )  # fmt: skip


def attend(z: Tensor, X: Tensor, beta: float) -> Tensor:
    """X^T softmax(beta X z) of states (B, D), as (B, D)."""
    return torch.softmax(beta * z @ X.T, dim=1) @ X


def _hold(module: nn.Module, patterns: Tensor) -> None:
    """X as a parameter if it is one, else as a buffer: either way it moves with the module."""
    if isinstance(patterns, nn.Parameter):
        module.register_parameter("X", patterns)
    else:
        module.register_buffer("X", patterns)


def _check(patterns: Tensor, beta: float) -> None:
    if patterns.ndim != 2 or patterns.numel() == 0 or not patterns.is_floating_point():
        raise InvalidInput(
            "patterns are floating point of shape (N, D) with N and D at least 1, got "
            f"{patterns.dtype} of shape {tuple(patterns.shape)}"
        )
    if not 0.0 < beta < float("inf"):
        raise InvalidInput(f"beta must be positive and finite, got {beta}")


def _checked(z: State, X: Tensor) -> Tensor:
    at = leaves(z)[0]
    if at.ndim != 2 or at.shape[1] != X.shape[1]:
        raise InvalidInput(f"states have the shape (B, {X.shape[1]}), got {tuple(at.shape)}")
    return at
