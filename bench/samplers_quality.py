"""Samplers at equal quality: bias, and effective samples a second, on a trained machine, N = 64.

E/N against the Metropolis-adjusted sampler, which has no bias; the virial, 1 at equilibrium;
and effective samples a second of E and of the three leading principal components.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from small_machines import digits_machine
from timing import (
    Goal,
    Timing,
    Variant,
    at_most,
    duration,
    interleave,
    options,
    say_goals,
    say_machine,
    table,
    write_results,
)  # fmt: skip
from torch import Tensor

import driftwell as dw
from driftwell.models.langevin import NeuralLangevinMachine
from driftwell.sampling import Sampler
from driftwell.sampling.statistics import effective_sample_size, virial

CHAINS, SPACING, TIME = 256, 0.3, 240.0  # between kept states and in all, in integration time
REFERENCE = "MALA dt .01"
SAMPLERS: dict[str, Sampler] = {
    REFERENCE: dw.MALA(0.01),
    "MALA dt .05": dw.MALA(0.05),
    "unadjusted dt .01": dw.UnadjustedLangevin(0.01),
    "unadjusted dt .03": dw.UnadjustedLangevin(0.03),
    "unadjusted dt .05": dw.UnadjustedLangevin(0.05),
    "Leimkuhler-Matthews dt .01": dw.Langevin(0.01),
    "Leimkuhler-Matthews dt .03": dw.Langevin(0.03),
    "Leimkuhler-Matthews dt .05": dw.Langevin(0.05),
}


@dataclass(frozen=True)
class Quality:
    """What the chains of one sampler say.

    Attributes:
        energy: mean E/N.
        energy_error: its standard error, from the effective sample size.
        virial: mean of z . grad E / N over states.
        virial_error: its standard error over chains.
        ess_energy: effective samples of E, of `CHAINS` chains over `TIME`.
        ess_components: the least of those of the three leading components.
        steps: that this took, of each chain.
    """

    energy: float
    energy_error: float
    virial: float
    virial_error: float
    ess_energy: float
    ess_components: float
    steps: int


def main(given: list[str] | None = None) -> int:
    chosen = options(__doc__, given=given)
    say_machine()
    small = digits_machine(20 if chosen.quick else 300)
    machine, time = small.machine, (12.0 if chosen.quick else TIME)
    start = _settled(machine)
    axes = torch.linalg.svd(start - start.mean(0), full_matrices=False).Vh[:3]
    quality = {
        name: _measure(machine, sampler, start, axes, time) for name, sampler in SAMPLERS.items()
    }
    variants = [_timed(machine, name, sampler, start) for name, sampler in SAMPLERS.items()]
    timings = interleave(variants, seconds=duration(chosen, 12.0, 0.2), least=3)
    rows = _rows(quality, timings)
    title = f"{small.name}, N = {machine.n}, {CHAINS} chains, {time:g} units of time each, T = 1"
    print(table(title, _HEAD, rows))
    goals = _goals(quality)
    say_goals(goals)
    measured = {"columns": _HEAD, "rows": rows, "chains": CHAINS, "integration_time": time}
    write_results("samplers_quality", measured, goals)
    return 0


def _settled(machine: NeuralLangevinMachine) -> Tensor:
    """States near equilibrium, from which all samplers start."""
    chains = dw.sample(
        machine, machine.initial_state(CHAINS, seed=3), steps=4000, sampler=dw.Langevin(0.05),
        seed=3, diagnostics=False,
    )  # fmt: skip
    assert isinstance(chains.z, Tensor)
    return chains.z


def _measure(
    machine: NeuralLangevinMachine, sampler: Sampler, start: Tensor, axes: Tensor, time: float
) -> Quality:
    every = round(SPACING / _step_size(sampler))
    steps = round(time / SPACING) * every
    chains = dw.sample(
        machine, start, steps=steps, sampler=sampler, seed=4, keep=every, warmup=steps // 6,
        diagnostics=False,
    )  # fmt: skip
    kept = chains.kept
    assert isinstance(kept, Tensor)
    energy, force = machine.energy_and_force(kept.flatten(0, 1))
    trace = energy.reshape(kept.shape[:2])
    work = virial(kept.flatten(0, 1), -force, 1.0).reshape(kept.shape[:2])
    ess = float(effective_sample_size(trace))
    return Quality(
        energy=float(trace.double().mean()) / machine.n,
        energy_error=float(trace.double().std()) / math.sqrt(ess) / machine.n,
        virial=float(work.double().mean()),
        virial_error=float(work.double().mean(0).std()) / math.sqrt(CHAINS),
        ess_energy=ess,
        ess_components=float(effective_sample_size(kept @ axes.T).min()),
        steps=len(kept) * every,
    )


def _timed(machine: NeuralLangevinMachine, name: str, sampler: Sampler, start: Tensor) -> Variant:
    steps = 100
    return Variant(
        name,
        lambda: dw.sample(machine, start, steps=steps, sampler=sampler, seed=5, diagnostics=False),
        steps,
    )


_HEAD = ["", "E/N", "error", "E/N off by %", "virial", "error", "us/step", "ESS/s of E",
         "ESS/s of 3 PCs"]  # fmt: skip


def _rows(quality: dict[str, Quality], timings: dict[str, Timing]) -> list[list[float | str]]:
    rows: list[list[float | str]] = []
    for name, q in quality.items():
        each = timings[name].median
        seconds = q.steps * each
        rows.append(
            [name, q.energy, q.energy_error, 100.0 * _off(quality, name), q.virial, q.virial_error,
             1e6 * each, q.ess_energy / seconds, q.ess_components / seconds]
        )  # fmt: skip
    return rows


def _goals(quality: dict[str, Quality]) -> list[Goal]:
    """Card 1.6: Leimkuhler-Matthews at dt .05 is less biased than the Euler scheme at .01."""
    lm, euler = (
        abs(_off(quality, name)) for name in ("Leimkuhler-Matthews dt .05", "unadjusted dt .01")
    )
    return [
        at_most("Leimkuhler-Matthews at dt .05: E/N off by < 1 %, in %", 100.0 * lm, 1.0),
        at_most("its error over that of the Euler scheme at dt .01", lm / max(euler, 1e-12), 1.0),
    ]


def _off(quality: dict[str, Quality], name: str) -> float:
    return quality[name].energy / quality[REFERENCE].energy - 1.0


def _step_size(sampler: Sampler) -> float:
    step = getattr(sampler, "step_size", None)
    if step is None:
        raise ValueError(f"{sampler} needs a step size here")
    return float(step)


if __name__ == "__main__":
    sys.exit(main())
