"""Descent at zero temperature."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State, tree_map
from driftwell.dynamics.laws import Matmul, Scheme
from driftwell.sampling.samplers.overdamped import (
    Overdamped,
    automatic_step,
    check_settings,
    resolved,
)
from driftwell.sampling.samplers.sampler import Problem


@final
@dataclass(frozen=True)
class Descent(Overdamped):
    """Gradient descent, the T = 0 limit of Langevin dynamics: z <- z + dt F.

    The energy falls monotonically for dt < 2 / lambda_max; used for retrieval and denoising.

    Args:
        step_size: dt in integration units; None: 0.5 / lambda_max.
        matmul: precision of fused matrix products.

    Raises:
        InvalidInput: a step size that is not positive and finite.

    Example:
        >>> import torch, driftwell as dw
        >>> well = lambda z: 0.5 * (z**2).sum(dim=1)
        >>> sampler = dw.Descent(0.1)
        >>> chains = dw.sample(well, torch.zeros(8, 2), steps=20, sampler=sampler, seed=0)
        >>> chains.z.shape
        torch.Size([8, 2])
    """

    step_size: float | None = None
    matmul: Matmul = "float32"
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        if self.temperature is not None:
            raise InvalidInput("Descent is the zero-temperature limit and takes no temperature")

    @property
    def scheme(self) -> Scheme:
        """``"none"``."""
        return "none"

    @property
    def fraction(self) -> float:
        """0.5."""
        return 0.5

    def temperature_at(self, problem: Problem, step: int) -> float:
        """Zero."""
        return 0.0

    def resolve(self, problem: Problem, z: State) -> Descent:
        """With a number for `step_size`."""
        return replace(self, step_size=automatic_step(self, problem, z))

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> None:
        """Nothing to carry."""

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One descent step."""
        _, force = problem.energy_and_force(z)
        dt = resolved(self.step_size)
        return tree_map(lambda u, f: u + dt * f, z, force), None
