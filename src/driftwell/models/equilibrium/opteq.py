"""OptEq: equilibrium layers whose equilibrium is the minimiser of an explicit energy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper
from driftwell.core.results import FixedPoint
from driftwell.core.state import State
from driftwell.dynamics.laws import Energy, Map, check_temperature
from driftwell.fixed_points import Anderson, Gradient, Implicit, Solver, fixed_point
from driftwell.models.equilibrium.primitives import Integrable, ReLU

OPTEQ = Paper(
    key="xie2021opteq",
    title="Optimization Induced Equilibrium Networks: An Explicit Optimization Perspective for "
    "Understanding Equilibrium Models",
    authors="Xie, Xingyu and Wang, Qiuhao and Ling, Zenan and Li, Xia and Wang, Yisen and "
    "Liu, Guangcan and Lin, Zhouchen",
    year=2021,
    arxiv="2105.13228",
    venue="IEEE Transactions on Pattern Analysis and Machine Intelligence 2023",
)


@final
class OptEqLayer(Map):
    """OptEq layer, from Xie et al., *Optimization Induced Equilibrium Networks*, 2021,
    arXiv:2105.13228.

        f(z, x) = W^T s(W z + U x + b) = z - grad E(z; x),
        E(z; x) = 1/2 |z|^2 - sum_i S((W z + U x + b)_i),   S' = s

    With |W|_2 <= `bound` <= 1 and s nondecreasing and 1-Lipschitz, E is convex and 1-smooth: an
    equilibrium of f is a minimiser of E, unique if |W|_2 < 1, and a plain iteration of f is
    gradient descent on E with step 1, which never raises it. `energy` is E as a law, to be sampled
    around the equilibrium at a temperature.

    W = W0 min(1, bound / |W0|_2), with the exact norm. For a large W that is expensive: with
    `power_iterations` training takes the norm from a power iteration, so many steps on each call
    of `equilibrium`, from where it ended. It comes from below and follows a growing direction
    late, so |W|_2 may exceed `bound` for a while and a solve fail (with five steps |W|_2 reached
    1.12 for a bound of 0.95 on the digits); in eval mode the norm is exact again.

    Args:
        inputs: size p of x.
        state: size d of z.
        hidden: rows m of W; more than d gives expressivity. None: d.
        activation: s with its primitive: `ReLU()`, `Tanh()`, `Softplus()`, `Identity()`.
        bound: on |W|_2, in (0, 1].
        power_iterations: 0 for the exact norm in training too.
        seed: of the keyed start parameters.
        dtype: of the parameters.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> layer = OptEqLayer(inputs=3, state=4, hidden=8, seed=1).eval()
        >>> x = torch.ones(2, 3)
        >>> z = layer.equilibrium(x).z
        >>> bool(layer.energy_law().force(z, x).abs().max() < 1e-3)  # z minimises E
        True
    """

    papers = (OPTEQ,)

    def __init__(
        self,
        inputs: int,
        state: int,
        hidden: int | None = None,
        activation: Integrable = ReLU(),
        bound: float = 0.95,
        power_iterations: int = 0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        hidden = state if hidden is None else hidden
        if min(inputs, state, hidden) < 1:
            raise InvalidInput(
                f"inputs, state and hidden must be at least 1, got {inputs}, {state}, {hidden}"
            )
        if not isinstance(activation, Integrable):
            raise InvalidInput(
                f"activation must be one with a primitive, such as ReLU(), got {activation!r}"
            )
        if not 0.0 < bound <= 1.0:
            raise InvalidInput(f"bound must be in (0, 1], got {bound}")
        if power_iterations < 0:
            raise InvalidInput(f"power_iterations must not be negative, got {power_iterations}")
        self.state, self.activation, self.bound = state, activation, bound
        self.power_iterations = power_iterations

        def draw(leaf: int, rows: int, columns: int) -> Tensor:
            return normal(
                (rows, columns), seed=seed, purpose=Purpose.PARAMETERS, chains=rows, step=0,
                leaf=leaf, dtype=dtype,
            )  # fmt: skip

        self.W0 = nn.Parameter(draw(0, hidden, state) / math.sqrt(hidden))
        self.U = nn.Parameter(draw(1, hidden, inputs) / math.sqrt(inputs))
        self.b = nn.Parameter(torch.zeros(hidden, dtype=dtype))
        self.register_buffer("direction", functional.normalize(draw(2, 1, state)[0], dim=0))
        self.tighten(30)

    direction: Tensor

    def extra_repr(self) -> str:
        """Settings shown by print."""
        hidden, inputs = self.U.shape
        return (
            f"inputs={inputs}, state={self.state}, hidden={hidden}, "
            f"activation={self.activation}, bound={self.bound}"
        )

    @torch.no_grad()
    def tighten(self, iterations: int | None = None) -> None:
        """Take power iterations, as many as the layer's own unless given."""
        for _ in range(self.power_iterations if iterations is None else iterations):
            self.direction = functional.normalize(self.W0.T @ (self.W0 @ self.direction), dim=0)

    def weight(self) -> Tensor:
        """W (m, d), W0 scaled down to the bound; differentiable."""
        if self.training and self.power_iterations:
            norm = torch.linalg.vector_norm(self.W0 @ self.direction)
        else:
            norm = torch.linalg.matrix_norm(self.W0, 2)
        scaled: Tensor = self.W0 * (self.bound / norm).clamp(max=1.0)
        return scaled

    def injection(self, x: Tensor) -> Tensor:
        """U x + b, (B, m)."""
        return _injection(x, self.U, self.b)

    def forward(self, z: State, x: Any = None) -> State:
        """f(z, x), (B, d)."""
        return self.at(x)(rows_like(z, self.W0))

    def at(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """z -> f(z, x) for this x: W and U x + b are computed once, and not at each call."""
        W, u = self.weight(), self.injection(x)
        return lambda z: self.activation.value(z @ W.T + u) @ W

    def energy(self, z: Tensor, x: Tensor) -> Tensor:
        """E(z; x), (B,); differentiable."""
        return self.energy_law().energy(z, x)

    def energy_law(self, temperature: float = 1.0) -> OptEqEnergy:
        """E as a law exp(-E(z; x) / T), with the weights as they are now."""
        return OptEqEnergy(self.weight(), self.U, self.b, self.activation, temperature)

    def equilibrium(
        self,
        x: Tensor,
        z0: Tensor | None = None,
        *,
        prior: Callable[[Tensor], Tensor] | None = None,
        solver: Solver = Anderson(),
        gradient: Gradient = Implicit(),
        tol: float = 1e-4,
        max_steps: int = 100,
        throw: bool = True,
    ) -> FixedPoint:
        """Equilibria z* = f(z*, x), from 0 unless `z0` is given; settings as in `fixed_point`.

        Args:
            x: inputs (B, p).
            z0: start (B, d).
            prior: proximal operator of a function R, applied after f: z* then minimises E + R,
                as z <- prox_R(z - grad E) is proximal gradient descent.
            solver: rule for the next iterate.
            gradient: how derivatives pass through the solve.
            tol: relative tolerance per sample.
            max_steps: evaluations of f.
            throw: raise if a sample fails.
        """
        if self.training:
            self.tighten()
        unit = self.at(x)
        f = unit if prior is None else lambda z: prior(unit(z))
        start = self.W0.new_zeros(len(x), self.state) if z0 is None else rows_like(z0, self.W0)
        return fixed_point(
            f, start, solver=solver, gradient=gradient, tol=tol, max_steps=max_steps, throw=throw
        )


@final
class OptEqEnergy(Energy):
    """Energy of an OptEq layer, E(z; x) = 1/2 |z|^2 - sum_i S((W z + U x + b)_i), as a law.

    grad E = z - W^T s(W z + U x + b), and the Hessian I - W^T s' W lies between 0 and I: the law
    exp(-E / T) is log-concave, and no step size of a sampler need be smaller than for a unit
    Gaussian.

    Args:
        W: (m, d), |W|_2 <= 1.
        U: (m, p).
        b: (m,).
        activation: s with its primitive.
        temperature: T, in units of E.

    Raises:
        InvalidInput: shapes that do not fit, a temperature that is not positive.

    Example:
        >>> import driftwell as dw
        >>> law, x = OptEqLayer(inputs=3, state=4, seed=1).eval().energy_law(0.1), torch.ones(16, 3)
        >>> dw.sample(law, torch.zeros(16, 4), x, steps=50, seed=1).z.shape
        torch.Size([16, 4])
    """

    papers = (OPTEQ,)

    def __init__(
        self, W: Tensor, U: Tensor, b: Tensor, activation: Integrable, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if W.ndim != 2 or U.ndim != 2 or not len(W) == len(U) == len(b):
            raise InvalidInput(
                "W is (m, d), U is (m, p) and b is (m,), "
                f"got {tuple(W.shape)}, {tuple(U.shape)} and {tuple(b.shape)}"
            )
        self.W, self.U, self.b, self.activation = W, U, b, activation
        self.temperature = check_temperature(temperature)

    def energy(self, z: State, x: Any = None) -> Tensor:
        """E, (B,); differentiable in z, x and the layer's parameters."""
        state, u = self._preactivation(z, x)
        return 0.5 * state.square().sum(1) - self.activation.primitive(u).sum(1)

    def energy_and_force(self, z: State, x: Any = None) -> tuple[Tensor, State]:
        """E (B,) and F = W^T s(W z + U x + b) - z, analytic and detached."""
        with torch.no_grad():
            state, u = self._preactivation(z, x)
            energy = 0.5 * state.square().sum(1) - self.activation.primitive(u).sum(1)
            return energy, self.activation.value(u) @ self.W - state

    def hessian_vector(self, z: State, v: State, x: Any = None) -> State:
        """(I - W^T s' W) v, (B, d)."""
        with torch.no_grad():
            _, u = self._preactivation(z, x)
            w = rows_like(v, self.W)
            return w - (self.activation.slope(u) * (w @ self.W.T)) @ self.W

    def curvature_bound(self, z: State, x: Any = None) -> float:
        """1: E is 1-smooth."""
        return 1.0

    def _preactivation(self, z: State, x: Any) -> tuple[Tensor, Tensor]:
        state = rows_like(z, self.W)
        return state, state @ self.W.T + _injection(x, self.U, self.b)


def _injection(x: Any, U: Tensor, b: Tensor) -> Tensor:
    return functional.linear(_rows(x, U.shape[1], U.dtype, "the input"), U, b)


def rows_like(z: State, like: Tensor) -> Tensor:
    """`z` if it is (B, d) of the dtype of `like` (..., d).

    Raises:
        InvalidInput: it is not.
    """
    return _rows(z, like.shape[1], like.dtype, "a state")


def _rows(z: Any, width: int, dtype: torch.dtype, what: str) -> Tensor:
    if not isinstance(z, Tensor):
        raise InvalidInput(f"{what} has shape (B, {width}), got {type(z).__name__}")
    if z.ndim != 2 or z.shape[1] != width or z.dtype != dtype:
        raise InvalidInput(
            f"{what} has shape (B, {width}) and {dtype}, got {tuple(z.shape)} and {z.dtype}"
        )
    return z
