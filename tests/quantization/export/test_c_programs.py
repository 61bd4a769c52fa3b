"""What is written as C: sizes, text, states, errors, and how near to the float model it is."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.quantization.export.compiled import compile_and_run, hard_inputs, needs_compiler
from tests.quantization.export.test_c_networks import NETWORKS, deq, drawn, filled, mlp
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c import CReport, Settling, emit, export_c, lower, simulate
from driftwell.quantization.formats import NormalFloat
from driftwell.quantization.modules import QuantizedLinear


def written(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


@needs_compiler
@pytest.mark.parametrize("name", ["cnn", "lstm, two layers", "settling"])
def test_the_report_s_bytes_are_those_of_the_compiled_arrays(tmp_path: Path, name: str) -> None:
    build, calibration = NETWORKS[name]
    report = export_c(filled(build()), tmp_path, calibration=calibration, bits=4)
    program = lower(filled(build()), calibration, bits=4)
    sizes = " + ".join(f"sizeof {constant.name}" for constant in program.constants())
    (tmp_path / "sizes.c").write_text(
        '#include "network.c"\n#include <stdio.h>\n'
        f'int main(void) {{ printf("%zu %zu", {sizes}, sizeof memory); return 0; }}\n'
    )
    rom, ram = compile_and_run(tmp_path, "sizes.c", flags=("-O1",)).split()
    padding = 4  # the struct ends on a multiple of its largest entry
    assert int(rom) == report.rom_bytes
    assert report.ram_bytes <= int(ram) < report.ram_bytes + padding


def test_weights_take_the_bits_they_are_asked_in() -> None:
    sizes = {}
    for bits in (8, 4, 2):
        program = lower(filled(nn.Sequential(nn.Linear(64, 32))), drawn(50, 64), bits=bits)
        codes = next(c for c in program.constants() if c.name.endswith("codes"))
        sizes[bits] = codes.nbytes
    assert sizes == {8: 2048, 4: 1024, 2: 512}


def test_buffers_that_are_not_needed_together_share_their_place(tmp_path: Path) -> None:
    """A chain of layers 64 -> 32 -> 48 -> 16 -> 4 needs two neighbours at a time: 32 + 48."""
    widths = (64, 32, 48, 16, 4)
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    report = export_c(filled(nn.Sequential(*layers)), tmp_path, calibration=drawn(50, 64))
    assert report.ram_bytes == 32 + 48
    assert report.macs == 64 * 32 + 32 * 48 + 48 * 16 + 16 * 4


def test_the_same_model_and_data_give_the_same_bytes(tmp_path: Path) -> None:
    texts = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        export_c(filled(mlp()), folder, calibration=drawn(50, 20), name="twice")
        texts.append(written(folder))
    assert texts[0] == texts[1]
    assert not any("malloc" in text.replace("no malloc", "") for text in texts[0].values())
    assert "math.h" not in texts[0]["network.c"]


@needs_compiler
def test_the_folder_builds_as_its_makefile_says(tmp_path: Path) -> None:
    """By the flags that the folder is promised to compile with."""
    report = export_c(filled(mlp()), tmp_path, calibration=drawn(50, 20), name="small", vectors=7)
    flags = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror")
    said = compile_and_run(tmp_path, "network.c", "self_test.c", flags=flags)
    assert said == "small: 7 vectors, 0 outputs differ\n"
    assert (
        f"| read-only tables | {report.rom_bytes} bytes |" in (tmp_path / "README.md").read_text()
    )


@needs_compiler
def test_a_wrong_vector_is_found_by_the_self_test(tmp_path: Path) -> None:
    program = lower(filled(mlp()), drawn(50, 20))
    emit(program, tmp_path, hard_inputs(program, 5))
    text = (tmp_path / "network.c").read_text()
    (tmp_path / "network.c").write_text(text.replace("(in[i] - zero_in)", "(in[i] + zero_in)"))
    with pytest.raises(AssertionError, match="outputs differ"):
        compile_and_run(tmp_path, "network.c", "self_test.c")


@needs_compiler
def test_values_go_in_and_come_out_as_the_buffers_say(tmp_path: Path) -> None:
    """run_float quantizes as `Buffer.quantize` does, not-a-number and infinities aside."""
    program = lower(filled(nn.Sequential(nn.Linear(3, 2))), drawn(50, 3), name="line")
    emit(program, tmp_path, hard_inputs(program, 4))
    x = torch.cat([drawn(40, 3, seed=5), torch.tensor([[1e30, -1e30, 0.0]])])
    numbers = ", ".join(f"{float(v)!r}f" for v in x.flatten())
    (tmp_path / "values.c").write_text(
        '#include "network.h"\n#include <stdio.h>\n'
        f"static const float in[] = {{{numbers}}};\n"
        "int main(void)\n{\n    float out[2];\n"
        f"    for (int n = 0; n < {len(x)}; n++) {{\n"
        "        line_run_float(in + 3 * n, out);\n"
        '        printf("%.9g %.9g\\n", (double)out[0], (double)out[1]);\n    }\n'
        "    return 0;\n}\n"
    )
    said = compile_and_run(tmp_path, "network.c", "values.c")
    found = torch.tensor([float(word) for word in said.split()]).reshape(-1, 2)
    q = simulate(program, program.buffer("input").quantize(x))
    wanted = program.buffer(program.output).dequantize(q)
    assert torch.allclose(found.double(), wanted, rtol=1e-6, atol=0)


@needs_compiler
def test_a_reset_starts_a_sequence_anew(tmp_path: Path) -> None:
    build, calibration = NETWORKS["gru"]
    program = lower(filled(build()), calibration, name="gru")
    emit(program, tmp_path, hard_inputs(program, 20))
    text = (tmp_path / "self_test.c").read_text()
    again = text.replace(
        "    printf(", "    gru_reset();\n    gru_run(inputs, found);\n"
        "    for (int i = 0; i < GRU_OUT_SIZE; i++)\n        wrong += found[i] != outputs[i];\n"
        "    printf(", 1,
    )  # fmt: skip
    (tmp_path / "self_test.c").write_text(again)
    compile_and_run(tmp_path, "network.c", "self_test.c")
    (tmp_path / "self_test.c").write_text(again.replace("    gru_reset();\n    gru_run", "gru_run"))
    with pytest.raises(AssertionError, match="outputs differ"):
        compile_and_run(tmp_path, "network.c", "self_test.c", flags=("-O1",))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Unknown(nn.Module):
    """Three operators that C does not carry, one of them inside a settled layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.settle = Settling(nn.Bilinear(4, 4, 4), (4,), 2)
        self.loop = Settling(Rolling(), (4,), 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.loop(self.norm(x)), 1)


