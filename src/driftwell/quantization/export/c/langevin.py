"""A trained Langevin machine as a folder of plain C that samples it in integers."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from driftwell.core.errors import InvalidInput
from driftwell.models.langevin.annealing import annealed_sample
from driftwell.models.langevin.generation import generate
from driftwell.models.langevin.kinds import Machine
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.models.langevin.trainer import Layout
from driftwell.quantization.export.c.exporting import CReport
from driftwell.quantization.export.c.langevin_build import (
    Picture,
    Samplable,
    SampledProgram,
    float_machine,
    langevin_program,
    step_size,
)
from driftwell.quantization.export.c.langevin_drawing import sample_text
from driftwell.quantization.export.c.langevin_mains import (
    makefile_text,
    self_test_text,
)
from driftwell.quantization.export.c.langevin_readme import readme_text
from driftwell.quantization.export.c.langevin_source import (
    header_text,
    ram_bytes,
    rom_bytes,
    source_text,
)
from driftwell.quantization.formats import Quantized

COMPARED, COMPARED_STEPS = 16, 100
RESERVED = ("self_test", "sample", "draw", "main")


def export_langevin_c(
    machine: Samplable,
    folder: Path | str,
    *,
    recipe: Recipe,
    bits: int = 8,
    activation_bits: int = 8,
    couplings: Mapping[str, Quantized] | None = None,
    picture: Picture | None = None,
    layout: Layout | None = None,
    name: str = "langevin",
    seed: int = 0,
    vectors: int = 400,
) -> CReport:
    """Write C99 that samples a Langevin machine in integers, noise and all.

    State, couplings, rates, residuals and normal numbers are integers; there is no float, no
    malloc and no libm between a seed and a picture. Chain i of a seed sees the words of
    `driftwell.core.noise`, so it draws the picture that `driftwell sample` draws, up to rounding.
    What C computes is what `langevin_program(...)` simulates, to the last bit; the self-test in
    the folder holds that for `vectors` states.

    Args:
        machine: `NeuralLangevinMachine`, `NoiseConditionalMachine`, or one of `quantize_langevin`,
            whose codes and biases are taken as they are.
        folder: made; an existing one must be empty.
        recipe: see `langevin_program`, as the next five.
        bits: of a coupling.
        activation_bits: of rates and residuals in products.
        couplings: matrices that are quantized already.
        picture: how samples are shown; without it the program lists states.
        layout: which neurons are visible and which hold the label.
        name: of the C files and functions.
        seed: of the self-test's chains.
        vectors: states in the self-test, at least one whole chain.

    Returns:
        Sizes, operations of a step, the files, and how far integer chains end from float chains of
        the same seed (`compare`).

    Raises:
        InvalidInput: a machine or settings that cannot be written, or a folder that cannot take
            the files; nothing is written then.

    Example:
        >>> from driftwell.models.langevin import NeuralLangevinMachine
        >>> recipe = Recipe(sampler="langevin", sample_steps=20)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     report = export_langevin_c(NeuralLangevinMachine(4), f"{place}/c", recipe=recipe)
        >>> report.macs, report.files[0]
        (32, 'langevin.h')
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED or name.startswith("dw_"):
        raise InvalidInput(
            "the name of a sampler is lower-case letters, digits and underscores, not beginning "
            f"with dw_ and none of {', '.join(RESERVED)}, got {name!r}"
        )
    if vectors < 1:
        raise InvalidInput(f"a self-test needs at least one state, got vectors={vectors}")
    if not 0 <= seed < 2**31:
        raise InvalidInput(f"the self-test's seed must be in 0..2**31-1, got {seed}")
    target = _free(Path(folder).expanduser())
    program = langevin_program(
        machine, recipe, bits=bits, activation_bits=activation_bits, couplings=couplings,
        picture=picture, layout=layout,
    )  # fmt: skip
    texts = langevin_texts(program, name, seed, vectors)
    _write(target, texts)
    error, agreement = compare(program, float_machine(machine), recipe, seed)
    return CReport(
        rom_bytes(program),
        ram_bytes(program),
        program.macs,
        tuple(texts),
        vectors,
        error,
        agreement,
    )


def compare(
    program: SampledProgram, machine: Machine, recipe: Recipe, seed: int
) -> tuple[float, float]:
    """Integer chains beside float chains of the same seed: whole annealed runs, or 100 steps.

    Returns:
        |integer - float|_2 / |float|_2 of the states, and the share of chains whose largest
        entry is the same.
    """
    ids = torch.arange(COMPARED)
    if isinstance(machine, NoiseConditionalMachine):
        found, exact = program.sample(seed, ids), annealed_sample(machine, recipe, COMPARED, seed)
    else:
        steps = min(program.steps, COMPARED_STEPS)
        chains = program.start(seed, ids)
        for _ in range(steps):
            chains = program.step(chains)
        known = replace(recipe, step_size=step_size(machine, recipe))
        found, exact = chains.x, generate(machine, known, COMPARED, seed, steps=steps)
    x, y = program.values(found), exact.double()
    same = (x.argmax(dim=1) == y.argmax(dim=1)).double().mean()
    return float((x - y).norm() / y.norm()), float(same)


def langevin_texts(program: SampledProgram, name: str, seed: int, vectors: int) -> dict[str, str]:
    """All files of a sampler by their place in the folder, the same bytes for the same program."""
    return {
        f"{name}.h": header_text(program, name),
        f"{name}.c": source_text(program, name),
        "self_test.c": self_test_text(program, name, seed, vectors),
        "draw/sample.c": sample_text(program, name),
        "Makefile": makefile_text(name),
        "README.md": readme_text(program, name, rom_bytes(program), ram_bytes(program)),
    }


def _free(folder: Path) -> Path:
    """The folder, if it can be made.

    Raises:
        InvalidInput: it holds something, is a file, or its parent cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise InvalidInput(f"{folder} exists and is not empty: name a new folder, or remove it")
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder} is a file: name a folder for the C files")
    parent = next(place for place in (folder, *folder.parents) if place.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InvalidInput(f"{folder} cannot be made in {parent}: it cannot be written")
    return folder


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """All files or none: written beside their place, then moved."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}") from error
    try:
        for file, text in texts.items():
            (beside / file).parent.mkdir(exist_ok=True)
            (beside / file).write_text(text, encoding="utf-8")
        beside.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        beside.rename(folder)
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
