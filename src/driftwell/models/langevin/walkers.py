"""Walkers: chains that go down the noise levels over and over while the machine learns."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from driftwell.core.noise import Purpose, normal, uniform
from driftwell.core.world import World
from driftwell.models.langevin.annealing import noise_levels
from driftwell.models.langevin.noise_conditional import Condition, NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe


@final
class Walkers:
    """Chains of annealed sampling at staggered places of their way, one step a level.

    Walker i is at level (t + stagger_i) mod levels after t steps. At level 0 it starts afresh from
    noise with a new label. At any time the walkers together are samples of what annealed sampling
    visits at every level, which is what the machine must match to the data.

    Args:
        machine: the machine that is walked on; its parameters may change between steps.
        recipe: gives the number of chains, levels and level_step.
        seed: of starts, labels and noise.
        world: processes the walkers are split over.
    """

    def __init__(
        self, machine: NoiseConditionalMachine, recipe: Recipe, seed: int, world: World
    ) -> None:
        self.machine, self.recipe, self.seed = machine, recipe, seed
        mine = world.slice(recipe.chains)
        self.ids = torch.arange(mine.start, mine.stop, device=machine.variance.device)
        self.stagger = self.ids * recipe.levels // recipe.chains
        levels = noise_levels(machine, recipe.levels)
        self.sigmas = torch.tensor(levels, dtype=machine.variance.dtype, device=self.ids.device)
        self.u, self.labels = self._start(0)

    def run_in(self) -> None:
        """Bring every walker from noise to its place: walker i makes stagger_i steps."""
        longest = self.recipe.levels - 1
        for t in range(-longest, 0):
            moving = self.stagger >= -t  # walker i starts at t = -stagger_i, at level 0
            moved = self._step(t, (self.stagger + t).clamp_min(0))
            self.u = torch.where(moving[:, None], moved, self.u)

    def walk(self, t: int, steps: int) -> Condition:
        """Steps t..t+steps; returns the condition (level, label) of the states `u` reached.

        A walker that has been at the last level starts afresh before its next step.
        """
        level = self._level(t)
        for now in range(t, t + steps):
            level = self._level(now)
            fresh = level == 0
            if bool(fresh.any()):
                u, labels = self._start(now + 1)
                self.u = torch.where(fresh[:, None], u, self.u)
                self.labels = torch.where(fresh, labels, self.labels)
            self.u = self._step(now, level)
        return self._condition(level)

    def _level(self, t: int) -> Tensor:
        return (self.stagger + t) % self.recipe.levels

    def _condition(self, level: Tensor) -> Condition:
        _, onehot = self.machine.condition(len(level), 1.0, self.labels)
        return self.sigmas[level], onehot

    def _step(self, t: int, level: Tensor) -> Tensor:
        """One Leimkuhler-Matthews step at each walker's own level."""
        x = self._condition(level)
        _, force = self.machine.energy_and_force(self.u, x)
        dt = (self.recipe.level_step * x[0] ** 2)[:, None]
        when = t + self.recipe.levels  # keyed steps are not negative
        kick = math.sqrt(0.5) * (self._noise(when) + self._noise(when + 1))
        return self.u + dt * torch.as_tensor(force) + dt.sqrt() * kick

    def _noise(self, step: int) -> Tensor:
        return normal(
            tuple(self.u.shape), seed=self.seed, purpose=Purpose.DYNAMICS, chains=self.ids,
            step=step, dtype=self.u.dtype,
        )  # fmt: skip

    def _start(self, step: int) -> tuple[Tensor, Tensor]:
        """Keyed start states and labels; `step` makes every start another one."""
        m = self.machine
        unit = normal(
            (len(self.ids), m.n), seed=self.seed, purpose=Purpose.INIT, chains=self.ids,
            step=step, leaf=2, dtype=m.variance.dtype,
        )  # fmt: skip
        u = unit * (m.variance + m.sigma_max**2).sqrt()
        if not m.labels:
            return u, torch.full_like(self.ids, -1)
        r = uniform(
            (len(self.ids), 1), seed=self.seed, purpose=Purpose.INIT, chains=self.ids,
            step=step, leaf=3,
        )[:, 0]  # fmt: skip
        return u, m.labels_at(r)
