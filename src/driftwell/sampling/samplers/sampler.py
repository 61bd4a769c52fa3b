"""What every sampler is: a frozen value with `resolve`, `init`, `step` and `store`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, uniform
from driftwell.core.state import State, leaves, rebuild, tree_map
from driftwell.dynamics import Energy


@dataclass(frozen=True)
class Problem:
    """What a sampler's step sees: the law, its input, temperature, clamps and noise keys.

    Attributes:
        law: energy sampled from.
        x: its input, or None.
        temperature: T in the law's units; 0 for descent.
        free: bool tree like z (True moves), or None if everything moves.
        seed: seed of the keyed noise.
        chains: chain ids, int64 (B,).
    """

    law: Energy
    x: Any
    temperature: float
    free: State | None
    seed: int
    chains: Tensor

    def energy_and_force(self, z: State) -> tuple[Tensor, State]:
        """E (B,) and F = -dE/dz with clamped coordinates zero."""
        energy, force = self.law.energy_and_force(z, self.x)
        return energy, self.mask(force)

    def mask(self, v: State) -> State:
        """`v` with clamped coordinates zero."""
        if self.free is None:
            return v
        return tree_map(lambda u, m: torch.where(m, u, torch.zeros_like(u)), v, self.free)

    def normal(
        self, z: State, step: int, purpose: Purpose = Purpose.DYNAMICS, copy: int = 0
    ) -> State:
        """Keyed standard normals like z, clamped coordinates zero.

        `copy` numbers independent copies of the whole state (the replicas of an exchange).
        """
        parts = leaves(z)
        noise = [
            normal(
                tuple(leaf.shape), seed=self.seed, purpose=purpose, chains=self.chains, step=step,
                leaf=copy * len(parts) + index, dtype=leaf.dtype,
            )
            for index, leaf in enumerate(parts)
        ]  # fmt: skip
        return self.mask(rebuild(z, noise))

    def log_uniform(self, step: int, purpose: Purpose, leaf: int = 0) -> Tensor:
        """Logarithm of one keyed uniform per chain, float64 (B,)."""
        u = uniform(
            (len(self.chains), 1), seed=self.seed, purpose=purpose, chains=self.chains,
            step=step, leaf=leaf, dtype=torch.float64,
        )  # fmt: skip
        return u[:, 0].log()

    def dimension(self, z: State) -> Tensor:
        """Number of free coordinates of each chain, (B,)."""
        if self.free is None:
            count = sum(leaf[0].numel() for leaf in leaves(z))
            return torch.full((leaves(z)[0].shape[0],), float(count), device=leaves(z)[0].device)
        per_leaf = [m.reshape(m.shape[0], -1).sum(dim=1) for m in leaves(self.free)]
        return torch.stack(per_leaf).sum(dim=0).float()


class Sampler(ABC):
    """A sampling method as a frozen value; state lives in z and `carry`, never in the sampler."""

    temperature: float | None

    @abstractmethod
    def resolve(self, problem: Problem, z: State) -> Sampler:
        """The same sampler with every automatic setting made a number."""

    @abstractmethod
    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> Any:
        """Working carry before `step`, from what `store` kept or afresh."""

    @abstractmethod
    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        """One step: new state and carry. Neither argument is modified."""

    @abstractmethod
    def store(self, carry: Any) -> State | None:
        """The part of the carry that cannot be recomputed from z, or None."""

    def temperature_at(self, problem: Problem, step: int) -> float:
        """Temperature the chain is at after `step` steps; constant unless a sampler anneals."""
        return problem.temperature

    def proposal_step(self) -> float:
        """Step size of the overdamped proposal that the acceptance diagnostic judges."""
        return float(getattr(self, "step_size"))  # noqa: B009  (every sampler has the field)

    def acceptance(self, carry: Any) -> Tensor | None:
        """Mean acceptance so far if the sampler has its own accept step, else None."""
        return None


def check_step_size(step_size: float | None) -> None:
    """Refuse a step size that is not positive and finite (None means automatic).

    Raises:
        InvalidInput: it is not.
    """
    if step_size is not None and not 0.0 < step_size < float("inf"):
        raise InvalidInput(
            f"step_size must be positive and finite, or None for automatic, got {step_size}"
        )


def check_sampler_temperature(temperature: float | None, minimum: float = 0.0) -> None:
    """Refuse a sampler temperature that is not positive and finite (None inherits the law's).

    Raises:
        InvalidInput: it is not.
    """
    if temperature is not None and not minimum < temperature < float("inf"):
        raise InvalidInput(
            "a sampler's temperature must be positive and finite, or None to inherit the law's, "
            f"got {temperature}"
        )
