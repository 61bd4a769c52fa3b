"""In-painting and denoising with a noise-conditional machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from driftwell.core.noise import Purpose, normal
from driftwell.data import Whitening
from driftwell.models.langevin.annealing import annealed_sample, noise_levels
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe

Progress = Callable[[int, int], None]
LEVELS_TRIED = 48


def inpaint(
    machine: NoiseConditionalMachine,
    recipe: Recipe,
    transform: Whitening,
    images: Tensor,
    mask: Tensor,
    seed: int,
    *,
    labels: Tensor | None = None,
    steps: int | None = None,
    first_chain: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Images whose known pixels are kept and whose others are sampled given them.

    The replacement method of Song and Ermon, 2019, arXiv:1907.05600: after each noise level the
    known pixels are put back with that level's noise. An approximation of the conditional law,
    exact in the limit of many steps at the lowest level only for independent pixels.

    Args:
        machine: the trained machine.
        recipe: gives levels and steps.
        transform: between images and states.
        images: in [0, 1], (n, d); only their known pixels are used.
        mask: bool (d,), True where a pixel is known.
        seed: of start states and noise.
        labels: class index of each image; None draws them.
        steps: total number of steps instead of the recipe's.
        first_chain: id of the first chain.
        progress: called as progress(done, steps).

    Returns:
        Images (n, d) in [0, 1], with the known pixels as given.
    """
    count, axes = len(images), transform.components
    ids = torch.arange(first_chain, first_chain + count, device=images.device)
    x = 2.0 * images - 1.0
    unit = normal(
        tuple(x.shape), seed=seed, purpose=Purpose.PROBE, chains=ids, step=0, dtype=x.dtype
    )

    def hold(u: Tensor, sigma: float) -> Tensor:
        pixels = transform.mean + u @ axes
        return (torch.where(mask, x + sigma * unit, pixels) - transform.mean) @ axes.T

    clean = annealed_sample(
        machine, recipe, count, seed, labels=labels, steps=steps, first_chain=first_chain,
        hold=hold, progress=progress,
    )  # fmt: skip
    return torch.where(mask, images, transform.inverse(clean))


def denoise_images(
    machine: NoiseConditionalMachine, transform: Whitening, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Posterior means of noisy images, and the noise level found in each.

    The level is the one of greatest likelihood under the machine's residual law,
    argmin_sigma E(u | sigma) + 1/2 sum_k log(lambda_k + sigma^2), on a grid from sigma_min to
    sigma_max; the estimate is Tweedie's u + sigma^2 F(u) at that level.

    Args:
        machine: the trained machine.
        transform: between images and states.
        images: in [0, 1], (n, d).

    Returns:
        Images (n, d) in [0, 1], and sigma (n,) in units of 2p - 1.
    """
    u = transform.forward(images)
    levels = torch.tensor(noise_levels(machine, LEVELS_TRIED), dtype=u.dtype, device=u.device)
    cost = []
    for sigma in levels.tolist():
        energy = machine.energy_and_force(u, machine.condition(len(u), sigma))[0]
        cost.append(energy + 0.5 * (machine.variance + sigma**2).log().sum())
    sigma = levels[torch.stack(cost).argmin(dim=0)]
    _, silent = machine.condition(len(u), 1.0)
    return transform.inverse(machine.posterior_mean(u, (sigma, silent))), sigma
