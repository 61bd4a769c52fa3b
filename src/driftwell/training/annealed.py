"""Wishes to a noise-conditional machine: one class, in-painting and denoising by annealing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.data import Whitening
from driftwell.models.langevin.annealing import annealed_sample, noise_levels
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.training.run import Run

Progress = Callable[[int, int], None]


def annealed_portion(
    run: Run,
    first: int,
    size: int,
    seed: int,
    *,
    steps: int | None = None,
    label: int | None = None,
    known: Tensor | None = None,
    kept: Tensor | None = None,
    noisy: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """States (size, K) of chains first..first+size-1 by annealed Langevin dynamics.

    Args:
        run: of a machine trained by denoising.
        first: id of the first chain.
        size: number of chains.
        seed: of start states and noise.
        steps: Langevin steps instead of the recipe's.
        label: place of the class among the learned ones; None draws them.
        known: images (size, height, width) in [0, 1] of which the part `kept` is held.
        kept: (height * width,) bool.
        noisy: images (size, height, width) to start from instead of noise.
        progress: called as progress(done, steps).

    Raises:
        InvalidInput: in-painting with a transform that is not linear in the pixels.
    """
    machine = run.machine
    if not isinstance(machine, NoiseConditionalMachine):
        raise InvalidInput(f"{run.path} was not trained by denoising, so it has no noise levels")
    labels = None if label is None else torch.full((size,), label)
    start, sigma = None, None
    if noisy is not None:
        start = run.transform.forward(noisy.to(machine.variance)).detach()
        sigma = noise_level_of(machine, start, noise_levels(machine, run.recipe.levels))
        labels = torch.full((size,), -1)  # of an unknown class
    hold = None
    if known is not None and kept is not None:
        hold = _Hold(run, known, kept, first, seed)
    return annealed_sample(
        machine, run.recipe, size, seed, labels=labels, steps=steps, first_chain=first,
        start=start, start_sigma=sigma, hold=hold, progress=progress,
    )  # fmt: skip


def noise_level_of(machine: NoiseConditionalMachine, u: Tensor, levels: list[float]) -> float:
    """The level at which 2 <E> / K is nearest to 1, as it is for data of that level.

    Args:
        machine: the machine.
        u: noisy states (B, K), all taken to have the same level.
        levels: from high to low.
    """
    with torch.no_grad():
        means = [
            float(machine.energy(u, machine.condition(len(u), sigma)).mean()) for sigma in levels
        ]
    gaps = [abs(2.0 * mean / machine.n - 1.0) for mean in means]
    return levels[gaps.index(min(gaps))]


class _Hold:
    """Puts known pixels back after each level, with that level's noise on them."""

    def __init__(self, run: Run, known: Tensor, kept: Tensor, first: int, seed: int) -> None:
        transform = run.transform
        if not isinstance(transform, Whitening):
            raise InvalidInput(
                f"in-painting needs the scaling components, {run.path} has {run.recipe.scaling}"
            )
        self.transform, self.seed, self.level = transform, seed, 0
        self.kept = kept.to(transform.mean.device)
        self.known = transform.scaling.forward(known.to(transform.mean))
        self.ids = torch.arange(first, first + len(known), device=transform.mean.device)

    def __call__(self, u: Tensor, sigma: float) -> Tensor:
        t = self.transform
        noise = normal(
            tuple(self.known.shape), seed=self.seed, purpose=Purpose.PROBE, chains=self.ids,
            step=self.level, dtype=u.dtype,
        )  # fmt: skip
        self.level += 1
        pixels = t.mean + (u * t.scales) @ t.components
        pixels = torch.where(self.kept, self.known + sigma * noise, pixels)
        return (pixels - t.mean) @ t.components.T / t.scales
