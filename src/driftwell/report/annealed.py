"""What a noise-conditional machine generates, level by level, and how its chains behave."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from driftwell.core.noise import Purpose, normal
from driftwell.core.state import leaves
from driftwell.data import ImageSet
from driftwell.models.langevin.annealing import annealed_sample, noise_levels
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.report.sampled import OF_EACH_CLASS, Part, Sampled, most_varied
from driftwell.report.trajectories import FollowedWalk, Trace, diagnostics_of
from driftwell.sampling import Langevin, sample
from driftwell.sampling.statistics import virial
from driftwell.training.run import Run

DIAGNOSTIC_STEPS = 400
WALK_STATES, WALK_EVERY, NEURON_STEPS = 400, 5, 1500


def sampled_by_annealing(
    run: Run,
    machine: NoiseConditionalMachine,
    train: ImageSet,
    held_out: ImageSet,
    *,
    samples: int,
    seed: int,
    part: Part,
) -> Sampled:
    """Samples of a `NoiseConditionalMachine` by annealed Langevin dynamics.

    Energy and virial are those of each level's own law, at the end of its steps, beside the
    energy of held-out images with that level's noise. Diagnostics are of the lowest level, at
    which the chains go on for a while; the samples themselves are not touched by that.

    Args:
        run: the run.
        machine: its machine.
        train: what it was trained on.
        held_out: what it was not.
        samples: number of chains.
        seed: of all noise.
        part: gives the progress callback of a part by its name.
    """
    recipe = run.recipe
    like = machine.variance
    u_train, u_held_out = (
        run.transform.forward(images.images.to(like)).detach() for images in (train, held_out)
    )
    seen = _Seen(machine, recipe, u_held_out, seed)
    clean = annealed_sample(
        machine, recipe, samples, seed, hold=seen.note, progress=part("sampling")
    )
    lowest = machine.at(machine.sigma_min)
    sampler = Langevin(recipe.level_step * machine.sigma_min**2)
    diagnostics = diagnostics_of(
        sample(lowest, seen.last, steps=DIAGNOSTIC_STEPS, sampler=sampler, seed=seed,
               first_step=recipe.sample_steps)
    )  # fmt: skip
    levels = noise_levels(machine, recipe.levels)
    return Sampled(
        visible=clean,
        by_class=_by_class(machine, recipe, seed),
        sampler=f"Annealed Langevin, {len(levels)} noise levels from {levels[0]:.3g} to "
        f"{levels[-1]:.3g}",
        diagnostics=diagnostics.summary(),
        trace=seen.trace(),
        energy_train=_noisy_energy(machine, u_train, machine.sigma_min, seed),
        energy_held_out=_noisy_energy(machine, u_held_out, machine.sigma_min, seed),
        walk=_walk(machine, recipe, seed, samples, most_varied(u_train)),
        couplings=machine.couplings(),
    )


@dataclass
class _Seen:
    """Energy and virial at the end of each level."""

    machine: NoiseConditionalMachine
    recipe: Recipe
    held_out: Tensor
    seed: int
    last: Tensor = field(default_factory=lambda: torch.empty(0))
    rows: list[tuple[float, ...]] = field(default_factory=list)

    def note(self, u: Tensor, sigma: float) -> Tensor:
        """Look at the states of a level and hand them back as they are."""
        self.last = u
        energy, force = self.machine.at(sigma).energy_and_force(u)
        per = energy.double() / self.machine.n
        ratio = virial(u, -leaves(force)[0], 1.0).double()
        count = math.sqrt(len(u))
        spread = [float(v.std()) if len(u) > 1 else 0.0 for v in (per, ratio)]
        real = _noisy_energy(self.machine, self.held_out, sigma, self.seed)
        self.rows.append(
            (float(per.mean()), spread[0], float(ratio.mean()), spread[1] / count, sigma, real)
        )
        return u

    def trace(self) -> Trace:
        """All levels as a trace."""
        total = self.recipe.sample_steps
        each = total // len(self.rows)
        steps = [*(each * (j + 1) for j in range(len(self.rows) - 1)), total]
        energy, spread, ratio, error, levels, real = zip(*self.rows, strict=True)
        return Trace(tuple(steps), energy, spread, ratio, error, levels, real)


def _noisy_energy(
    machine: NoiseConditionalMachine, clean: Tensor, sigma: float, seed: int
) -> float:
    """Mean E/K of data plus noise at a level."""
    n = normal(
        tuple(clean.shape), seed=seed, purpose=Purpose.PROBE, chains=len(clean), step=3,
        dtype=clean.dtype, device=clean.device,
    )  # fmt: skip
    with torch.no_grad():
        return float(machine.at(sigma).energy(clean + sigma * n).double().mean()) / machine.n


def _walk(
    machine: NoiseConditionalMachine, recipe: Recipe, seed: int, chain: int, neuron: int
) -> FollowedWalk:
    """One chain at the level half-way down (geometrically), its states cleaned by Tweedie."""
    sigma = math.sqrt(machine.sigma_min * machine.sigma_max)
    law = machine.at(sigma)
    start = machine.initial_state(1, seed, first_chain=chain)
    sampler = Langevin(recipe.level_step * sigma**2)
    walked = sample(
        law, start, steps=WALK_STATES * WALK_EVERY, sampler=sampler, seed=seed, keep=WALK_EVERY,
        first_chain=chain, diagnostics=False,
    )  # fmt: skip
    closely = sample(law, walked, steps=NEURON_STEPS, keep=1, diagnostics=False)
    kept, fine = (leaves(c.kept if c.kept is not None else c.z)[0] for c in (walked, closely))
    dt = recipe.level_step * sigma**2
    return FollowedWalk(
        steps=torch.arange(1, len(kept) + 1) * WALK_EVERY,
        states=law.posterior_mean(kept[:, 0]),
        neuron=neuron,
        neuron_times=torch.arange(1, len(fine) + 1) * dt,
        neuron_states=fine[:, 0, neuron].clone(),
        level=sigma,
    )


def _by_class(machine: NoiseConditionalMachine, recipe: Recipe, seed: int) -> Tensor | None:
    if not machine.labels:
        return None
    place = torch.arange(machine.labels).repeat_interleave(OF_EACH_CLASS)
    u = annealed_sample(machine, recipe, len(place), seed, labels=place)
    return u.reshape(machine.labels, OF_EACH_CLASS, -1)
