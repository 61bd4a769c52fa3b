"""Claims on learning in reduced precision on small devices: 16-bit storage, and a step in C."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwell.claims.registry import Outcome, claim
from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, permutation
from driftwell.data import load
from driftwell.nn.drawn_layers import drawn_conv, drawn_linear
from driftwell.quantization.edge.half_precision import HalfDescent, LossScale
from driftwell.quantization.edge.training_c import export_training_c
from driftwell.quantization.edge.training_half_updates import (
    MasterWeights,
    NearestRounding,
    StochasticRounding,
    WeightUpdate,
)
from driftwell.quantization.edge.training_plan import PULP_TRAINLIB, plan_training

LEARNED, BATCH, EPOCHS, RATE, RUNS = 1200, 16, 20, 0.002, 3
FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic")
STEPS = 100
UNSCALED = LossScale(1.0, growth=1.0, backoff=1.0)


def _network(seed: int) -> nn.Module:
    draw = torch.Generator().manual_seed(seed)
    return nn.Sequential(
        drawn_conv(1, 8, 3, draw, gain=1.4), nn.ReLU(), nn.MaxPool2d(2),
        drawn_conv(8, 16, 3, draw, gain=1.4), nn.ReLU(), nn.Flatten(),
        drawn_linear(256, 10, draw),
    )  # fmt: skip


@cache
def _digits() -> tuple[Tensor, Tensor]:
    digits = load("digits", "all")
    order = permutation(len(digits), seed=0, purpose=Purpose.DATA, step=0)
    if digits.labels is None:
        raise InvalidInput("the bundled digits have labels, and none were read")
    return digits.images[order][:, None].float(), digits.labels[order].long()


def _batches(seed: int) -> list[Tensor]:
    rows = [
        permutation(LEARNED, seed=seed, purpose=Purpose.DATA, step=1 + epoch)
        for epoch in range(EPOCHS)
    ]
    return [batch for epoch in rows for batch in epoch.split(BATCH)]


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def _accuracy(model: nn.Module) -> float:
    x, y = _digits()
    with torch.no_grad():
        return float((model(x[LEARNED:]).argmax(dim=1) == y[LEARNED:]).double().mean())


@cache
def _in_single(seed: int) -> float:
    """Accuracy of the network after descent in float32."""
    x, y = _digits()
    model = _network(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for rows in _batches(seed):
        optimizer.zero_grad()
        _loss(model, x[rows], y[rows]).backward()
        optimizer.step()
    return _accuracy(model)


def _in_half(seed: int, update: WeightUpdate, scale: LossScale) -> tuple[float, float]:
    """The same in half precision; and the share of moves lost over the last epoch."""
    x, y = _digits()
    model, descent = _network(seed), HalfDescent(RATE, update, scale)
    state, lost = descent.init(model), []
    for rows in _batches(seed):
        loss = partial(_loss, model, x[rows], y[rows])
        state = descent.step(model, loss, state)
        lost.append(state.lost)
    last = lost[-LEARNED // BATCH :]
    return _accuracy(model), sum(last) / len(last)


def _storage(seed: int, kept: dict[str, tuple[WeightUpdate, LossScale]]) -> Outcome:
    seeds = range(RUNS * seed, RUNS * (seed + 1))
    single = sum(_in_single(each) for each in seeds) / RUNS
    measured, holds = {"accuracy float32": single}, single >= 0.8
    for name, (update, scale) in kept.items():
        runs = [_in_half(each, update, scale) for each in seeds]
        measured[f"accuracy {name}"] = sum(run[0] for run in runs) / RUNS
        measured[f"moves lost {name}"] = sum(run[1] for run in runs) / RUNS
        holds = holds and measured[f"accuracy {name}"] >= single - 0.005
        # chance keeps a small move now and then: what it leaves out is not lost
        by_chance = isinstance(update, StochasticRounding)
        holds = holds and (by_chance or measured[f"moves lost {name}"] <= 0.05)
    return Outcome(
        holds,
        measured,
        "mean of 3 runs: float32 learns (accuracy >= .8), and every way to store in half "
        "precision stays within .005 of it; at most 5 % of the moves are lost, "
        "unless by chance",
    )


@claim(
    id="odl-half-storage",
    paper=PULP_TRAINLIB,
    states="a network learns in half-precision storage with sums in single precision as well as in "
    "float32, with single-precision masters or with stochastic rounding",
    stated="card: a tiny convolutional network within half a point of float32; updates "
    "below half a step of the weights are lost without masters. Chosen after seeing numbers: the "
    "small rate (at .02 plain rounding met the bound on accuracy), and the bound on lost moves, "
    "since at .002 it met that with one seed of two; it lost 49 % of the moves in a run tried",
    cpu_minutes=0.8,
    control=lambda seed: _storage(seed, {"rounded to nearest": (NearestRounding(), UNSCALED)}),
    control_is="weights rounded to nearest after every step, and no scaling of the loss",
)
def half_storage(seed: int) -> Outcome:
    """Bundled digits, 1200 to learn from and 597 to test on."""
    kept: dict[str, tuple[WeightUpdate, LossScale]] = {
        "masters": (MasterWeights(), LossScale()),
        "stochastic": (StochasticRounding(seed), LossScale()),
    }
    return _storage(seed, kept)


def _run(folder: Path, *files: str) -> str:
    """What a compiled program prints, whatever its exit status."""
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise InvalidInput(
            "this claim compiles C and finds no compiler: install one, or name it in CC"
        )
    binary = folder / "program"
    command = [compiler, *FLAGS, *files, "-o", str(binary), "-lm"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise InvalidInput(f"{compiler} refuses the written C: {built.stderr[:300]}")
    return subprocess.run(
        [str(binary)], capture_output=True, text=True, timeout=60, check=False
    ).stdout


def _sizes(folder: Path) -> int:
    """Bytes of all arrays, as the compiler counts them."""
    names = re.findall(r"extern float (\w+)\[", (folder / "network.h").read_text())
    total = " + ".join(f"sizeof {name}" for name in [*names, "memory"])
    (folder / "sizes.c").write_text(
        f'#include "network.c"\n#include <stdio.h>\nint main(void)\n{{\n'
        f'    printf("%lu\\n", (unsigned long)({total}));\n    return 0;\n}}\n'
    )
    return int(_run(folder, "sizes.c"))


@cache
def _written(seed: int) -> dict[str, str]:
    """Every file of the network in C, whose self-test takes a hundred steps."""
    x, y = _digits()
    rows = permutation(LEARNED, seed=seed, purpose=Purpose.DATA, step=0)[:STEPS]
    with tempfile.TemporaryDirectory() as folder:
        export_training_c(
            _network(seed), folder, samples=x[rows], targets=y[rows], rate=0.02, vectors=STEPS
        )
        return {file.name: file.read_text() for file in Path(folder).iterdir()}


def _step_in_c(seed: int, broken: bool) -> Outcome:
    plan = plan_training(_network(seed), (1, 8, 8))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, text in _written(seed).items():
            changed = text.replace("image[at] += *", "image[at] = *") if broken else text
            (folder / name).write_text(changed)
        said = _run(folder, "network.c", "self_test.c")
        nbytes = _sizes(folder)
    losses, gradients, weights = map(
        float, re.findall(r"(?:losses|gradients|weights) (\S+?)[,\n]", said)
    )
    return Outcome(
        gradients <= 1e-5 and losses <= 1e-4 and weights <= 1e-4 and nbytes == plan.total_bytes,
        {
            "difference of gradients": gradients,
            "difference of losses, 100 steps": losses,
            "difference of weights, 100 steps": weights,
            "bytes planned": plan.total_bytes,
            "bytes of the arrays": nbytes,
            "multiply-accumulates": sum(plan.macs),
        },
        "gradients of the first step within 1e-5 of PyTorch's in float64, relative to the largest; "
        "losses and weights of 100 steps within 1e-4; bytes of all arrays as planned",
    )


@claim(
    id="odl-step-in-c",
    paper=PULP_TRAINLIB,
    states="a training step as products of matrices, written in C, has PyTorch's gradients and the "
    "planned memory",
    stated="card: gradients to 1e-5, bytes of the plan equal to those of the arrays; 100 steps to "
    "1e-4 were added here, 100 roundings of 1e-6",
    cpu_minutes=0.05,
    control=lambda seed: _step_in_c(seed, broken=True),
    control_is="columns scattered over each other instead of added up",
    fast=True,
)
def step_in_c(seed: int) -> Outcome:
    """A hundred samples of the bundled digits, a step each."""
    return _step_in_c(seed, broken=False)
