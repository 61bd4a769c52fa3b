"""Claims on samplers: exact moments of two neurons, energy and virial of a trained machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from driftwell.claims.langevin.digit_machines import (
    card_machine,
    chain_mean,
    energy_of,
    run_chains,
    virial_of,
)
from driftwell.claims.registry import Outcome, claim
from driftwell.models.langevin import NLM, NeuralLangevinMachine
from driftwell.sampling import MALA, Langevin, Sampler, UnadjustedLangevin

# Integration time of a run on the trained machine: the standard error of E is then 0.3 %.
TIME = 160.0
# A comparison that is right fails once in 150,000; a run makes at most twelve.
_SIGMAS = 4.5


def _two_neurons() -> NeuralLangevinMachine:
    """The card's machine of two neurons, T = 0.5."""
    machine = NeuralLangevinMachine(2, temperature=0.5, gain=0.0)
    with torch.no_grad():
        machine.J.copy_(torch.tensor([[0.0, 2.2], [-1.4, 0.0]]))
        machine.b.copy_(torch.tensor([0.3, -0.2]))
    return machine


def _observables(machine: NeuralLangevinMachine, kept: Tensor) -> dict[str, Tensor]:
    """Records (K, B) of x_i, x_i^2, E and the virial."""
    return {
        "x1": kept[..., 0],
        "x2": kept[..., 1],
        "x1^2": kept[..., 0].square(),
        "x2^2": kept[..., 1].square(),
        "E": energy_of(machine, kept),
        "virial": virial_of(machine, kept),
    }


def _quadrature(machine: NeuralLangevinMachine) -> dict[str, float]:
    """The same by quadrature; beyond |x| = 9 the weight is below exp(-30)."""
    axis = torch.linspace(-9.0, 9.0, 1501)
    x = torch.cartesian_prod(axis, axis)[None]
    found = _observables(machine, x)
    weight = torch.softmax(-found["E"].double() / machine.temperature, dim=1)
    return {name: float((weight * values.double()).sum()) for name, values in found.items()}


@lru_cache(maxsize=8)
def _two_neuron_scores(sampler: Sampler, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Means, and deviations from quadrature in standard errors."""
    machine = _two_neurons()
    start = machine.initial_state(4096, seed)
    kept = run_chains(machine, start, sampler, steps=4000, warmup=400, keep=20, seed=seed)
    exact = _quadrature(machine)
    means, deviations = {}, {}
    for name, values in _observables(machine, kept).items():
        mean, error = chain_mean(values)
        means[name], deviations[name] = mean, (mean - exact[name]) / error
    return means, deviations


def _judge_two_neurons(long: Sampler, adjusted: Sampler, seed: int) -> Outcome:
    measured, worst = {"E exact": _quadrature(_two_neurons())["E"]}, 0.0
    for word, sampler in (("LM", long), ("MALA", adjusted)):
        means, deviations = _two_neuron_scores(sampler, seed)
        measured |= {f"E {word}": means["E"], f"virial {word}": means["virial"]}
        measured[f"deviation {word}"] = max(abs(d) for d in deviations.values())
        worst = max(worst, measured[f"deviation {word}"])
    return Outcome(
        holds=worst <= _SIGMAS,
        measured=measured,
        bound=f"every mean of x, x^2, E, virial within {_SIGMAS} standard errors of quadrature",
    )


def _unadjusted_as_long(seed: int) -> Outcome:
    return _judge_two_neurons(UnadjustedLangevin(0.02), MALA(0.1), seed)


@claim(
    id="nlm-sampler-exactness",
    paper=NLM,
    states="Langevin dynamics samples exp(-E/T): two neurons against quadrature "
    "(LM at dt 0.02, MALA at dt 0.1)",
    stated="card: quadrature <E> 0.6268; Euler at dt 0.02 gives 0.647, at 0.1 0.746; LM 0.6275 at "
    "dt 0.1, MALA 0.6269",
    cpu_minutes=0.2,
    control=_unadjusted_as_long,
    control_is="the paper's Euler scheme in place of LM at the same dt",
    fast=True,
)
def sampler_exactness(seed: int) -> Outcome:
    """Two neurons against quadrature."""
    return _judge_two_neurons(Langevin(0.02), MALA(0.1), seed)


@dataclass(frozen=True)
class _Thermometer:
    energy: float
    energy_error: float
    virial: float


@lru_cache(maxsize=8)
def _thermometer(sampler: Sampler, time: float, seed: int) -> _Thermometer:
    """Energy per neuron and virial of the card's machine over `time`, after a tenth of it."""
    made = card_machine(seed)
    dt = float(getattr(sampler, "step_size", 0.01))
    steps, keep = round(time / dt), max(1, round(0.1 / dt))
    machine, warmup = made.machine, steps // 10
    kept = run_chains(machine, made.chains, sampler, steps, warmup, keep, seed + 1)
    energy, error = chain_mean(energy_of(machine, kept))
    virial, _ = chain_mean(virial_of(machine, kept))
    return _Thermometer(energy / machine.n, error / machine.n, virial)


def _judge_virial(long: Sampler, seed: int) -> Outcome:
    exact = _thermometer(MALA(0.01), TIME, seed)
    ours = _thermometer(long, TIME, seed)
    paper = _thermometer(UnadjustedLangevin(0.05), TIME, seed)
    bias, paper_bias = ours.energy / exact.energy - 1, paper.energy / exact.energy - 1
    return Outcome(
        holds=abs(bias) < 0.01 and paper_bias > 0.04 and abs(ours.virial - 1) < 0.02,
        measured={
            "E/N MALA": exact.energy,
            "standard error": math.hypot(exact.energy_error, ours.energy_error),
            "E/N LM": ours.energy,
            "E/N Euler": paper.energy,
            "bias LM": bias,
            "bias Euler": paper_bias,
            "virial MALA": exact.virial,
            "virial LM": ours.virial,
            "virial Euler": paper.virial,
        },
        bound="LM at dt 0.05: |E / E_MALA - 1| < 0.01 and |virial - 1| < 0.02; "
        "Euler at dt 0.05: E / E_MALA - 1 > 0.04",
    )


def _euler_as_long(seed: int) -> Outcome:
    return _judge_virial(UnadjustedLangevin(0.05), seed)


@claim(
    id="nlm-virial",
    paper=NLM,
    states="at five times the paper's step LM keeps energy and virial of a trained machine, "
    "the paper's Euler scheme does not",
    stated="card: E/N 0.508 MALA, 0.507 LM(0.05), 0.542 Euler(0.05); virial 1.00 LM, 1.07 Euler",
    cpu_minutes=0.4,
    control=_euler_as_long,
    control_is="the Euler scheme judged as if it were LM",
    fast=True,
)
def virial(seed: int) -> Outcome:
    """Energy and virial of a trained machine under three samplers."""
    return _judge_virial(Langevin(0.05), seed)