class Rolling(nn.Module):
    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.roll(z, 1, 1) + x


def test_all_that_c_cannot_carry_is_named_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(InvalidInput, match="LayerNorm") as caught:
        export_c(Unknown().eval(), folder, calibration=drawn(5, 4))
    assert "softmax" in str(caught.value)
    assert "roll" in str(caught.value)
    assert not folder.exists()


def per_group() -> nn.Module:
    layer = nn.Linear(8, 4)
    quantized = NormalFloat(4, group_size=4).encode(layer.weight.detach())
    return nn.Sequential(QuantizedLinear.from_float(layer, quantized)).eval()


@pytest.mark.parametrize(
    ("model", "calibration", "options", "message"),
    [
        (nn.Linear(4, 2), drawn(5, 4), {}, "call model.eval"),
        (Branching().eval(), drawn(5, 4), {}, "without branches on values"),
        (mlp().eval(), drawn(5, 21), {}, "cannot run on the calibration data"),
        (mlp().eval(), drawn(5, 20) * float("nan"), {}, "not finite"),
        (mlp().eval(), drawn(0, 20), {}, "a batch of inputs"),
        (mlp().eval(), drawn(5, 20), {"name": "2nd"}, "lower-case"),
        (mlp().eval(), drawn(5, 20), {"bits": 9}, "bits"),
        (mlp().eval(), drawn(5, 20), {"vectors": 0}, "at least one vector"),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4)).eval(), drawn(5, 4), {}, "must follow one"),
        (nn.Sequential(nn.AvgPool1d(2, padding=1)).eval(), drawn(5, 2, 6), {}, "without padding"),
        (nn.GRU(4, 3).eval(), drawn(5, 6, 4), {}, "batch_first"),
        (per_group(), drawn(5, 8), {}, 'per="channel"'),
    ],
)
def test_what_cannot_become_c_is_one_sentence(
    tmp_path: Path, model: nn.Module, calibration: Tensor, options: dict[str, object], message: str
) -> None:
    if isinstance(model, nn.GRU):
        model = nn.Sequential(FirstOf(model)).eval()
    with pytest.raises(InvalidInput, match=message):
        export_c(model, tmp_path / "out", calibration=calibration, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


class FirstOf(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)[0]
        return found


def test_a_sum_that_might_leave_32_bits_is_refused(tmp_path: Path) -> None:
    """66,000 columns of the largest weight times the largest input: 127 * 255 * 66000 > 2^31."""
    model = nn.Sequential(nn.Linear(70_000, 1)).eval()
    nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="beyond 32 bits"):
        lower(model, drawn(3, 70_000).abs())


