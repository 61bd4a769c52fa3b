"""A Langevin machine in C samples what its integer simulator and, nearly, the float one samples."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from tests.quantization.export.langevin_c import (
    ANNEALED,
    RECURRENT,
    annealed_machine,
    compiled,
    compiler,
    longer,
    recurrent_machine,
    self_test,
    whitened_picture,
)

from driftwell.core.errors import InvalidInput
from driftwell.data import AtanhScaling, PlainScaling, Transform
from driftwell.models.langevin.kinds import Machine
from driftwell.models.langevin.presets import Recipe
from driftwell.models.langevin.trainer import Layout
from driftwell.quantization.export.c.langevin import export_langevin_c
from driftwell.quantization.export.c.langevin_build import Picture, langevin_program
from driftwell.quantization.export.c.langevin_program import RecurrentProgram
from driftwell.quantization.formats import NormalFloat, Ternary, Uniform
from driftwell.quantization.langevin import QuantizedLangevinMachine, quantize_langevin

# ---------------------------------------------------------------- C equals the simulator


@pytest.mark.parametrize(("bits", "activation_bits"), [(8, 8), (4, 8), (3, 12), (2, 5)])
@pytest.mark.parametrize("family", ["recurrent", "annealed"])
def test_a_thousand_states_agree_to_the_bit(
    family: str, bits: int, activation_bits: int, tmp_path: Path
) -> None:
    """Sanitizers are on, and the self-test compares the report's bytes with sizeof, too."""
    machine, recipe, picture = recurrent_machine(), longer(RECURRENT, 100), None
    if family == "annealed":
        machine, recipe, picture = annealed_machine(), longer(ANNEALED, 50), whitened_picture()
    report = export_langevin_c(
        machine, tmp_path / "c", recipe=recipe, bits=bits, activation_bits=activation_bits,
        picture=picture, vectors=1000,
    )  # fmt: skip
    done = self_test(tmp_path / "c")
    assert done.returncode == 0, done.stdout
    assert "1000 states of" in done.stdout
    assert " 0 differ" in done.stdout
    assert report.error < (0.5 if bits < 8 else 0.03)
    assert report.macs == (2 * 81 if family == "recurrent" else 4 * 6 * 8 + 11 * 14 // 7)


@pytest.mark.parametrize(
    ("transform", "labels"),
    [(AtanhScaling(), 3), (PlainScaling(-2.0, 1.0), 0), (PlainScaling(shown_as_rate=True), 3)],
)
def test_pixels_and_labels_agree_to_the_bit(
    transform: Transform, labels: int, tmp_path: Path
) -> None:
    export_langevin_c(
        recurrent_machine(), tmp_path / "c", recipe=RECURRENT, name="small",
        picture=Picture(transform, 3 - labels // 3, 3), layout=Layout(9 - labels, labels),
    )  # fmt: skip
    done = self_test(tmp_path / "c", "small")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("scheme", ["unlabelled", "euler", "one level", "one bit"])
def test_the_rarer_settings_agree_to_the_bit(scheme: str, tmp_path: Path) -> None:
    machine: Machine = recurrent_machine()
    recipe, bits = RECURRENT, 8
    if scheme == "euler":
        recipe = Recipe(sampler="unadjusted", step_size=0.02, sample_steps=60)
    if scheme == "one bit":
        bits = 1  # no level is zero, the diagonal is none the less
    if scheme == "unlabelled":
        machine, recipe = annealed_machine(labels=0), ANNEALED
    if scheme == "one level":
        machine, recipe = annealed_machine(), Recipe(
            learning="denoising", hidden=8, levels=1, sample_steps=20
        )  # fmt: skip
    export_langevin_c(machine, tmp_path / "c", recipe=recipe, bits=bits)
    done = self_test(tmp_path / "c")
    assert done.returncode == 0, done.stdout


def test_a_damaged_weight_fails_the_self_test(tmp_path: Path) -> None:
    export_langevin_c(recurrent_machine(), tmp_path / "c", recipe=RECURRENT)
    source = tmp_path / "c" / "langevin.c"
    head, codes = source.read_text().split("dw_J_codes[81] = {", 1)
    first = codes.split(",")[1]
    changed = codes.replace(f"{first},", f" {(int(first) + 4) % 256},", 1)
    source.write_text(head + "dw_J_codes[81] = {" + changed)
    done = self_test(tmp_path / "c")
    assert done.returncode == 1
    assert "first difference: chain 0" in done.stdout


def test_the_same_machine_gives_the_same_bytes(tmp_path: Path) -> None:
    for place in ("a", "b"):
        report = export_langevin_c(annealed_machine(), tmp_path / place, recipe=ANNEALED)
    for file in report.files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


# ---------------------------------------------------------------- the program that draws


def test_it_draws_what_the_simulator_draws_as_a_picture_and_as_text(tmp_path: Path) -> None:
    picture = whitened_picture()
    folder = tmp_path / "c"
    export_langevin_c(annealed_machine(), folder, recipe=ANNEALED, picture=picture)
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    for command in (["make", f"CC={compiler()}"], ["./self_test"],
                    ["./sample", "5", "11", "out.pgm"]):  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    draw = folder / "sample"
    data = (folder / "out.pgm").read_bytes()
    head = b"P5\n105 19\n255\n"  # two bands of eight 2 x 3, pixels of 4 x 4
    assert data.startswith(head)
    drawn = torch.tensor(list(data[len(head) :])).reshape(19, 105)
    assert (drawn[::9] == 96).all()
    assert (drawn[:, ::13] == 96).all()
    cells = drawn[1:, 1:].reshape(2, 9, 8, 13)[:, :8, :, :12].reshape(2, 2, 4, 8, 3, 4)
    assert (cells == cells[:, :, :1, :, :, :1]).all()
    grey = cells[:, :, 0, :, :, 0].permute(0, 2, 1, 3)
    program = langevin_program(annealed_machine(), ANNEALED, picture=picture)
    assert program.decoder is not None
    pixels = program.decoder.decode(program.sample(5, torch.arange(11)))
    assert grey.reshape(16, 6)[:11].tolist() == pixels.tolist()
    said = subprocess.run([draw, "5", "8"], capture_output=True, text=True, check=True).stdout
    assert [len(line) for line in said.splitlines()] == [48, 48]
    wrong = subprocess.run([draw, "5", "8", "-", "3"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "LABEL must be 0 to 2" in wrong.stderr
    assert subprocess.run([draw, "5"], capture_output=True, check=False).returncode == 2


def test_without_a_picture_it_lists_states_as_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    export_langevin_c(recurrent_machine(), folder, recipe=RECURRENT)
    draw = compiled(folder, Path("langevin.c"), Path("draw/sample.c"))
    said = subprocess.run([draw, "1", "3"], capture_output=True, text=True, check=True).stdout
    found = torch.tensor([[float(x) for x in row.split()] for row in said.splitlines()])
    program = langevin_program(recurrent_machine(), RECURRENT)
    expected = program.values(program.sample(1, torch.arange(3)))
    assert torch.allclose(found.double(), expected, atol=1e-6)


# ---------------------------------------------------------------- what is refused


def refused(folder: Path, **settings: object) -> str:
    """The sentence of a refusal that wrote nothing."""
    machine = settings.pop("machine", recurrent_machine())
    options: dict[str, object] = {"recipe": RECURRENT} | settings
    with pytest.raises(InvalidInput) as error:
        export_langevin_c(machine, folder, **options)  # type: ignore[arg-type]
    return str(error.value)


def test_mistakes_are_named_before_anything_is_written(tmp_path: Path) -> None:
    place = tmp_path / "c"
    broken = recurrent_machine()
    with torch.no_grad():
        broken.J[1, 2] = float("nan")
    heavy = recurrent_machine()
    with torch.no_grad():
        heavy.J.mul_(1e6)
    J = recurrent_machine().J.detach()
    uneven = {"J": NormalFloat(4, group_size=9).encode(J)}
    grouped = {"J": Uniform(4, symmetric=True, per="group", group_size=3).encode(J)}
    other = {"K": Uniform(4, symmetric=True).encode(J)}
    picture = Picture(AtanhScaling(), 4, 4)
    short = Recipe(learning="denoising", hidden=8, levels=7, sample_steps=6)
    sentences = {
        "is not finite": refused(place, machine=broken),
        "too large": refused(place, machine=heavy),
        "evenly spaced": refused(place, couplings=uneven),
        "per='tensor' or per='channel'": refused(place, couplings=grouped),
        "no coupling of this machine": refused(place, couplings=other),
        "4 x 4 pixels": refused(place, picture=picture),
        "activation_bits must be 4 to 12": refused(place, activation_bits=16),
        "1 to 8 bits": refused(place, bits=9),
        "lower-case": refused(place, name="Langevin"),
        "a layout of 5 neurons": refused(place, layout=Layout(5)),
        "at least one state": refused(place, vectors=0),
        "not for Linear": refused(place, machine=torch.nn.Linear(2, 2)),
        "a step at each": refused(place, machine=annealed_machine(), recipe=short),
    }
    for part, sentence in sentences.items():
        assert part in sentence, sentence
    assert not any(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not empty" in refused(tmp_path)
    assert "is a file" in refused(tmp_path / "notes.txt")
    assert "cannot be made" in refused(tmp_path / "notes.txt" / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("bits", [4, 2])
def test_quantized_machines_are_written_as_they_are(bits: int, tmp_path: Path) -> None:
    """Affine and centred levels, zeros that differ by row, a diagonal that stays zero."""
    small = quantize_langevin(recurrent_machine(), bits, method="rtn").machine
    noisy = quantize_langevin(annealed_machine(), bits, method="rtn", recipe=ANNEALED).machine
    for name, machine, recipe in (("r", small, RECURRENT), ("a", noisy, ANNEALED)):
        export_langevin_c(machine, tmp_path / name, recipe=recipe)
        assert self_test(tmp_path / name).returncode == 0
    program = langevin_program(small, RECURRENT)
    assert isinstance(program, RecurrentProgram)
    assert isinstance(small, QuantizedLangevinMachine)
    assert torch.equal(program.J.integers, small.couplings.integers.Q.long())


def test_ternary_couplings_are_taken_as_they_are(tmp_path: Path) -> None:
    machine = recurrent_machine()
    quantized = Ternary(per="channel").encode(machine.J.detach())
    program = langevin_program(machine, RECURRENT, couplings={"J": quantized})
    export_langevin_c(machine, tmp_path / "c", recipe=RECURRENT, couplings={"J": quantized})
    assert self_test(tmp_path / "c").returncode == 0
    assert isinstance(program, RecurrentProgram)
    assert set(program.J.integers.unique().tolist()) == {-1, 0, 1}
