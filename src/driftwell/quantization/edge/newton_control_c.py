"""A predictive controller as a folder of plain C, and that folder compiled and run."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.newton_control import NN4MC, NewtonPredictiveControl
from driftwell.quantization.edge.newton_control_source import (
    Replay,
    control_texts,
    ram_bytes,
)
from driftwell.quantization.edge.step_model import windows_of
from driftwell.quantization.export.c import CReport, export_c

FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic")


@final
@dataclass(frozen=True)
class ControlReport:
    """What a controller in C takes; ``str()`` is a table.

    Attributes:
        network: of the network alone.
        rom_bytes: its weights and biases; the settings are in the code.
        ram_bytes: the network's, the controller's and the state that the caller holds.
        macs: multiply-accumulates of the network in one sample.
        files: names of the files, in the folder.
        samples: of the self-test.

    Example:
        >>> net = CReport(1428, 704, 336, ("network.c",), 16)
        >>> print(ControlReport(net, 1428, 1200, 30000, ("control.c",), 100))
        read-only tables            1428 bytes (network 1428)
        memory                      1200 bytes (network 704)
        multiply-accumulates       30000 a sample
    """

    network: CReport
    rom_bytes: int
    ram_bytes: int
    macs: int
    files: tuple[str, ...]
    samples: int

    def __str__(self) -> str:
        rows = (
            ("read-only tables", self.rom_bytes, f"bytes (network {self.network.rom_bytes})"),
            ("memory", self.ram_bytes, f"bytes (network {self.network.ram_bytes})"),
            ("multiply-accumulates", self.macs, "a sample"),
        )
        return "\n".join(f"{name:22}{value:10} {unit}" for name, value, unit in rows)


def export_newton_control(
    control: NewtonPredictiveControl,
    folder: Path | str,
    *,
    measured: Tensor,
    reference: Tensor,
    name: str = "control",
) -> ControlReport:
    """Write a controller and its network as C99 in single precision: static memory, no malloc, and
    of the mathematics library what the activations and a square root take.

    The folder compiles with ``make`` to two self-tests: the network's, and one that takes each
    sample from the state that Python had and compares the input to 1e-5 of the range of u.

    Args:
        control: with Gauss-Newton steps and a network that `lower_float` carries.
        folder: made if it is not there.
        measured: y_0 .. y_{T-1} for the self-test, such as the outputs of a run, (T,).
        reference: r_0 .. r_{T+N-1}, (T + N,).
        name: prefix of all names in C.

    Raises:
        InvalidInput: exact Hessians, another network, or sequences of other lengths.

    Example:
        >>> import tempfile
        >>> from driftwell.quantization.edge.step_model import StepModel
        >>> model = StepModel(torch.nn.Linear(3, 1).eval(), outputs=2, inputs=1)
        >>> control = NewtonPredictiveControl(model, horizon=4, control_horizon=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_newton_control(
        ...         control, folder, measured=torch.zeros(9), reference=torch.ones(13)
        ...     )
        >>> report.rom_bytes, report.samples
        (16, 9)
    """
    if control.hessian != "gauss-newton":
        raise InvalidInput('C has no second derivatives of networks: use hessian="gauss-newton"')
    N, T = control.horizon, len(measured)
    if measured.ndim != 1 or T <= max(control.model.outputs, control.model.inputs):
        raise InvalidInput(
            f"measured outputs are (T,) and fill a window, got {tuple(measured.shape)}"
        )
    if reference.shape != (T + N,):
        raise InvalidInput(
            f"the reference of {T} samples and a horizon of {N} is ({T + N},), got "
            f"{tuple(reference.shape)}"
        )
    ahead = reference.unfold(0, N, 1)[1 : T + 1]
    replay = _replayed(control, measured, ahead)
    windows, _ = windows_of(
        measured.double().cpu(), replay.inputs, control.model.outputs, control.model.inputs
    )
    network = export_c(
        control.model.network, folder, calibration=windows.float(), name=f"{name}_network",
        arithmetic="float",
    )  # fmt: skip
    texts = control_texts(control, name, replay)
    for file, text in texts.items():
        (Path(folder) / file).write_text(text, encoding="utf-8")
    with_slopes = network.macs * (1 + control.model.outputs + control.model.inputs)
    macs = control.steps * N * (with_slopes + network.macs)
    files = tuple(dict.fromkeys((*network.files, *texts)))
    memory = network.ram_bytes + sum(ram_bytes(control))
    return ControlReport(network, network.rom_bytes, memory, macs, files, T)


def _replayed(control: NewtonPredictiveControl, measured: Tensor, ahead: Tensor) -> Replay:
    state, states, inputs = control.start(float(measured[0])), [], []
    for y, r in zip(measured.tolist(), ahead, strict=True):
        states.append(state)
        u, state = control.step(state, y, r)
        inputs.append(u)
    return Replay(tuple(states), measured, ahead, torch.tensor(inputs, dtype=torch.float64))


def compile_c(
    folder: Path | str,
    sources: Sequence[str],
    target: str,
    *options: str,
    compiler: str | None = None,
) -> Path:
    """Compile C files of a folder with the machine's compiler, all warnings errors.

    Args:
        folder: where the sources are and the result goes.
        sources: file names.
        target: name of the result.
        options: further ones, such as ``"-shared"``.
        compiler: None takes the environment's ``CC``, else gcc or cc.

    Returns:
        the result.

    Raises:
        InvalidInput: no compiler, or a source it refuses.
    """
    asked = compiler or os.environ.get("CC") or "gcc"
    found = shutil.which(asked) or (None if compiler else shutil.which("cc"))
    if found is None:
        raise InvalidInput(f"no C compiler {asked!r} here: install gcc or name one in CC")
    command = [found, *FLAGS, *options, *sources, "-o", target, "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise InvalidInput(f"{found} refuses {', '.join(sources)}: {done.stderr.strip()[:500]}")
    return Path(folder) / target


def run_self_tests(folder: Path | str, *options: str, compiler: str | None = None) -> str:
    """Compile and run the two self-tests of an exported controller.

    Args:
        folder: of `export_newton_control`.
        options: further ones of the compiler, such as ``"-fsanitize=undefined"``.
        compiler: see `compile_c`.

    Returns:
        what they print.

    Raises:
        InvalidInput: see `compile_c`; a test that fails.
    """
    said = ""
    for target, own in (("self_test", ()), ("control_test", ("control.c",))):
        sources = ("network.c", *own, f"{target}.c")
        path = compile_c(folder, sources, target, *options, compiler=compiler)
        done = subprocess.run([str(path.resolve())], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise InvalidInput(f"{target} fails in C: {done.stdout}{done.stderr}")
        said += done.stdout
    return said


@final
class CompiledControl:
    """A controller that `export_newton_control` wrote, compiled and called from Python: it steps
    like `NewtonPredictiveControl`, so both can be run in the same loop.

    Args:
        folder: of the C files.
        control: what was exported there.
        name: as given to the export.
        compiler: see `compile_c`.

    Raises:
        InvalidInput: see `compile_c`.

    Example:
        >>> from driftwell.quantization.edge.step_model import StepModel
        >>> model = StepModel(torch.nn.Linear(3, 1), outputs=2, inputs=1)
        >>> CompiledControl(".", NewtonPredictiveControl(model), compiler="nocc")
        Traceback (most recent call last):
        ...
        driftwell.core.errors.InvalidInput: no C compiler 'nocc' here: install gcc or name one in CC
    """

    papers = (NN4MC,)

    def __init__(
        self,
        folder: Path | str,
        control: NewtonPredictiveControl,
        *,
        name: str = "control",
        compiler: str | None = None,
    ) -> None:
        path = compile_c(
            folder, ("network.c", "control.c"), f"{name}.so", "-shared", "-fPIC",
            compiler=compiler,
        )  # fmt: skip
        library = ctypes.CDLL(str(path.resolve()))
        self._horizon, self._windows = control.horizon, control.model.outputs + control.model.inputs
        self._start = getattr(library, f"{name}_start")
        self._step = getattr(library, f"{name}_step")
        self._run = getattr(library, f"{name}_network_run_float")
        self._start.argtypes = (ctypes.c_void_p, ctypes.c_float, ctypes.c_float)
        self._step.argtypes = (ctypes.c_void_p, ctypes.c_float, ctypes.c_void_p)
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self._start.restype, self._step.restype, self._run.restype = None, ctypes.c_float, None
        self._state_bytes = ram_bytes(control)[0]

    def start(self, y: float, u: float = 0.0) -> bytes:
        """The state of a plant at rest: the bytes of C's struct."""
        state = ctypes.create_string_buffer(self._state_bytes)
        self._start(state, y, u)
        return state.raw

    def step(
        self, state: bytes, y: float, reference: Tensor | Sequence[float]
    ) -> tuple[float, bytes]:
        """The input to apply now, and the next state; see `NewtonPredictiveControl.step`."""
        r = torch.as_tensor(reference).to(device="cpu", dtype=torch.float32).contiguous()
        if r.shape != (self._horizon,) or len(state) != self._state_bytes:
            raise InvalidInput(
                f"the reference is {self._horizon} values and the state one of `start`, got "
                f"{tuple(r.shape)} and {len(state)} bytes"
            )
        kept = ctypes.create_string_buffer(state, self._state_bytes)
        u = float(self._step(kept, y, r.data_ptr()))
        return u, kept.raw

    def increments(self, windows: Tensor) -> Tensor:
        """What the network in C gives for windows (B, n + m): y_{k+1} - y_k, float32 (B,)."""
        w = windows.to(device="cpu", dtype=torch.float32).contiguous()
        if w.ndim != 2 or w.shape[1] != self._windows:
            raise InvalidInput(f"windows are (B, {self._windows}), got {tuple(w.shape)}")
        found = torch.empty(len(w))
        for row, out in zip(w, found, strict=True):
            self._run(row.data_ptr(), out.data_ptr())
        return found
