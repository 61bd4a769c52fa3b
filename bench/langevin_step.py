"""A Langevin step of 256 chains against its two matrix products alone, and against peers.

All in float32 unless said, variants in turn within one run; ratios are of medians.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from bfloat16_bias import bfloat16_bias
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

from driftwell.models.langevin import NeuralLangevinMachine
from driftwell.models.langevin.kernels import langevin_steps

CHAINS, SIZES, STEP_SIZE = 256, (64, 784, 1296), 0.01
BLOCK = 10  # steps of a short block, those of one update of persistent chains
LONG_BLOCK = {64: 1000, 784: 100, 1296: 100}

OURS, OURS_SHORT, OURS_HALF = "driftwell", f"driftwell, blocks of {BLOCK}", "driftwell, bfloat16"
EBM, EBM_MEDIUM = "torchebm LangevinDynamics", "torchebm, medium"
LOOP, LOOP_MEDIUM = "plain autograd loop", "plain autograd, medium"
PRODUCTS = ("products, torch.mm", "products, torch.mm medium", "products, oneDNN prepacked")


def main(given: list[str] | None = None) -> int:
    chosen = options(__doc__, given=given)
    say_machine()
    if not _have_torchebm():
        print("torchebm is not installed in this environment, so its rows are left out\n")
    timings: dict[int, dict[str, Timing]] = {}
    backends = {}
    for n in SIZES:
        machine = NeuralLangevinMachine(n, seed=0)
        x = _warm_chains(machine)
        variants = [*_products(machine, x), *_ours(machine, x), *_peers(machine, x)]
        seconds = duration(chosen, 15.0 if n < 1000 else 25.0, 0.5)
        timings[n] = interleave(variants, seconds=seconds, least=1 if chosen.quick else 9)
        backends[n] = langevin_steps(x, machine.J.detach(), machine.b.detach(), **_plan(1))[1]
        _say(n, timings[n], backends[n])
    goals = _goals(timings)
    say_goals(goals)
    bias = bfloat16_bias(chosen.quick)
    measured: dict[str, Any] = {
        "chains": CHAINS, "backends": backends, "bfloat16_bias": bias,
        "milliseconds_per_step": {
            n: {name: {"median": 1e3 * t.median, "best": 1e3 * t.best, "repeats": t.repeats}
                for name, t in found.items()}
            for n, found in timings.items()
        },
    }  # fmt: skip
    write_results("langevin_step", measured, goals)
    return 0


# ---------------------------------------------------------------- variants


def _plan(steps: int, matmul: str = "float32") -> dict[str, Any]:
    return {
        "steps": steps, "step_size": STEP_SIZE, "temperature": 1.0, "seed": 1, "first_step": 0,
        "chains": CHAINS, "matmul": matmul,
    }  # fmt: skip


def _warm_chains(machine: NeuralLangevinMachine) -> Tensor:
    x = machine.initial_state(CHAINS, seed=1)
    return langevin_steps(x, machine.J.detach(), machine.b.detach(), **_plan(20))[0]


def _products(machine: NeuralLangevinMachine, x: Tensor) -> list[Variant]:
    """h = phi J^T and e J, nothing else: what no step can do without."""
    J = machine.J.detach()
    phi, e, h, g = torch.tanh(x), x.clone(), torch.empty_like(x), torch.empty_like(x)
    transposed = J.T

    def by_mm() -> None:
        for _ in range(BLOCK):
            torch.mm(phi, transposed, out=h)
            torch.mm(e, J, out=g)

    variants = [
        Variant(PRODUCTS[0], by_mm, BLOCK),
        Variant(PRODUCTS[1], by_mm, BLOCK, precision="medium"),
    ]
    if torch.backends.mkldnn.is_available():
        pack = torch.ops.mkldnn._reorder_linear_weight
        linear = torch.ops.mkldnn._linear_pointwise.default
        forward, backward = pack(J, CHAINS), pack(J.T.contiguous(), CHAINS)

        def prepacked() -> None:
            for _ in range(BLOCK):
                linear(phi, forward, None, "none", [], "")
                linear(e, backward, None, "none", [], "")

        variants.append(Variant(PRODUCTS[2], prepacked, BLOCK))
    return variants


def _ours(machine: NeuralLangevinMachine, x: Tensor) -> list[Variant]:
    J, b, steps = machine.J.detach(), machine.b.detach(), LONG_BLOCK[machine.n]

    def block(count: int, matmul: str = "float32") -> Callable[[], Any]:
        return lambda: langevin_steps(x, J, b, **_plan(count, matmul))

    return [
        Variant(OURS, block(steps), steps),
        Variant(OURS_SHORT, block(BLOCK), BLOCK),
        Variant(OURS_HALF, block(steps, "bfloat16"), steps),
    ]


def _peers(machine: NeuralLangevinMachine, x: Tensor) -> list[Variant]:
    """The same energy, its gradient by autograd; Euler steps, the peers' own noise."""
    J, b = machine.J.detach(), machine.b.detach()

    def energy(z: Tensor) -> Tensor:
        e = z - torch.tanh(z) @ J.T - b
        return 0.5 * (e * e).sum(dim=1)

    generator = torch.Generator().manual_seed(0)
    amplitude = math.sqrt(2.0 * STEP_SIZE)

    def loop() -> None:
        z = x
        for _ in range(BLOCK):
            z = z.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(energy(z).sum(), z)
            with torch.no_grad():
                xi = torch.empty_like(z).normal_(generator=generator)
                z = z - STEP_SIZE * gradient + amplitude * xi

    variants = [
        Variant(LOOP, loop, BLOCK),
        Variant(LOOP_MEDIUM, loop, BLOCK, precision="medium"),
    ]
    if _have_torchebm():
        walk = _torchebm(energy, x)
        variants += [
            Variant(EBM, walk, BLOCK),
            Variant(EBM_MEDIUM, walk, BLOCK, precision="medium"),
        ]
    return variants


