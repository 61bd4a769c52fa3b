"""Claims of Aguasvivas Manzano et al., *Toward smart composites* (nn4mc), 2022."""

from __future__ import annotations

import copy
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.quantization.edge.closed_loop import ControlRun, track
from driftwell.quantization.edge.newton_control import NN4MC, NewtonPredictiveControl
from driftwell.quantization.edge.newton_control_c import (
    CompiledControl,
    compile_c,
    export_newton_control,
    run_self_tests,
)
from driftwell.quantization.edge.pid import PID, tune_pid
from driftwell.quantization.edge.plants import (
    MassSpringDamper,
    excitation,
    sinusoid,
    staircase,
)
from driftwell.quantization.edge.step_model import StepModel, learn_step_model, windows_of
from driftwell.quantization.export.c import export_c, lower, simulate

PLANT = MassSpringDamper(mass=1.0, damping=0.5, stiffness=4.0, hardening=2.0, period=0.05)
BOUNDS = (-8.0, 8.0)
HORIZON = 10
REFERENCES = {
    "sinusoid": sinusoid(401, amplitude=1.0, samples=80.0),
    "steps": staircase((1.0, -0.5, 0.8, 0.0), samples=100),
}


@dataclass(frozen=True)
class _Learned:
    """A step model and the record it was learned from."""

    model: StepModel
    outputs: Tensor
    inputs: Tensor


@cache
def _learned(seed: int) -> _Learned:
    forces = excitation(3000, BOUNDS, seed=seed)
    positions = PLANT.record(forces)
    model = learn_step_model(positions, forces, widths=(16, 16), updates=400, seed=seed)
    return _Learned(model.double(), positions, forces)


def _control(model: StepModel) -> NewtonPredictiveControl:
    return NewtonPredictiveControl(
        model, horizon=HORIZON, control_horizon=5, move_weight=5e-4, bounds=BOUNDS, barrier=1e-3,
        steps=1,
    )  # fmt: skip


@cache
def _tuned(name: str, farthest: int = 0) -> ControlRun:
    """The run of the PID that tracks best: tuned on the plant and on the very reference it is
    judged on, and on how many samples early it reads that, up to `farthest`.
    """
    reference = REFERENCES[name]

    def run(pid: PID, early: int) -> ControlRun:
        shifted = torch.cat([reference[early:], reference[-1].expand(early)])
        return replace(track(pid, PLANT, shifted), reference=reference)

    def best(pid: PID) -> ControlRun:
        early = (0, 1, 2, 4, 6) if farthest else (0,)
        return min((run(pid, e) for e in early if e <= farthest), key=lambda found: found.error)

    start = PID(0.0, 0.0, 0.0, period=PLANT.period, bounds=BOUNDS)
    return best(tune_pid(start, lambda pid: best(pid).error))


def _run(model: StepModel, name: str, preview: bool = True) -> ControlRun:
    reference = REFERENCES[name]
    return track(_control(model), PLANT, reference, horizon=HORIZON, preview=preview)


_run_once = cache(_run)


def _tracking(model: StepModel, farthest: int = 0) -> Outcome:
    measured: dict[str, float] = {}
    series: dict[str, tuple[list[float], list[float]]] = {}
    worst, largest = 0.0, 0.0
    for name, reference in REFERENCES.items():
        pid, newton = _tuned(name, farthest), _run_once(model, name)
        ratio = newton.error / pid.error
        worst, largest = max(worst, ratio), max(largest, float(newton.inputs.abs().max()))
        measured |= {
            f"{name}, PID": pid.error,
            f"{name}, Newton": newton.error,
            f"{name}, ratio": ratio,
            f"{name}, ratio without preview": _run_once(model, name, False).error / pid.error,
        }
        seconds = (PLANT.period * torch.arange(len(reference))).tolist()
        series[f"{name}, PID"] = (seconds, pid.outputs.tolist())
        series[f"{name}, Newton"] = (seconds, newton.outputs.tolist())
    return Outcome(
        holds=worst <= 0.8 and largest <= BOUNDS[1],
        measured=measured | {"largest |u|": largest},
        bound="root mean square error <= .8 of the tuned PID's on both references, |u| <= 8",
        series=series,
    )


