"""What the tests of programs in C share: a compiler, and inputs that are hard on them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from driftwell.quantization.export.c import IntegerProgram, emit

COMPILER = shutil.which("gcc") or shutil.which("cc")
FLAGS = (
    "-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow",
    "-fsanitize=undefined,address", "-fno-sanitize-recover=all",
)  # fmt: skip
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")


def compile_and_run(folder: Path, *files: str, flags: tuple[str, ...] = FLAGS) -> str:
    """Compile files of a folder, run the program, and give back what it prints."""
    binary = folder / "program"
    command = [str(COMPILER), *flags, *files, "-o", str(binary), "-lm"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(binary)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hard_inputs(program: IntegerProgram, count: int, seed: int = 0) -> Tensor:
    """Random integers of the whole range of a program's input, and its extremes."""
    into = program.buffer(program.input)
    limit = 2 ** (into.bits - 1)
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(-limit, limit, (count, *into.shape), generator=generator)
    q[0], q[1] = -limit, limit - 1
    q[2] = torch.where(q[2] < 0, -limit, limit - 1)
    return q


def agrees(program: IntegerProgram, folder: Path, count: int = 1000) -> bool:
    """Whether the compiled program gives the simulator's bits for so many inputs."""
    emit(program, folder, hard_inputs(program, count))
    said = compile_and_run(folder, "network.c", "self_test.c")
    return said == f"{program.name}: {count} vectors, 0 outputs differ\n"
