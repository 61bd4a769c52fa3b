"""A model as a folder of plain C."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.arena import plan
from driftwell.quantization.export.c.equilibrium import traceable
from driftwell.quantization.export.c.float_program import lower_float
from driftwell.quantization.export.c.float_source import float_texts
from driftwell.quantization.export.c.lowered_model import (
    check_data,
    check_mode,
    check_name,
    lower,
)
from driftwell.quantization.export.c.program import IntegerProgram, simulate
from driftwell.quantization.export.c.readme import readme_text
from driftwell.quantization.export.c.self_test import MAKEFILE, self_test_text
from driftwell.quantization.export.c.source import header_text, source_text


@final
@dataclass(frozen=True)
class CReport:
    """What was written as C.

    Attributes:
        rom_bytes: bytes of all read-only arrays: weights, biases, factors, tables.
        ram_bytes: bytes of all buffers but the caller's input and output.
        macs: multiply-accumulates of a run.
        files: names of the files, in the folder.
        vectors: inputs in the self-test.
        error: |C - float|_2 / |float|_2 of the outputs on the calibration data.
        agreement: share of the calibration data whose largest output stays the same.

    Example:
        >>> CReport(2048, 64, 1000, ("network.c",), 16).rom_bytes
        2048
    """

    rom_bytes: int
    ram_bytes: int
    macs: int
    files: tuple[str, ...]
    vectors: int
    error: float = 0.0
    agreement: float = 1.0


def emit(program: IntegerProgram, folder: Path | str, vectors: Tensor) -> tuple[str, ...]:
    """Write a program as C: header, source, self-test, Makefile and a page that says how to use it.

    The same program and vectors give the same bytes.

    Args:
        program: of `lower`.
        folder: made if it is not there; files of the same names are overwritten.
        vectors: integers of the input for the self-test, (N, ...); with a state, a sequence.

    Returns:
        names of the files.

    Raises:
        InvalidInput: vectors that are not integers of the input.

    Example:
        >>> import tempfile
        >>> program = lower(nn.Linear(2, 1).eval(), torch.randn(9, 2), name="line")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = emit(program, folder, torch.zeros(1, 2, dtype=torch.int8))
        ...     print((Path(folder) / "network.h").read_text().splitlines()[1])
        #ifndef LINE_H
    """
    outputs = in_sequence(program, vectors)
    texts = {
        "network.h": header_text(program),
        "network.c": source_text(program),
        "self_test.c": self_test_text(program, vectors, outputs),
        "Makefile": MAKEFILE,
        "README.md": readme_text(program, len(vectors)),
    }
    return _write(texts, folder)


def _write(texts: dict[str, str], folder: Path | str) -> tuple[str, ...]:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    return tuple(texts)


def _export_float(
    model: nn.Module, folder: Path | str, x: Tensor, name: str, vectors: int
) -> CReport:
    check_name(name)
    check_data(x)
    check_mode(model)
    program = lower_float(model, name=name)
    x = x.flatten(1).float()
    if x.shape[1] != program.inputs:
        raise InvalidInput(f"the model takes {program.inputs} inputs, the data have {x.shape[1]}")
    files = _write(float_texts(program, x[:vectors]) | {"Makefile": MAKEFILE}, folder)
    return CReport(program.rom_bytes, program.ram_bytes, program.macs, files, len(x[:vectors]))


def in_sequence(program: IntegerProgram, vectors: Tensor) -> Tensor:
    """Outputs for inputs (N, ...) run one after the other; all at once if there is no state."""
    if not program.state:
        return simulate(program, vectors)
    state: dict[str, Tensor] = {}
    return torch.cat([simulate(program, vector[None], state) for vector in vectors])


def export_c(
    model: nn.Module,
    folder: Path | str,
    *,
    calibration: Tensor,
    name: str = "network",
    bits: int = 8,
    iterations: int | None = None,
    vectors: int = 16,
    arithmetic: Literal["integer", "float"] = "integer",
) -> CReport:
    """Write a model as plain C99 in integers: no malloc, no mathematics library, no floats within.

    See `lower` for what is carried and how it is rounded. The folder holds a self-test, which
    compares the compiled program with the simulator in Python, bit for bit: ``make`` runs it.
    ``arithmetic="float"`` writes chains of dense layers in single precision instead, with a
    function for their Jacobian, see `lower_float`.

    Args:
        model: float layers, or layers that `quantize` packed.
        folder: made if it is not there. Nothing is written if the model cannot be carried.
        calibration: inputs the model is for, see `lower`.
        name: prefix of all names in C.
        bits: of float layers' weights, 1 to 8.
        iterations: how often a `DEQClassifier` settles.
        vectors: inputs of the self-test, the first of the calibration data.
        arithmetic: ``"integer"`` or ``"float"``.

    Raises:
        InvalidInput: see `lower`.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_c(model, folder, calibration=torch.randn(50, 4), bits=4)
        >>> report.files
        ('network.h', 'network.c', 'self_test.c', 'Makefile', 'README.md')
        >>> report.macs, report.ram_bytes
        (48, 8)
    """
    if vectors < 1:
        raise InvalidInput(f"the self-test needs at least one vector, got {vectors}")
    if arithmetic not in ("integer", "float"):
        raise InvalidInput(f'arithmetic must be "integer" or "float", got {arithmetic!r}')
    if arithmetic == "float":
        return _export_float(model, folder, calibration, name, vectors)
    program = lower(model, calibration, name=name, bits=bits, iterations=iterations)
    error, agreement = compare(program, traceable(model, iterations), calibration)
    q = program.buffer(program.input).quantize(calibration)
    if program.state:
        q = q[0]
    files = emit(program, folder, q[:vectors])
    return CReport(
        program.rom_bytes, plan(program).nbytes, program.macs, files, len(q[:vectors]), error,
        agreement,
    )  # fmt: skip


def compare(program: IntegerProgram, model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Relative error of a program's outputs, and how often the largest is the model's."""
    q = program.buffer(program.input).quantize(x)
    if program.state:
        state: dict[str, Tensor] = {}
        found = torch.stack([simulate(program, q[:, t], state) for t in range(q.shape[1])], 1)
    else:
        found = simulate(program, q)
    with torch.no_grad():
        wanted = model(x).double()
    values = program.buffer(program.output).dequantize(found)
    if values.shape != wanted.shape:  # a network that gives its last step only
        values = values[:, -1].reshape(wanted.shape)
    error = float((values - wanted).norm() / wanted.norm().clamp(min=1e-30))
    rows = values.flatten(0, -2), wanted.flatten(0, -2)
    same = rows[0].argmax(1) == rows[1].argmax(1)
    return error, float(same.double().mean())
