"""Annealed Langevin sampling of a noise-conditional machine, from noise to clean data."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.state import leaves
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.sampling import Langevin, sample

Progress = Callable[[int, int], None]
Hold = Callable[[Tensor, float], Tensor]


def noise_levels(machine: NoiseConditionalMachine, count: int) -> list[float]:
    """`count` noise levels from sigma_max down to sigma_min, in geometric progression."""
    if count < 1:
        raise InvalidInput(f"annealing needs at least one noise level, got {count}")
    if count == 1:
        return [machine.sigma_min]
    ratio = machine.sigma_min / machine.sigma_max
    return [machine.sigma_max * ratio ** (j / (count - 1)) for j in range(count)]


def annealed_sample(
    machine: NoiseConditionalMachine,
    recipe: Recipe,
    count: int,
    seed: int,
    *,
    labels: Tensor | None = None,
    steps: int | None = None,
    first_chain: int = 0,
    start: Tensor | None = None,
    start_sigma: float | None = None,
    hold: Hold | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Annealed Langevin dynamics, from Song and Ermon, *Generative modeling by estimating
    gradients of the data distribution*, 2019, arXiv:1907.05600, ended by Tweedie's jump.

    From u ~ N(0, lambda + sigma_max^2), Leimkuhler-Matthews steps of dt = level_step * sigma^2 at
    each level from high to low, then u + sigma_min^2 F(u), the posterior mean of the clean datum.

    Args:
        machine: the trained machine.
        recipe: gives levels, level_step and sample_steps (shared evenly among the levels).
        count: number of chains.
        seed: of start states and noise.
        labels: class index of each chain, -1 for silent label neurons; None draws them with the
            training set's frequencies.
        steps: total number of steps instead of the recipe's.
        first_chain: id of the first chain.
        start: states to start from instead of noise, (count, K), at noise level `start_sigma`.
        start_sigma: levels above it are left out.
        hold: called as hold(u, sigma) after each level, to put known parts back.
        progress: called as progress(done, steps).

    Returns:
        Clean data in the machine's coordinates, (count, K).

    Raises:
        InvalidInput: count < 1, or fewer steps than levels.
    """
    if count < 1:
        raise InvalidInput(f"the number of samples must be at least 1, got {count}")
    labels = machine.draw_labels(count, seed, first_chain) if labels is None else labels
    levels = noise_levels(machine, recipe.levels)
    per_level, spare = divmod(recipe.sample_steps if steps is None else steps, len(levels))
    if per_level < 1:
        raise InvalidInput(
            f"annealing needs a step at each of its {len(levels)} noise levels, got {steps} steps"
        )
    u = machine.initial_state(count, seed, first_chain) if start is None else start
    total, done = per_level * len(levels) + spare, 0
    for j, sigma in enumerate(levels):
        if start_sigma is not None and sigma > start_sigma:
            continue
        each = per_level + (spare if j == len(levels) - 1 else 0)
        chains = sample(
            machine, u, machine.condition(count, sigma, labels), steps=each,
            sampler=Langevin(recipe.level_step * sigma**2), seed=seed, first_chain=first_chain,
            first_step=j * per_level, diagnostics=False,
        )  # fmt: skip
        u = leaves(chains.z)[0]
        u = hold(u, sigma) if hold else u
        done += each
        if progress:
            progress(done, total)
    return machine.posterior_mean(u, machine.condition(count, levels[-1], labels))