def _wrong_signs(seed: int, farthest: int = 0) -> Outcome:
    learned = _learned(seed).model
    signs = torch.tensor([1.0] * learned.outputs + [-1.0] * learned.inputs)
    network = copy.deepcopy(learned.network)
    with torch.no_grad():
        next(network.parameters()).mul_(signs)
    return _tracking(StepModel(network, outputs=learned.outputs, inputs=learned.inputs), farthest)


@claim(
    id="nn4mc-control",
    paper=NN4MC,
    states="Newton's method on a learned step model (4-16-16-1) tracks a sinusoid and steps with a "
    "mass on a hardening spring at least 20 % better than a tuned PID, within the same bounds",
    stated="card: >= 20 % less root mean square error than a tuned PID on sinusoid and steps. The "
    "PID (filtered slope, no wind-up) is tuned by a grid and a search along its axes, on the plant "
    "itself and on the very reference it is judged on. The predictive controller knows the "
    "reference 10 samples ahead, as its cost is written; the ratio without preview is measured "
    "beside it and not judged, and nn4mc-preview gives the PID the same advantage. Horizons, "
    "weights and the barrier were chosen after seeing tracking errors and the gap to C on both "
    "references with seeds 0 and 1; the bound was not",
    cpu_minutes=0.4,
    control=_wrong_signs,
    control_is="the slopes of the model with respect to past inputs have the wrong sign",
)
def predictive_control(seed: int) -> Outcome:
    """Twenty seconds of each reference at 20 Hz."""
    return _tracking(_learned(seed).model)


@claim(
    id="nn4mc-preview",
    paper=NN4MC,
    states="the same as nn4mc-control against a PID that may read the reference up to 6 "
    "samples early, gains and lead tuned together",
    stated="not in the card: what nn4mc-control leaves of the 20 % when both know what comes. On "
    "steps the gain is the preview: the ratio is 1.0 (.71 on the sinusoid). A first look with the "
    "other PID's gains and some lead had said so, and what is expected was set after it",
    cpu_minutes=0.6,
    expected="not_reproduced",
    control=lambda seed: _wrong_signs(seed, farthest=6),
    control_is="the slopes of the model with respect to past inputs have the wrong sign",
)
def against_preview(seed: int) -> Outcome:
    """The same runs, another baseline."""
    return _tracking(_learned(seed).model, farthest=6)


def _fresh_windows(model: StepModel, seed: int) -> Tensor:
    """1,000 windows of a record that the model was not learned from."""
    forces = excitation(1100, BOUNDS, seed=seed + 1000)
    windows, _ = windows_of(PLANT.record(forces), forces, model.outputs, model.inputs)
    return windows[:1000].float()


def _in_c(seed: int, prepared: Callable[[StepModel], StepModel]) -> Outcome:
    model = _learned(seed).model
    windows = _fresh_windows(model, seed)
    with torch.no_grad():
        wanted = _in_float32(model).network(windows)[:, 0]
    control = _control(prepared(model))
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, reference in REFERENCES.items():
            ours = _run_once(model, name)
            ahead = torch.cat([reference, reference[-1].expand(HORIZON - 1)])
            report = export_newton_control(
                control, folder, measured=ours.outputs[:-1], reference=ahead
            )
            run_self_tests(folder, "-fsanitize=undefined", "-fno-sanitize-recover=all")
            compiled = CompiledControl(folder, control)
            found = track(compiled, PLANT, reference, horizon=HORIZON)
            gap = float((found.inputs - ours.inputs).abs().max()) / 16.0
            measured[f"{name}, largest gap of u in two loops, share of its range"] = gap
        network = float((compiled.increments(windows) - wanted).abs().max())
        milliseconds = _step_time(compiled)
    return Outcome(
        holds=network <= 1e-6 and milliseconds <= 1.0,
        measured=measured
        | {
            "network, largest gap": network,
            "milliseconds a step": milliseconds,
            "ROM bytes": report.rom_bytes,
            "RAM bytes": report.ram_bytes,
            "multiply-accumulates a step": report.macs,
        },
        bound="network within 1e-6 of PyTorch in float32 on 1,000 windows, each of 400 "
        "control steps of each reference within 1e-5 of the range of u from the same state, "
        "a step <= 1 ms",
    )