def test_inputs_that_are_no_integers_of_the_buffer_are_refused() -> None:
    program = lower(filled(mlp()), drawn(50, 20))
    with pytest.raises(InvalidInput, match="takes integers of shape"):
        simulate(program, drawn(3, 20))
    with pytest.raises(InvalidInput, match="8-bit integers"):
        simulate(program, torch.full((3, 20), 200))


def digits() -> tuple[Tensor, Tensor]:
    datasets = pytest.importorskip("sklearn.datasets")
    bundle = datasets.load_digits()
    x = torch.tensor(bundle.data, dtype=torch.float32) / 16
    return x, torch.tensor(bundle.target)


def trained(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    filled(model).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(steps):
        rows = torch.arange(128) * 7 + 128 * step
        loss = functional.cross_entropy(model(x[rows % len(x)]), y[rows % len(x)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def digit_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip


def digit_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


@pytest.mark.parametrize(("build", "steps"), [(digit_mlp, 150), (digit_cnn, 120)])
def test_classes_of_digits_stay_what_they_are_in_8_bits(
    tmp_path: Path, build: type[nn.Module], steps: int
) -> None:
    """On held-out images a class changes only where the two best are within some 8-bit steps.

    Outputs in 8 bits may tie; the share of the same class is bounded loosely, at 97 of 100.
    """
    x, y = digits()
    model = trained(build(), x[:1400], y[:1400], steps)
    reports: dict[int, CReport] = {}
    for bits in (8, 4):
        folder = tmp_path / str(bits)
        reports[bits] = export_c(model, folder, calibration=x[:1400], bits=bits)
        program = lower(model, x[:1400], bits=bits)
        q = simulate(program, program.buffer("input").quantize(x[1400:]))
        with torch.no_grad():
            wanted = model(x[1400:])
        same = q.argmax(1) == wanted.argmax(1)
        assert same.double().mean() > (0.97 if bits == 8 else 0.9)
        best = wanted.topk(2).values
        clear = best[:, 0] - best[:, 1] > 8 * program.buffer(program.output).scale
        assert bool(same[clear].all()) or bits == 4
    assert reports[8].error < 0.03
    assert reports[8].error < reports[4].error
    assert reports[8].agreement > 0.97


def test_more_iterations_bring_an_equilibrium_closer_to_the_solver_s() -> None:
    model, x = deq("tanh").eval(), drawn(200, 40)
    with torch.no_grad():
        wanted = model(x)[0].double()
    errors = []
    for iterations in (1, 4, 30):
        program = lower(model, x, iterations=iterations)
        q = simulate(program, program.buffer("input").quantize(x))
        found = program.buffer(program.output).dequantize(q)
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03


@pytest.mark.parametrize("name", ["mlp", "residual", "gru"])
def test_every_function_in_the_text_is_called(tmp_path: Path, name: str) -> None:
    """One that is not is a warning, hence an error, to some compilers."""
    build, calibration = NETWORKS[name]
    export_c(filled(build()), tmp_path, calibration=calibration)
    text = (tmp_path / "network.c").read_text()
    defined = set(re.findall(r"^static .*?(\w+)\((?!.*;$)", text, re.MULTILINE))
    assert "dw_clamp" in defined
    assert not [f for f in defined if len(re.findall(rf"\b{f}\(", text)) < 2]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_outputs_are_those_of_the_float_model_but_for_rounding(tmp_path: Path, name: str) -> None:
    """Rounding a tensor to 8 bits errs by 1/255/sqrt(12) = .11 % of its range: some of its spread.

    Some layers of that, of independent signs, stay below 5 % of the outputs' norm; a term left
    out or of the wrong sign does not.
    """
    build, calibration = NETWORKS[name]
    report = export_c(filled(build()), tmp_path, calibration=calibration)
    assert report.error < 0.05
