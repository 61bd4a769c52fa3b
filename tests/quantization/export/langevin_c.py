"""Compiling exported samplers, and small machines to export."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from driftwell.data import PlainScaling, Whitening
from driftwell.models.langevin.machine import NeuralLangevinMachine
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.quantization.export.c.langevin_build import Picture

STRICT = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZED = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
RECURRENT = Recipe(sampler="langevin", step_size=0.05, sample_steps=60, label_scale=1.0)
ANNEALED = Recipe(
    learning="denoising", hidden=8, levels=7, sample_steps=24, sampler="langevin",
    label_scale=1.0, scaling="components",
)  # fmt: skip


def compiler() -> str:
    """The machine's C compiler, or a skip."""
    found = shutil.which("cc") or shutil.which("gcc")
    if found is None:
        pytest.skip("no C compiler on this machine")
    return found


@cache
def _sanitizers() -> tuple[str, ...]:
    done = subprocess.run(
        [compiler(), "-x", "c", "-", *SANITIZED, "-o", "/dev/null"],
        input="int main(void) { return 0; }", capture_output=True, text=True, check=False,
    )  # fmt: skip
    return SANITIZED if done.returncode == 0 else ()


def compiled(folder: Path, *sources: Path) -> Path:
    """A program of C99 sources in `folder`: warnings are errors, undefined behaviour ends it."""
    program = folder / sources[-1].stem
    done = subprocess.run(
        [compiler(), *STRICT, *_sanitizers(), *map(str, sources), "-o", str(program)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return program


def self_test(folder: Path, name: str = "langevin") -> subprocess.CompletedProcess[str]:
    """The folder's self-test, built and run."""
    program = compiled(folder, Path(f"{name}.c"), Path("self_test.c"))
    return subprocess.run([program], capture_output=True, text=True, check=False)


def recurrent_machine(n: int = 9, gain: float = 1.5) -> NeuralLangevinMachine:
    """With a bias that is not zero."""
    machine = NeuralLangevinMachine(n, gain=gain, seed=3)
    with torch.no_grad():
        machine.b.copy_(torch.linspace(-0.5, 0.5, n))
    return machine


def annealed_machine(labels: int = 3) -> NoiseConditionalMachine:
    """Six coordinates of falling variance, the last of none; strong feedback."""
    variance = torch.tensor([4.0, 2.0, 1.0, 0.3, 0.1, 0.0])
    machine = NoiseConditionalMachine(variance, 8, labels, 0.1, 2.0, seed=1)
    with torch.no_grad():
        machine.J_vh.mul_(40.0)
        machine.b.copy_(torch.linspace(-0.3, 0.3, 6))
        machine.J_vk.copy_(torch.linspace(-0.2, 0.2, machine.J_vk.numel()).view_as(machine.J_vk))
        if labels:
            machine.frequency.copy_(torch.tensor([5.0, 1.0, 2.0]))
    return machine


def whitened_picture() -> Picture:
    """Images of 2 x 3 pixels behind a rotation of six coordinates."""
    images = torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(0))
    scaling = PlainScaling(-1.0, 1.0)
    return Picture(Whitening.fit(images, scaling=scaling, unit_variance=False), 2, 3)


def longer(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with more steps a sample."""
    return replace(recipe, sample_steps=steps)