def _have_torchebm() -> bool:
    try:
        import torchebm.samplers  # noqa: F401
    except ImportError:
        return False
    return True


def _torchebm(energy: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Any]:
    """Its sampler on the energy given as its model class, whose gradient is autograd's."""
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Machine(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return energy(x)

    sampler = LangevinDynamics(Machine(), step_size=STEP_SIZE, noise_scale=1.0, device="cpu")
    generator = torch.Generator().manual_seed(0)
    return lambda: sampler.sample(x=x, n_steps=BLOCK, generator=generator)


# ---------------------------------------------------------------- what came out


def _fastest_products(found: dict[str, Timing]) -> float:
    return min(found[name].median for name in PRODUCTS if name in found)


def _say(n: int, found: dict[str, Timing], backend: str) -> None:
    products, ours = _fastest_products(found), found[OURS].median
    rows = [
        [name, 1e3 * t.median, 1e3 * t.best, t.median / products, t.median / ours, t.repeats]
        for name, t in found.items()
    ]
    head = ["", "ms/step", "best", "x products", "x driftwell", "repeats"]
    print(table(f"N = {n}, {CHAINS} chains (driftwell ran: {backend})", head, rows), end="\n\n",
          flush=True)  # fmt: skip


def _goals(timings: dict[int, dict[str, Timing]]) -> list[Goal]:
    def share(n: int) -> float:
        return timings[n][OURS].median / _fastest_products(timings[n])

    def against(name: str, n: int) -> float | None:
        if name not in timings[n]:
            return None
        return timings[n][name].median / timings[n][OURS].median

    halved = timings[784][OURS].median / timings[784][OURS_HALF].median
    return [
        at_most("step at N=1296 costs <= 1.25x its two products", share(1296), 1.25),
        at_most("step at N=784 costs <= 1.35x its two products", share(784), 1.35),
        at_least("N=64: >= 5x torchebm's steps/s", against(EBM, 64), 5.0),
        at_least("N=784: >= 2x torchebm's steps/s", against(EBM, 784), 2.0),
        at_least("the same, if its user asks torch for medium", against(EBM_MEDIUM, 784), 2.0),
        at_least("bfloat16 at N=784: >= 1.5x our float32", halved, 1.5),
    ]


if __name__ == "__main__":
    sys.exit(main())
