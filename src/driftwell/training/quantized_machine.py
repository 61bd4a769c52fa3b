"""Langevin machines of run folders, quantized and read back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.models.langevin.denoising import SAMPLED
from driftwell.models.langevin.kinds import Machine, machine_from
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.quantization.formats import Packed
from driftwell.quantization.langevin import (
    QuantizedLangevinMachine,
    QuantizedMachine,
    QuantizedNoiseConditionalMachine,
    quantize_langevin,
)
from driftwell.quantization.langevin.noise_conditional import COUPLINGS as FOUR
from driftwell.training.checkpoint import Checkpoint
from driftwell.training.quantization_plan import QuantizationPlan
from driftwell.training.quantized_run import NOTED, Layer, QuantizedWeights

if TYPE_CHECKING:
    from driftwell.training.run import Run

QuantizedAny: TypeAlias = QuantizedLangevinMachine | QuantizedNoiseConditionalMachine
COUPLINGS = "couplings"
ROUNDED = "rtn"
EVEN = ("uniform", "symmetric")
"""Formats with evenly spaced levels."""
WHOLE = 8
"""Bits of the integers that products take."""


def quantized_machine(
    run: Run, plan: QuantizationPlan, kept: dict[str, Tensor]
) -> QuantizedWeights:
    """The machine of a run in few bits, calibrated on the states its own chains visit.

    Args:
        run: a float run.
        plan: how; the format "uniform" takes the better of affine and centred levels.
        kept: tensors of the checkpoint that stay as they are.

    Raises:
        InvalidInput: a format that one matrix cannot have for both products.
    """
    if plan.per == "group":
        raise InvalidInput(
            "couplings serve two products, J phi and J^T e, and groups of columns of one are rows "
            "of the other: take --per channel"
        )
    if plan.format not in EVEN:
        raise InvalidInput(
            "couplings serve two products, J phi and J^T e, in integers, which takes evenly "
            f"spaced levels: {plan.format} has none, take --format {' or '.join(EVEN)}"
        )
    made = _made(run, plan)
    rounded = {
        each.name: each.error for each in _made(run, replace(plan, method=ROUNDED)).couplings
    }
    small = made.machine
    packed = packed_couplings(small)
    tensors = dict(kept)
    for name, codes in packed.items():
        tensors |= {f"{SAMPLED}{name}.{part}": t for part, t in codes.tensors().items()}
    state = small.decoded().state_dict()
    tensors |= {f"{SAMPLED}{n}": t.clone() for n, t in state.items() if n not in packed}
    size = torch.finfo(next(iter(state.values())).dtype).bits // 8
    layers = tuple(
        Layer(
            each.name, each.bits, each.error, rounded[each.name], each.clipped,
            each.shape[0] * each.shape[1], each.nbytes, size * each.shape[0] * each.shape[1],
        )
        for each in made.couplings
    )  # fmt: skip
    annealed = isinstance(small, QuantizedNoiseConditionalMachine)
    notes = {
        COUPLINGS: {name: codes.description() for name, codes in packed.items()},
        "activations": "float" if annealed else plan.activations,
        "force_error": made.force_error,
    }
    return QuantizedWeights(small, tensors, layers, {}, notes)


def restored_machine(recipe: Recipe, found: Checkpoint) -> tuple[Machine, QuantizedAny]:
    """The float machine of a checkpoint's decoded couplings, and the machine that holds the codes.

    Raises:
        InvalidInput: the checkpoint holds something else.
    """
    noted: dict[str, Any] = found.meta[NOTED]
    tensors = dict(found.tensors)
    packed = {}
    for name, description in noted[COUPLINGS].items():
        prefix = f"{SAMPLED}{name}."
        parts = {
            k.removeprefix(prefix): tensors.pop(k) for k in list(tensors) if k.startswith(prefix)
        }
        packed[name] = Packed.from_tensors(parts, description)
        tensors[f"{SAMPLED}{name}"] = packed[name].decode()
    machine = machine_from(recipe, tensors)
    small: QuantizedAny
    if isinstance(machine, NoiseConditionalMachine):
        small = QuantizedNoiseConditionalMachine(machine, packed)
    else:
        small = QuantizedLangevinMachine(
            packed["J"], machine.b, machine.temperature, machine.zero_diagonal,
            noted["activations"],
        )  # fmt: skip
    return small.decoded(), small


def packed_couplings(machine: QuantizedAny) -> dict[str, Packed]:
    """The couplings of a quantized machine by the float machine's names."""
    if isinstance(machine, QuantizedLangevinMachine):
        return {"J": machine.couplings.packed}
    return {name: machine.codes(name) for name in FOUR}


def _made(run: Run, plan: QuantizationPlan) -> QuantizedMachine:
    chosen = plan
    if plan.format == "uniform" and plan.bits == WHOLE:
        chosen = replace(plan, format="symmetric")  # affine codes less their zero need a ninth bit
    format = None if plan.format == "uniform" and plan.per == "channel" else chosen.to_format()
    return quantize_langevin(
        run.machine, plan.bits, method=plan.to_method(), format=format, recipe=run.recipe,
        seed=plan.seed, activations="int8" if plan.activations == "int8" else "float",
    )  # fmt: skip
