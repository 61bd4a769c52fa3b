"""What products in bfloat16 change in the chains of small trained machines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from small_machines import SmallMachine, digits_machine, mnist_machine
from timing import table
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.measures import AAI, aai
from driftwell.models.langevin.walk import Matmul

_BIAS = ("virial", "virial_error", "energy", "energy_error", "aai", "aai_error",
         "accuracy_real", "accuracy_generated")  # fmt: skip


def bfloat16_bias(quick: bool) -> dict[str, Any]:
    """Virial, energy and AAI of chains sampled with products in bfloat16 and in float32."""
    updates = 20 if quick else 300
    measured = {}
    for make in (digits_machine, mnist_machine):
        try:
            small = make(updates)
        except InvalidInput as reason:
            print(f"\nleft out of the bfloat16 bias: {reason}")
            continue
        exact, half = (_sampled(small, matmul, quick) for matmul in ("float32", "bfloat16"))
        lines = {"float32": exact.numbers(), "bfloat16": half.numbers(),
                 "bfloat16 - float32": half.minus(exact)}  # fmt: skip
        head = ["products", *(name.replace("_", " ") for name in _BIAS)]
        rows = [[name, *(line.get(key) for key in _BIAS)] for name, line in lines.items()]
        title = (
            f"\nbias of bfloat16: {small.name}, N = {small.machine.n}, {updates} updates, the same "
            f"noise ({exact.backend}; {half.backend})"
        )
        print(table(title, head, rows), flush=True)
        measured[small.name] = lines
    return measured


@dataclass(frozen=True, eq=False)
class Sampled:
    """Chains from noise with products in one precision: virial and E/N of each chain, AAI."""

    virial: Tensor
    energy: Tensor
    score: AAI
    backend: str

    def numbers(self) -> dict[str, float]:
        return {
            **_mean("virial", self.virial), **_mean("energy", self.energy),
            "aai": self.score.value, "aai_error": self.score.standard_error,
            "accuracy_real": self.score.accuracy_real,
            "accuracy_generated": self.score.accuracy_generated,
        }  # fmt: skip

    def minus(self, other: Sampled) -> dict[str, float]:
        """Differences chain by chain: chains with the same noise stay near each other."""
        return {
            **_mean("virial", self.virial - other.virial),
            **_mean("energy", self.energy - other.energy),
            "aai": self.score.value - other.score.value,
        }


def _mean(name: str, values: Tensor) -> dict[str, float]:
    error = float(values.double().std()) / math.sqrt(len(values))
    return {name: float(values.double().mean()), f"{name}_error": error}


def _sampled(small: SmallMachine, matmul: Matmul, quick: bool) -> Sampled:
    machine, held_out = small.machine, small.held_out
    count, steps = max(len(held_out), 500), 100 if quick else 4000
    chains = dw.sample(
        machine, machine.initial_state(count, seed=5), steps=steps, warmup=steps // 2,
        sampler=dw.Langevin(matmul=matmul), seed=5,
    )  # fmt: skip
    found = chains.diagnostics
    assert found is not None
    assert isinstance(chains.z, Tensor)
    score = aai(held_out, small.scaling.to_symmetric(chains.z)[: len(held_out)])
    return Sampled(found.virial, found.energy.mean(0) / machine.n, score, found.backend)
