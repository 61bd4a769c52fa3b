"""What an integrator is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor


class Law(Protocol):
    """A vector field on flat states (B, D), at times (B,)."""

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """Drift b, (B, D)."""
        ...

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Diagonal diffusion s, (B, D)."""
        ...


class Step(NamedTuple):
    """One proposed step.

    `z` (B, D) is the state at t + dt; `error` (B, D) an estimate of the step's local error, or
    None; `slope` (B, D) the drift at the end of the step where it is known for free, or None.
    """

    z: Tensor
    error: Tensor | None = None
    slope: Tensor | None = None


class Integrator(ABC):
    """Rule for one step of dz = b dt + s dW; a frozen dataclass of its settings.

    Attributes:
        order: global order for an ODE (weak order for an SDE).
        error_order: order of the embedded solution whose difference is the error estimate, or
            None if there is no estimate, and then no `AdaptiveStep`.
        strong_order: pathwise order for an SDE with diagonal noise, or None for ODE integrators.
        interpretation: what dW means, "ito" or "stratonovich"; None for ODE integrators.
    """

    order: ClassVar[int]
    error_order: ClassVar[int | None] = None
    strong_order: ClassVar[float | None] = None
    interpretation: ClassVar[Literal["ito", "stratonovich"] | None] = None

    @abstractmethod
    def step(
        self,
        law: Law,
        t: Tensor,
        z: Tensor,
        dt: Tensor,
        dw: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Step:
        """State at t + dt.

        Args:
            law: the field on flat states.
            t: time of each sample, (B,), float64 where the device has it.
            z: state, (B, D).
            dt: step of each sample, (B,), negative to go backwards, 0 to stay.
            dw: Brownian increment over the step, (B, D), for SDE integrators.
            slope: b(t, z) if the last step returned it.
        """