def _step_time(compiled: CompiledControl) -> float:
    """Milliseconds of a call, the least of five runs of 100."""
    state, reference = compiled.start(0.0), torch.ones(HORIZON)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(100):
            _, state = compiled.step(state, 0.1, reference)
        times.append(10.0 * (time.perf_counter() - began))
    return min(times)


def _in_float32(model: StepModel) -> StepModel:
    network = copy.deepcopy(model.network).float()
    return StepModel(network, outputs=model.outputs, inputs=model.inputs)


def _in_bfloat16(model: StepModel) -> StepModel:
    network = copy.deepcopy(model.network).bfloat16().double()
    return StepModel(network, outputs=model.outputs, inputs=model.inputs)


@claim(
    id="nn4mc-c",
    paper=NN4MC,
    states="network and controller as C99 without malloc compute what Python computes, and a "
    "control step takes less than a millisecond",
    stated="card: C equals PyTorch to 1e-6 on 1,000 inputs, one step <= 1 ms on a desktop core. "
    "Steps of C and Python are compared sample by sample from the same state. Two loops that run "
    "apart were first held to 1e-5 of the range too: rounding then grows where the bounds act, and "
    "with seed 0 the gap on steps is 1.8e-5 (2e-6 with seeds 1 and 2), so it is only measured",
    cpu_minutes=0.3,
    control=lambda seed: _in_c(seed, _in_bfloat16),
    control_is="the weights of what is exported are rounded to bfloat16",
)
def in_c(seed: int) -> Outcome:
    """The self-tests run with the sanitizer of undefined behaviour and raise if they fail."""
    return _in_c(seed, lambda model: model)


def _in_integers(seed: int, bits: int) -> Outcome:
    learned = _learned(seed)
    model = _in_float32(learned.model)
    windows = _fresh_windows(model, seed)
    calibration, _ = windows_of(learned.outputs, learned.inputs, model.outputs, model.inputs)
    # 8 bits hold the whole window in one scale: its entries are brought to one size first
    size = calibration.std(dim=0).float()
    network, calibration, windows = model.network, calibration.float() / size, windows / size
    with torch.no_grad():
        next(network.parameters()).mul_(size)
    program = lower(network, calibration, bits=bits)
    out = program.buffer(program.output)
    found = simulate(program, program.buffer(program.input).quantize(windows))
    with torch.no_grad():
        steps = (found - out.quantize(network(windows))).abs()
    with tempfile.TemporaryDirectory() as folder:
        export_c(network, folder, calibration=calibration, bits=bits, vectors=1000)
        path = compile_c(folder, ("network.c", "self_test.c"), "self_test", "-fsanitize=undefined")
        exact = subprocess.run([str(Path(path).resolve())], capture_output=True).returncode == 0
    return Outcome(
        holds=exact and int(steps.max()) <= 1,
        measured={
            "C equals the simulator": float(exact),
            "worst, steps of the output": float(steps.max()),
            "share within one step": float((steps <= 1).double().mean()),
            "a step, m": out.scale,
        },
        bound="C equals the integer simulator in every bit on 1,000 windows, and PyTorch within "
        "one step of the 8-bit output",
    )


@claim(
    id="nn4mc-int8",
    paper=NN4MC,
    states="the network in 8-bit integers is within one step of PyTorch on 1,000 inputs",
    stated="card: +-1 LSB. Here C equals the simulator in every bit; PyTorch does not round the "
    "window and two hidden layers to 8 bits, and that is more than a step of the output. Entries "
    "of the window are divided by their standard deviations, since they share one scale (without "
    "that, a first run was off by up to 22 steps)",
    cpu_minutes=0.2,
    expected="not_reproduced",
    control=lambda seed: _in_integers(seed, bits=2),
    control_is="2-bit weights",
)
def in_integers(seed: int) -> Outcome:
    """The same network, windows and calibration data as in the other claims."""
    return _in_integers(seed, bits=8)
