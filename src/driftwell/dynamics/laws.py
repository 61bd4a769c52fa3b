"""The three laws of motion: `Map`, `Energy`, `VectorField`.

A plain callable is accepted wherever a law is. Calling convention, never inspected: without `x`
it is called as f(z), E(z), b(t, z); with `x` as f(z, x), E(z, x), b(t, z, x); `t` is (B,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State, batch_size, leaves, rebuild, tree_map

Scheme: TypeAlias = Literal["lm", "em", "none"]
Matmul: TypeAlias = Literal["float32", "bfloat16"]


def call(function: Callable[..., Any], *arguments: Any, x: Any = None) -> Any:
    """`function(*arguments)`, with `x` appended only if it is given."""
    return function(*arguments) if x is None else function(*arguments, x)


class Map(nn.Module, ABC):
    """Law z <- f(z, x): one application of a map to the state.

    Example:
        >>> class Halve(Map):
        ...     def forward(self, z, x=None):
        ...         return 0.5 * z
        >>> Halve()(torch.ones(1, 1))
        tensor([[0.5000]])
    """

    @abstractmethod
    def forward(self, z: State, x: Any = None) -> State:
        """Next state, of the same shapes and dtypes as `z`."""


class VectorField(nn.Module, ABC):
    """Law dz = b(t, z, x) dt + s(t, z, x) dW.

    The diffusion `s` is diagonal: a tree like z. `None` means an ordinary differential equation.

    Example:
        >>> class Decay(VectorField):
        ...     def drift(self, t, z, x=None):
        ...         return -z
        >>> Decay()(torch.zeros(1), torch.ones(1, 1))
        tensor([[-1.]])
    """

    @abstractmethod
    def drift(self, t: Tensor, z: State, x: Any = None) -> State:
        """Drift b, a tree like `z`; `t` is (B,), in integration units."""

    def diffusion(self, t: Tensor, z: State, x: Any = None) -> State | None:
        """Diagonal diffusion s, a tree like `z`, or None for an ODE."""
        return None

    def forward(self, t: Tensor, z: State, x: Any = None) -> State:
        """The drift, so that a field is also a plain callable b(t, z, x)."""
        return self.drift(t, z, x)


@dataclass(frozen=True)
class OverdampedPlan:
    """A block of overdamped Langevin steps, as a law's own fused kernel is asked for it.

    z <- z + step_size * F + sqrt(2 * temperature * step_size) * noise, with noise the keyed
    normal of step n ("em"), the mean of those of steps n and n+1 ("lm"), or zero ("none").
    `free` is None or a bool tree like z; clamped coordinates do not move.
    """

    scheme: Scheme
    step_size: float
    temperature: float
    seed: int
    chains: Tensor
    first_step: int
    steps: int
    free: State | None = None
    matmul: Matmul = "float32"


class Energy(nn.Module, ABC):
    """Law P(z | x) ~ exp(-E(z, x) / T): an energy, in its own units, and its temperature T.

    Subclasses give `energy`; the force -dE/dz comes from autograd unless they override
    `energy_and_force` with an analytic one.

    Example:
        >>> class Well(Energy):
        ...     def energy(self, z, x=None):
        ...         return 0.5 * (z**2).sum(dim=1)
        >>> Well().force(torch.ones(1, 2))
        tensor([[-1., -1.]])
    """

    temperature: float = 1.0

    @abstractmethod
    def energy(self, z: State, x: Any = None) -> Tensor:
        """Energy of each sample, (B,)."""

    def forward(self, z: State, x: Any = None) -> Tensor:
        """The energy, so that a law is also a plain callable E(z, x)."""
        return self.energy(z, x)

    def energy_and_force(self, z: State, x: Any = None) -> tuple[Tensor, State]:
        """E (B,) and F = -dE/dz (a tree like z), both detached."""
        with torch.enable_grad():
            inputs = [leaf.detach().requires_grad_(True) for leaf in leaves(z)]
            energy = _checked(self.energy(rebuild(z, inputs), x), z)
            gradient = torch.autograd.grad(energy.sum(), inputs, allow_unused=True)
        force = [
            torch.zeros_like(leaf) if g is None else -g
            for leaf, g in zip(inputs, gradient, strict=True)
        ]
        return energy.detach(), rebuild(z, force)

    def force(self, z: State, x: Any = None) -> State:
        """F = -dE/dz, a tree like z, detached."""
        return self.energy_and_force(z, x)[1]

    def hessian_vector(self, z: State, v: State, x: Any = None) -> State:
        """Hessian-vector product (d2E/dz2) v per sample, a tree like z, detached."""
        with torch.enable_grad():
            inputs = [leaf.detach().requires_grad_(True) for leaf in leaves(z)]
            energy = self.energy(rebuild(z, inputs), x).sum()
            gradient = torch.autograd.grad(energy, inputs, create_graph=True, allow_unused=True)
            pairs = [
                (g * w.detach()).sum()
                for g, w in zip(gradient, leaves(v), strict=True)
                if g is not None and g.requires_grad
            ]
            if not pairs:
                return tree_map(torch.zeros_like, v)
            product = torch.autograd.grad(torch.stack(pairs).sum(), inputs, allow_unused=True)
        return rebuild(
            z,
            [
                torch.zeros_like(leaf) if p is None else p.detach()
                for leaf, p in zip(inputs, product, strict=True)
            ],
        )

    def overdamped_steps(self, z: State, x: Any, plan: OverdampedPlan) -> tuple[State, str] | None:
        """A fused block of steps and the backend's name, or None if this law has no kernel."""
        return None


