"""What a trained machine generates, and how the chains behave that generate it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from driftwell.core.state import leaves
from driftwell.data import ImageSet, Transform
from driftwell.models.langevin.generation import generate
from driftwell.models.langevin.machine import NeuralLangevinMachine, StartedEnergy
from driftwell.models.langevin.monitor import ChainGap, chain_gap
from driftwell.models.langevin.trainer import label_code
from driftwell.report.likelihood import Likelihood, held_out_likelihood
from driftwell.report.trajectories import (
    FollowedWalk,
    Progress,
    Trace,
    diagnostics_of,
    followed_chain,
    traced_generation,
)
from driftwell.training.run import Run

Part = Callable[[str], Progress | None]

OF_EACH_CLASS = 16
GAP_CHAINS = 500
WALK_STEPS = (4_000, 20_000)


@final
@dataclass(frozen=True, eq=False)
class Sampled:
    """Samples of a run with all that is known about their chains.

    Attributes:
        visible: generated visible states, (n, visible).
        by_class: visible states with each class's label held, (classes, n, visible), or None.
        sampler: in words.
        diagnostics: of the chains.
        trace: from noise on.
        energy_train: mean E/N of training images, NaN where images have no energy of their own.
        energy_held_out: of held-out images.
        walk: one chain, its visible part.
        couplings: J, (N, N).
        likelihood: of held-out images, or None.
        gap: persistent against fresh chains, or None.
    """

    visible: Tensor
    by_class: Tensor | None
    sampler: str
    diagnostics: dict[str, float | str]
    trace: Trace
    energy_train: float
    energy_held_out: float
    walk: FollowedWalk
    couplings: Tensor
    likelihood: Likelihood | None = None
    gap: ChainGap | None = None


def sampled_from_noise(
    run: Run,
    machine: NeuralLangevinMachine,
    train: ImageSet,
    held_out: ImageSet,
    *,
    samples: int,
    seed: int,
    likelihood_limit: int,
    part: Part,
) -> Sampled:
    """Samples of a `NeuralLangevinMachine` by the run's own sampler.

    Args:
        run: the run.
        machine: its machine.
        train: what it was trained on.
        held_out: what it was not.
        samples: number of chains.
        seed: of all noise.
        likelihood_limit: largest N for which log Z is estimated.
        part: gives the progress callback of a part by its name.
    """
    recipe, layout = run.recipe, run.layout
    law = run.quantized if isinstance(run.quantized, StartedEnergy) else machine
    chains, trace = traced_generation(
        law, recipe.make_sampler(), steps=recipe.sample_steps, samples=samples, seed=seed,
        progress=part("sampling"),
    )  # fmt: skip
    x_train, x_held_out = (run.states(images)[:, : layout.known] for images in (train, held_out))
    likelihood = None
    if machine.n <= likelihood_limit and not layout.hidden:
        likelihood = held_out_likelihood(
            machine, x_train, x_held_out, seed=seed, progress=part("likelihood")
        )
    sampler = chains.state.sampler
    low, high = WALK_STEPS
    walk = followed_chain(
        machine, sampler, steps=min(max(low, 4 * recipe.sample_steps), high), seed=seed,
        chain=samples, neuron=most_varied(x_train[:, : layout.visible]), progress=part("walk"),
    )  # fmt: skip
    return Sampled(
        visible=leaves(chains.z)[0][:, : layout.visible],
        by_class=_by_class(run, machine, seed),
        sampler=f"{type(sampler).__name__}, step size {sampler.step_size:.4g}",
        diagnostics=diagnostics_of(chains).summary(),
        trace=trace,
        energy_train=_energy(machine, x_train),
        energy_held_out=_energy(machine, x_held_out),
        walk=replace(walk, states=walk.states[:, : layout.visible]),
        couplings=machine.J.detach(),
        likelihood=likelihood,
        gap=_gap(run, machine, seed),
    )


def image_space(transform: Transform, images: Tensor) -> Tensor:
    """Real images in [-1, 1] as generated ones come: clipped by the run's scaling.

    Where the machine sees a projection (principal components) the images are not projected, so
    that what the projection loses counts against the machine.

    Args:
        transform: of the run.
        images: in [0, 1], (n, height, width).
    """
    scaling: Transform = getattr(transform, "scaling", transform)
    return scaling.to_symmetric(scaling.forward(images))


def most_varied(states: Tensor) -> int:
    """The coordinate that varies most over the data."""
    return int(states.var(0, correction=0).argmax())


def _energy(machine: NeuralLangevinMachine, states: Tensor) -> float:
    if states.shape[1] != machine.n:  # no image fixes the hidden neurons
        return math.nan
    with torch.no_grad():
        return float(machine.energy(states).double().mean()) / machine.n


def _gap(run: Run, machine: NeuralLangevinMachine, seed: int) -> ChainGap | None:
    persistent = run.tensors.get("chains")
    if run.recipe.free_phase != "pcd" or persistent is None or len(persistent) < 4:
        return None
    some = persistent[:GAP_CHAINS].to(machine.J)
    return chain_gap(machine, run.recipe, some, seed, run.update)


def _by_class(run: Run, machine: NeuralLangevinMachine, seed: int) -> Tensor | None:
    layout = run.layout
    if not layout.labels:
        return None
    place = torch.arange(layout.labels).repeat_interleave(OF_EACH_CLASS)
    known = torch.zeros(len(place), layout.n)
    known[:, layout.visible : layout.known] = label_code(
        place, run.recipe.label_scale, layout.labels
    )
    mask = torch.zeros(layout.n, dtype=torch.bool)
    mask[layout.visible : layout.known] = True
    z = generate(
        machine, run.recipe, len(place), seed, known=known.to(machine.J),
        mask=mask.to(machine.J.device),
    )  # fmt: skip
    return z[:, : layout.visible].reshape(layout.labels, OF_EACH_CLASS, -1)
