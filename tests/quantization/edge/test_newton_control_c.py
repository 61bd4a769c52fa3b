"""A predictive controller in C: the same inputs as Python's, the bytes it says, clear refusals."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.quantization.edge.test_newton_control import curved_model, exact_model
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.closed_loop import ControlRun, track
from driftwell.quantization.edge.newton_control import NewtonPredictiveControl
from driftwell.quantization.edge.newton_control_c import (
    CompiledControl,
    ControlReport,
    compile_c,
    export_newton_control,
    run_self_tests,
)
from driftwell.quantization.edge.plants import MassSpringDamper, excitation, sinusoid, staircase
from driftwell.quantization.edge.step_model import StepModel, learn_step_model, windows_of
from driftwell.quantization.export.c import export_c

PLANT = MassSpringDamper(hardening=2.0)
BOUNDS = (-8.0, 8.0)
COMPILER = shutil.which("gcc") or shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")
SANITIZED = ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-Wconversion", "-Wshadow")


@cache
def learned() -> StepModel:
    forces = excitation(800, BOUNDS, seed=3)
    model = learn_step_model(PLANT.record(forces), forces, widths=(8, 8), updates=60)
    return model.double()


def controller() -> NewtonPredictiveControl:
    return NewtonPredictiveControl(
        learned(), horizon=10, control_horizon=4, move_weight=1e-3, bounds=BOUNDS, barrier=1e-3
    )


@cache
def run_of() -> ControlRun:
    reference = torch.cat(
        [sinusoid(60, amplitude=0.8, samples=60.0), staircase((0.5, -0.5), samples=30)]
    )
    return track(controller(), PLANT, reference, horizon=10)


def exported(folder: Path) -> ControlReport:
    run = run_of()
    ahead = torch.cat([run.reference, run.reference[-1].expand(9)])
    return export_newton_control(controller(), folder, measured=run.outputs[:-1], reference=ahead)


@needs_compiler
@pytest.mark.parametrize(("n", "m", "free", "steps"), [(2, 2, 4, 1), (3, 1, 1, 2), (1, 3, 6, 3)])
def test_the_controller_in_c_plans_what_python_plans(
    tmp_path: Path, n: int, m: int, free: int, steps: int
) -> None:
    """Windows and horizons of several shapes, from the same states, to 1e-5 of the range of u."""
    control = NewtonPredictiveControl(
        curved_model(n, m, size=0.4), horizon=6, control_horizon=free, move_weight=0.05,
        barrier=1e-2, steps=steps,
    )  # fmt: skip
    measured = 0.5 * torch.linspace(0, 9, 80).double().sin()
    reference = 0.3 * torch.linspace(0, 30, 86).double().cos()
    export_newton_control(control, tmp_path, measured=measured, reference=reference)
    assert run_self_tests(tmp_path, *SANITIZED).endswith("control: 80 samples, 0 inputs differ\n")


@needs_compiler
def test_the_self_test_passes_for_a_learned_model(tmp_path: Path) -> None:
    exported(tmp_path)
    said = run_self_tests(tmp_path, *SANITIZED)
    assert said.endswith("control: 119 samples, 0 inputs differ\n")


@needs_compiler
def test_both_control_a_plant_alike_in_closed_loop(tmp_path: Path) -> None:
    """A whole run with bounds that act, on a model that is right: errors of rounding die out."""
    plant = MassSpringDamper()
    first = nn.Linear(4, 4, bias=False).double()
    nn.init.eye_(first.weight)
    network = nn.Sequential(first, exact_model().network).eval()
    model = StepModel(network, outputs=2, inputs=2)
    control = NewtonPredictiveControl(model, bounds=BOUNDS, move_weight=5e-4, barrier=1e-3)
    reference = staircase((1.0, -0.5, 0.8), samples=50)
    ours = track(control, plant, reference, horizon=10)
    export_newton_control(
        control, tmp_path, measured=ours.outputs[:20], reference=reference[: 20 + 10]
    )
    found = track(CompiledControl(tmp_path, control), plant, reference, horizon=10)
    assert (found.inputs - ours.inputs).abs().max() < 1e-5 * 16
    assert (found.outputs - ours.outputs).abs().max() < 1e-5
    assert 7.5 < found.inputs.abs().max() <= 8


@needs_compiler
def test_several_newton_steps_and_no_barrier_are_the_same_in_c(tmp_path: Path) -> None:
    control = replace(controller(), steps=3, barrier=0.0, bounds=(-100.0, 100.0))
    run = track(control, PLANT, sinusoid(60, amplitude=0.3, samples=60.0), horizon=10)
    ahead = torch.cat([run.reference, run.reference[-1].expand(9)])
    export_newton_control(control, tmp_path, measured=run.outputs[:-1], reference=ahead)
    assert "59 samples, 0 inputs differ" in run_self_tests(tmp_path)


@needs_compiler
def test_the_self_test_fails_when_a_weight_is_changed(tmp_path: Path) -> None:
    exported(tmp_path)
    other = StepModel(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).eval(),
                      outputs=2, inputs=2)  # fmt: skip
    export_c(
        other.network, tmp_path, calibration=torch.zeros(3, 4), name="control_network",
        arithmetic="float",
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="control_test fails in C"):
        run_self_tests(tmp_path)


@needs_compiler
def test_the_network_in_c_equals_pytorch_to_a_millionth(tmp_path: Path) -> None:
    exported(tmp_path)
    forces = excitation(1010, BOUNDS, seed=9)
    windows = windows_of(PLANT.record(forces), forces, 2, 2)[0][:1000]
    compiled = CompiledControl(tmp_path, controller())
    with torch.no_grad():
        wanted = learned().network(windows.float().double())[:, 0]
    assert (compiled.increments(windows) - wanted).abs().max() < 1e-6


@needs_compiler
def test_the_report_s_memory_is_that_of_the_compiled_structs(tmp_path: Path) -> None:
    report = exported(tmp_path)
    (tmp_path / "sizes.c").write_text(
        '#include "control.c"\n#include <stdio.h>\n'
        'int main(void) { printf("%zu", sizeof w + sizeof(control_state)); return 0; }\n'
    )
    path = compile_c(tmp_path, ("sizes.c", "network.c"), "sizes")
    said = subprocess.run([str(path)], capture_output=True, text=True, check=True).stdout
    assert int(said) == report.ram_bytes - report.network.ram_bytes
    rows = str(report).splitlines()
    assert [row.split()[-2:] for row in rows[:2]] == [
        ["(network", f"{report.network.rom_bytes})"], ["(network", f"{report.network.ram_bytes})"]
    ]  # fmt: skip


@needs_compiler
def test_make_builds_and_runs_both_tests(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    exported(tmp_path)
    done = subprocess.run(["make"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "119 samples, 0 inputs differ" in done.stdout


def test_nothing_is_allocated_and_all_files_are_named(tmp_path: Path) -> None:
    report = exported(tmp_path)
    source = (tmp_path / "control.c").read_text() + (tmp_path / "network.c").read_text()
    assert "malloc" not in source
    assert "double" not in source
    assert sorted(report.files) == sorted(path.name for path in tmp_path.iterdir())


def test_a_missing_compiler_is_one_sentence(tmp_path: Path) -> None:
    exported(tmp_path)
    with pytest.raises(InvalidInput, match="no C compiler 'nocc' here"):
        CompiledControl(tmp_path, controller(), compiler="nocc")


@needs_compiler
def test_a_source_that_does_not_compile_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "wrong.c").write_text("int main(void) { return x; }\n")
    with pytest.raises(InvalidInput, match=r"refuses wrong\.c"):
        compile_c(tmp_path, ("wrong.c",), "wrong")


@needs_compiler
def test_wrong_lengths_never_reach_c(tmp_path: Path) -> None:
    exported(tmp_path)
    compiled = CompiledControl(tmp_path, controller())
    with pytest.raises(InvalidInput, match="reference is 10 values"):
        compiled.step(compiled.start(0.0), 0.0, torch.zeros(9))
    with pytest.raises(InvalidInput, match="state one of"):
        compiled.step(b"short", 0.0, torch.zeros(10))
    with pytest.raises(InvalidInput, match="windows are"):
        compiled.increments(torch.zeros(5, 3))


@pytest.mark.parametrize(
    ("measured", "reference", "message"),
    [
        (torch.zeros(20), torch.zeros(20), "the reference of 20 samples"),
        (torch.zeros(2), torch.zeros(12), "fill a window"),
        (torch.zeros(4, 2), torch.zeros(14), "fill a window"),
    ],
)
def test_sequences_of_wrong_lengths_are_refused(
    tmp_path: Path, measured: Tensor, reference: Tensor, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        export_newton_control(controller(), tmp_path, measured=measured, reference=reference)


def test_exact_hessians_and_other_networks_are_refused(tmp_path: Path) -> None:
    zeros = {"measured": torch.zeros(20), "reference": torch.zeros(30)}
    with pytest.raises(InvalidInput, match="second derivatives"):
        export_newton_control(replace(controller(), hessian="exact"), tmp_path, **zeros)
    elu = nn.Sequential(nn.Linear(4, 4), nn.ELU(), nn.Linear(4, 1)).double().eval()
    control = replace(controller(), model=StepModel(elu, outputs=2, inputs=2))
    with pytest.raises(InvalidInput, match="chains of linear layers"):
        export_newton_control(control, tmp_path / "out", **zeros)
    assert not (tmp_path / "out").exists()


def test_c_is_found_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if COMPILER is None or sys.platform == "win32":
        pytest.skip("no C compiler on this machine")
    monkeypatch.setenv("CC", COMPILER)
    (tmp_path / "right.c").write_text("int main(void) { return 0; }\n")
    assert compile_c(tmp_path, ("right.c",), "right").exists()