@final
class FunctionEnergy(Energy):
    """Energy given by a plain callable E(z) or E(z, x) with an optional temperature.

    Example:
        >>> law = FunctionEnergy(lambda z: 0.5 * (z**2).sum(dim=1))
        >>> law.force(torch.ones(1, 2))
        tensor([[-1., -1.]])
    """

    def __init__(self, function: Callable[..., Tensor], temperature: float = 1.0) -> None:
        super().__init__()
        self.function = function
        self.temperature = check_temperature(temperature)

    def energy(self, z: State, x: Any = None) -> Tensor:
        """Value of the callable, (B,)."""
        return _checked(call(self.function, z, x=x), z)


@final
class FunctionField(VectorField):
    """Vector field given by plain callables b(t, z[, x]) and, for an SDE, s(t, z[, x])."""

    def __init__(
        self, drift: Callable[..., State], diffusion: Callable[..., State] | None = None
    ) -> None:
        super().__init__()
        self._drift, self._diffusion = drift, diffusion

    def drift(self, t: Tensor, z: State, x: Any = None) -> State:
        """Value of the drift callable."""
        result: State = call(self._drift, t, z, x=x)
        return result

    def diffusion(self, t: Tensor, z: State, x: Any = None) -> State | None:
        """Value of the diffusion callable, or None."""
        if self._diffusion is None:
            return None
        result: State = call(self._diffusion, t, z, x=x)
        return result


def as_energy(law: Energy | Callable[..., Tensor]) -> Energy:
    """`law` itself if it is an `Energy`, else the callable wrapped as one.

    Raises:
        InvalidInput: `law` is neither an `Energy` nor callable.
    """
    if isinstance(law, Energy):
        return law
    if not callable(law):
        raise InvalidInput(
            f"an energy is a driftwell Energy or a callable E(z) -> (B,), got {type(law).__name__}"
        )
    return FunctionEnergy(law)


def as_field(law: VectorField | Callable[..., State]) -> VectorField:
    """`law` itself if it is a `VectorField`, else the callable wrapped as one.

    Raises:
        InvalidInput: `law` is neither a `VectorField` nor callable.
    """
    if isinstance(law, VectorField):
        return law
    if not callable(law):
        raise InvalidInput(
            "a vector field is a driftwell VectorField or a callable b(t, z), "
            f"got {type(law).__name__}"
        )
    return FunctionField(law)


def check_temperature(temperature: float) -> float:
    """`temperature` as a float if it is positive and finite.

    Raises:
        InvalidInput: it is not.
    """
    value = float(temperature)
    if not 0.0 < value < float("inf"):
        raise InvalidInput(f"a temperature must be positive and finite, got {temperature}")
    return value


def _checked(energy: Tensor, z: State) -> Tensor:
    if not isinstance(energy, Tensor) or energy.shape != (batch_size(z),):
        shape = tuple(energy.shape) if isinstance(energy, Tensor) else type(energy).__name__
        raise InvalidInput(
            f"an energy must return one number per sample, shape ({batch_size(z)},), got {shape}; "
            "sum over the state's dimensions only"
        )
    return energy
