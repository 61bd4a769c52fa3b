"""Langevin sampling with a falling temperature."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State
from driftwell.dynamics.laws import Matmul, Scheme
from driftwell.sampling.samplers.langevin import LEIMKUHLER_MATTHEWS
from driftwell.sampling.samplers.overdamped import (
    Overdamped,
    automatic_step,
    check_settings,
    leimkuhler_matthews,
    resolved,
)
from driftwell.sampling.samplers.sampler import Problem, check_sampler_temperature


@final
@dataclass(frozen=True)
class AnnealedLangevin(Overdamped):
    """Leimkuhler-Matthews Langevin with a falling temperature (simulated annealing).

    The temperature goes geometrically from `start` to the target over the first `over` steps of
    the chain (absolute steps, so that a continued run goes on with its schedule), held constant
    for `hold` steps at a time, and stays at the target afterwards.

    Args:
        start: first temperature, in the law's units.
        over: number of steps to the target.
        hold: steps of equal temperature.
        step_size: dt in integration units; None: 0.5 / lambda_max.
        temperature: target T; None inherits the law's.
        matmul: precision of fused matrix products.

    Raises:
        InvalidInput: a temperature or step size that is not positive, `over` or `hold` < 1.

    Example:
        >>> import torch, driftwell as dw
        >>> well = lambda z: 0.5 * (z**2).sum(dim=1)
        >>> sampler = dw.AnnealedLangevin(start=4.0, over=10, step_size=0.1)
        >>> chains = dw.sample(well, torch.zeros(8, 2), steps=20, sampler=sampler, seed=0)
        >>> chains.z.shape
        torch.Size([8, 2])
    """

    papers = (LEIMKUHLER_MATTHEWS,)
    start: float = 4.0
    over: int = 1000
    hold: int = 10
    step_size: float | None = None
    temperature: float | None = None
    matmul: Matmul = "float32"

    def __post_init__(self) -> None:
        check_settings(self)
        check_sampler_temperature(self.start)
        if self.over < 1 or self.hold < 1:
            raise InvalidInput(
                f"AnnealedLangevin needs over >= 1 and hold >= 1, got {self.over} and {self.hold}"
            )

    @property
    def scheme(self) -> Scheme:
        """``"lm"``."""
        return "lm"

    @property
    def fraction(self) -> float:
        """0.5."""
        return 0.5

    def temperature_at(self, problem: Problem, step: int) -> float:
        """T(n) = T (start / T)^(1 - n / over) for n < over, with n rounded down to `hold`."""
        held = step - step % self.hold
        if held >= self.over:
            return problem.temperature
        return float(
            problem.temperature * (self.start / problem.temperature) ** (1 - held / self.over)
        )

    def block(self, step: int, steps: int) -> int:
        """Steps up to the next change of temperature."""
        if step - step % self.hold >= self.over:
            return steps
        return min(steps, self.hold - step % self.hold)

    def resolve(self, problem: Problem, z: State) -> AnnealedLangevin:
        """With a number for `step_size`."""
        return replace(self, step_size=automatic_step(self, problem, z))

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> State:
        """Noise xi_n of the coming step."""
        return problem.normal(z, step)

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One Leimkuhler-Matthews step at the temperature of this step."""
        dt, temperature = resolved(self.step_size), self.temperature_at(problem, step)
        return leimkuhler_matthews(problem, z, carry, step, dt, temperature)
