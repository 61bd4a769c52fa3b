"""Chains followed in time: traces from noise, one chain's walk, one neuron's activity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.results import Chains, Diagnostics
from driftwell.core.state import leaves
from driftwell.models.langevin.machine import StartedEnergy
from driftwell.sampling import Sampler, sample
from driftwell.sampling.statistics import virial

Progress = Callable[[int, int], None]

_PER_DECADE = 8
_LATE_STATES = 8
_WALK_STATES = 400
_NEURON_STEPS = 1500


@final
@dataclass(frozen=True)
class Trace:
    """Averages over chains at some steps, from noise on.

    Attributes:
        steps: Langevin steps done.
        energy: mean E/N over chains, energy units.
        energy_spread: standard deviation of E/N over chains.
        virial: mean of <x . grad E> / (N T) over chains; 1 at equilibrium.
        virial_error: its standard error.
        levels: noise level of each record, where sampling descends through levels.
        reference: mean E/N of held-out images with that level's noise.
    """

    steps: tuple[int, ...]
    energy: tuple[float, ...]
    energy_spread: tuple[float, ...]
    virial: tuple[float, ...]
    virial_error: tuple[float, ...]
    levels: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(values) for name, values in asdict(self).items()}


@final
@dataclass(frozen=True, eq=False)
class FollowedWalk:
    """One chain followed for a long time.

    Attributes:
        steps: Langevin steps done at each kept state, (K,) int64.
        states: the chain, (K, N).
        neuron: index of the neuron followed step by step.
        neuron_times: integration time of each of its values, (L,).
        neuron_states: x of that neuron, (L,).
        level: noise level the chain is at; 0 for a machine without levels.
    """

    steps: Tensor
    states: Tensor
    neuron: int
    neuron_times: Tensor
    neuron_states: Tensor
    level: float = 0.0


def traced_generation(
    machine: StartedEnergy,
    sampler: Sampler,
    *,
    steps: int,
    samples: int,
    seed: int,
    progress: Progress | None = None,
) -> tuple[Chains, Trace]:
    """Samples from noise, with what happened to them on the way.

    The chains are those of one uninterrupted run: stopping to look does not change them.
    Diagnostics are over the second half of the steps.

    Args:
        machine: the trained machine.
        sampler: the run's own.
        steps: Langevin steps from noise, at least 1.
        samples: number of chains.
        seed: of start states and noise.
        progress: called as progress(done, steps).

    Raises:
        Diverged: a chain left the finite numbers.
        InvalidInput: fewer than one step or chain.

    Example:
        >>> from driftwell.models.langevin import NeuralLangevinMachine
        >>> from driftwell.sampling import Langevin
        >>> machine = NeuralLangevinMachine(4, gain=0.5)
        >>> chains, trace = traced_generation(machine, Langevin(0.05), steps=200, samples=8, seed=0)
        >>> trace.steps[:4], trace.steps[-1]
        ((0, 1, 2, 3), 200)
    """
    if steps < 1 or samples < 1:
        raise InvalidInput(f"steps and samples must be at least 1, got {steps} and {samples}")
    z = machine.initial_state(samples, seed)
    T = _temperature(machine, sampler)
    rows = [_row(machine, z, 0, T)]
    chains: Tensor | Chains = z
    done = 0
    for mark in _marks(steps // 2):
        found = _go(machine, chains, sampler, mark - done, seed, False)
        chains, done = found, mark
        rows.append(_row(machine, _state(found), mark, T))
        if progress:
            progress(done, steps)
    left = steps - done
    every = max(1, left // _LATE_STATES)
    last = _go(
        machine, chains, sampler, left, seed, True, keep=every,
        progress=(lambda k, _: progress(done + k, steps)) if progress else None,
    )  # fmt: skip
    kept = last.kept if isinstance(last.kept, Tensor) else torch.empty(0)
    for k, states in enumerate(kept):
        if done + (k + 1) * every < steps:
            rows.append(_row(machine, states, done + (k + 1) * every, T))
    rows.append(_row(machine, _state(last), steps, T))
    step, *columns = zip(*rows, strict=True)
    return last, Trace(tuple(int(s) for s in step), *(tuple(c) for c in columns))


def followed_chain(
    machine: StartedEnergy,
    sampler: Sampler,
    *,
    steps: int,
    seed: int,
    chain: int,
    neuron: int,
    progress: Progress | None = None,
) -> FollowedWalk:
    """One chain from noise, kept at about 400 evenly spaced steps, then one neuron step by step.

    Args:
        machine: the trained machine.
        sampler: the run's own.
        steps: length of the walk.
        seed: of start state and noise.
        chain: id of the chain.
        neuron: which neuron is followed after the walk.
        progress: called as progress(done, steps).

    Raises:
        Diverged: the chain left the finite numbers.
        InvalidInput: fewer than two steps, or no such neuron.

    Example:
        >>> from driftwell.models.langevin import NeuralLangevinMachine
        >>> from driftwell.sampling import Langevin
        >>> machine = NeuralLangevinMachine(4, gain=0.5)
        >>> walk = followed_chain(machine, Langevin(0.05), steps=50, seed=0, chain=0, neuron=1)
        >>> walk.states.shape, walk.neuron_states.shape
        (torch.Size([50, 4]), torch.Size([1500]))
    """
    if steps < 2 or not 0 <= neuron < machine.n:
        raise InvalidInput(
            f"a walk needs two or more steps and a neuron in 0..{machine.n - 1}, "
            f"got {steps} steps and neuron {neuron}"
        )
    every = max(1, steps // _WALK_STATES)
    start = machine.initial_state(1, seed, first_chain=chain)
    walked = sample(
        machine, start, steps=steps, sampler=sampler, seed=seed, keep=every, first_chain=chain,
        diagnostics=False, progress=progress,
    )  # fmt: skip
    closely = sample(machine, walked, steps=_NEURON_STEPS, keep=1, diagnostics=False)
    kept, fine = walked.kept, closely.kept
    if not isinstance(kept, Tensor) or not isinstance(fine, Tensor):
        raise InvalidInput("the state of a machine is one tensor")
    dt = float(getattr(walked.state.sampler, "step_size"))  # noqa: B009
    return FollowedWalk(
        steps=torch.arange(1, len(kept) + 1) * every,
        states=kept[:, 0].clone(),
        neuron=neuron,
        neuron_times=torch.arange(1, len(fine) + 1) * dt,
        neuron_states=fine[:, 0, neuron].clone(),
    )


def diagnostics_of(chains: Chains) -> Diagnostics:
    """The diagnostics of chains that were sampled with them.

    Raises:
        InvalidInput: they were switched off.
    """
    if chains.diagnostics is None:
        raise InvalidInput("these chains have no diagnostics: sample with diagnostics=True")
    return chains.diagnostics


def _go(
    machine: StartedEnergy,
    start: Tensor | Chains,
    sampler: Sampler,
    steps: int,
    seed: int,
    diagnostics: bool,
    keep: int | None = None,
    progress: Progress | None = None,
) -> Chains:
    if isinstance(start, Chains):
        return sample(
            machine, start, steps=steps, keep=keep, diagnostics=diagnostics, progress=progress
        )
    return sample(
        machine, start, steps=steps, sampler=sampler, seed=seed, keep=keep,
        diagnostics=diagnostics, progress=progress,
    )  # fmt: skip


def _marks(last: int) -> list[int]:
    """Steps to look at up to `last`, evenly spaced in their logarithm."""
    marks: list[int] = []
    k = 0
    while (step := round(10 ** (k / _PER_DECADE))) <= last:
        if not marks or step > marks[-1]:
            marks.append(step)
        k += 1
    return marks


def _row(machine: StartedEnergy, z: Tensor, step: int, T: float) -> tuple[float, ...]:
    energy, force = machine.energy_and_force(z)
    per_neuron = energy.double() / machine.n
    if not isinstance(force, Tensor) or T <= 0.0:
        ratio = torch.full_like(per_neuron, float("nan"))
    else:
        ratio = virial(z, -force, T).double()
    return step, float(per_neuron.mean()), _sd(per_neuron), float(ratio.mean()), _error(ratio)


def _temperature(machine: StartedEnergy, sampler: Sampler) -> float:
    return machine.temperature if sampler.temperature is None else float(sampler.temperature)


def _sd(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else 0.0


def _error(values: Tensor) -> float:
    return _sd(values) / math.sqrt(len(values))


def _state(chains: Chains) -> Tensor:
    return leaves(chains.z)[0]
