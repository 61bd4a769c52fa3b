"""A Langevin step with both products in 8-bit integers against float ones, and what bits cost.

Steps: N = 784, 256 chains, variants in turn within one run; ratios are of best times. Quality: a
contrastive machine of the bundled digits 1, 3, 6 (virial, energy, AAI, E2 of its chains), and the
machine of the `default` preset (AAI and E2 of its images).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timing import (
    Goal,
    Timing,
    Variant,
    at_least,
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

from driftwell.claims.langevin.digit_machines import (
    CARD_CLASSES,
    card_recipe,
    chain_mean,
    digits,
    energy_of,
    trained,
    virial_of,
)
from driftwell.data import load
from driftwell.dynamics import Energy, OverdampedPlan
from driftwell.measures import aai, covariance_error
from driftwell.models.langevin import NeuralLangevinMachine
from driftwell.models.langevin.annealing import annealed_sample
from driftwell.models.langevin.generation import build_transform
from driftwell.models.langevin.kernels import langevin_steps
from driftwell.models.langevin.kinds import make_trainer
from driftwell.models.langevin.presets import preset
from driftwell.quantization.formats import Uniform
from driftwell.quantization.langevin import QuantizedLangevinMachine, quantize_langevin
from driftwell.sampling import Langevin, sample

N, CHAINS, STEP_SIZE, BLOCK = 784, 256, 0.01, 10
BITS = (8, 6, 5, 4, 3, 2)
FLOAT, EAGER, MEDIUM = "float32 compiled", "float32 eager", "float32 eager, medium"
HALF, BYTES, NIBBLES = "bfloat16 compiled", "int8", "int8, J kept in 4 bits"
PAIR = "the two products alone, torch._int_mm"


def main(given: list[str] | None = None) -> int:
    chosen = options(__doc__, given=given)
    say_machine()
    steps = _step_times(duration(chosen, 20.0, 0.5), least=1 if chosen.quick else 9)
    print(table(f"N = {N}, {CHAINS} chains", ["", "ms/step best", "median", "x int8"], [
        [name, 1e3 * t.best, 1e3 * t.median, t.best / steps[BYTES].best]
        for name, t in steps.items()
    ]), end="\n\n", flush=True)  # fmt: skip
    contrastive = _contrastive(chosen.quick)
    _say("contrastive machine of digits 1, 3, 6 (64 neurons)", contrastive)
    annealed = _annealed(chosen.quick)
    _say("machine of the default preset, all digits", annealed)
    goals = _goals(steps, contrastive, annealed)
    say_goals(goals)
    write_results("quantized_langevin", {
        "milliseconds_per_step": {
            name: {"best": 1e3 * t.best, "median": 1e3 * t.median, "repeats": t.repeats}
            for name, t in steps.items()
        },
        "contrastive": {str(row.bits): vars(row) for row in contrastive},
        "default": {str(row.bits): vars(row) for row in annealed},
    }, goals)  # fmt: skip
    return 0


# ---------------------------------------------------------------- steps


def _step_times(seconds: float, least: int) -> dict[str, Timing]:
    machine = NeuralLangevinMachine(N, seed=0)
    x, J, b = machine.initial_state(CHAINS, seed=1), machine.J.detach(), machine.b.detach()
    plan: dict[str, Any] = {
        "steps": BLOCK, "step_size": STEP_SIZE, "temperature": 1.0, "seed": 1, "first_step": 0,
        "chains": CHAINS,
    }  # fmt: skip

    def plain(**more: Any) -> Callable[[], Any]:
        return lambda: langevin_steps(x, J, b, **plan, **more)

    def quantized(bits: int) -> Callable[[], Any]:
        packed = Uniform(bits, symmetric=True).encode(machine.J).pack()
        law = QuantizedLangevinMachine(packed, machine.b)
        about = OverdampedPlan("lm", STEP_SIZE, 1.0, 1, torch.arange(CHAINS), 0, BLOCK)
        return lambda: law.overdamped_steps(x, None, about)

    codes = torch.full((CHAINS, N), 100, dtype=torch.int8)
    Q = torch.full((N, N), 7, dtype=torch.int8)

    def pair() -> None:
        for _ in range(2 * BLOCK):
            torch._int_mm(codes, Q.T)

    return interleave([
        Variant(EAGER, plain(backend="eager"), BLOCK),
        Variant(MEDIUM, plain(backend="eager"), BLOCK, precision="medium"),
        Variant(FLOAT, plain(), BLOCK), Variant(HALF, plain(matmul="bfloat16"), BLOCK),
        Variant(BYTES, quantized(8), BLOCK), Variant(NIBBLES, quantized(4), BLOCK),
        Variant(PAIR, pair, BLOCK),
    ], seconds=seconds, least=least)  # fmt: skip


# ---------------------------------------------------------------- quality


@dataclass(frozen=True)
class _Row:
    """One width; 32 bits are the float machine."""

    bits: int
    force_error: float
    bytes: int
    aai: float
    aai_error: float
    e2: float
    e2_error: float
    virial: float = math.nan
    energy: float = math.nan


def _contrastive(quick: bool) -> list[_Row]:
    """Chains from noise; virial and energy are those of the float machine on these chains."""
    machine = trained(card_recipe(2e-3, 20 if quick else 300), CARD_CLASSES, 270, 0).machine
    real = digits(CARD_CLASSES, 0, 0).held_out.tanh()
    rows = []
    for bits in (32, *BITS):
        law, error, size = _law(machine, bits)
        count, steps = (300, 100) if quick else (1000, 3000)
        chains = sample(
            law, machine.initial_state(count, 1), steps=steps, sampler=Langevin(0.05), seed=1,
            warmup=steps // 2, keep=20, diagnostics=False,
        )  # fmt: skip
        kept = chains.kept
        if not isinstance(kept, Tensor):
            raise RuntimeError("chains keep one tensor")
        rows.append(_Row(
            bits, error, size, *_likeness(real, kept[-1].tanh()),
            chain_mean(virial_of(machine, kept))[0],
            chain_mean(energy_of(machine, kept))[0] / machine.n,
        ))  # fmt: skip
    return rows


def _law(machine: NeuralLangevinMachine, bits: int) -> tuple[Energy, float, int]:
    if bits == 32:
        return machine, 0.0, 4 * machine.J.numel()
    made = quantize_langevin(machine, bits)
    return made.machine, made.force_error, sum(each.nbytes for each in made.couplings)


def _annealed(quick: bool) -> list[_Row]:
    """Images of the machine that `driftwell train nlm --data digits` trains."""
    recipe, data = preset("default"), load("digits", "train")
    transform = build_transform(recipe, data.images)
    states = transform.forward(data.images)
    trainer = make_trainer(recipe, transform, states, 0, data.labels)
    for index in range(40 if quick else recipe.updates):
        trainer.update(index)
    machine, count = trainer.machine, 200 if quick else len(data)
    real = 2 * data.images[:count].flatten(1) - 1
    rows = []
    for bits in (32, *BITS):
        made = None if bits == 32 else quantize_langevin(machine, bits, recipe=recipe)
        law: Any = machine if made is None else made.machine
        images = transform.inverse(annealed_sample(law, recipe, count, 1)).flatten(1)
        likeness = _likeness(real, 2 * images - 1)
        error = 0.0 if made is None else made.force_error
        couplings = (machine.J_hv, machine.J_vh, machine.J_hk, machine.J_vk)
        size = sum(4 * J.numel() for J in couplings)
        if made is not None:
            size = sum(each.nbytes for each in made.couplings)
        rows.append(_Row(bits, error, size, *likeness))
    return rows


def _likeness(real: Tensor, made: Tensor) -> tuple[float, float, float, float]:
    near, spread = aai(real, made[: len(real)]), covariance_error(real, made)
    return near.value, near.standard_error, spread.value, spread.standard_error


# ---------------------------------------------------------------- what came out


def _say(title: str, rows: list[_Row]) -> None:
    head = ["bits", "force error", "bytes", "virial", "E/N", "AAI", "+-", "1e4 E2", "+-"]
    print(table(title, head, [
        [str(r.bits) if r.bits < 32 else "float", r.force_error, r.bytes, r.virial, r.energy,
         r.aai, r.aai_error, 1e4 * r.e2, 1e4 * r.e2_error]
        for r in rows
    ]), end="\n\n", flush=True)  # fmt: skip


def _goals(steps: dict[str, Timing], contrastive: list[_Row], annealed: list[_Row]) -> list[Goal]:
    fastest = min(steps[name].best for name in (FLOAT, EAGER, MEDIUM))
    goals = [
        at_least("int8 step: x the best float32 step >= 2", fastest / steps[BYTES].best, 2.0),
        at_least("x the bfloat16 step >= 1.3", steps[HALF].best / steps[BYTES].best, 1.3),
        at_most("8 bits: |virial - 1| <= .01", abs(contrastive[1].virial - 1), 0.01),
    ]
    for name, rows in (("contrastive", contrastive), ("default preset", annealed)):
        exact, eight = rows[0], rows[1]
        for what in ("aai", "e2"):
            apart = abs(getattr(eight, what) - getattr(exact, what)) / math.hypot(
                getattr(eight, what + "_error"), getattr(exact, what + "_error")
            )
            text = f"8 bits, {name}: {what.upper()} from float's in standard errors <= 2"
            goals.append(at_most(text, apart, 2.0))
    return goals


if __name__ == "__main__":
    sys.exit(main())
