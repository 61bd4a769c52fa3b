"""A training step in C: PyTorch's losses, gradients and weights, in the memory that was planned."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from tests.quantization.edge.test_training_plan import Odd, deep, small
from tests.quantization.export.compiled import COMPILER, compile_and_run, needs_compiler
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.training_c import export_training_c
from driftwell.quantization.edge.training_lowering import lower_training
from driftwell.quantization.edge.training_plan import plan_training
from driftwell.quantization.edge.training_self_test import loss_of, reference
from driftwell.quantization.edge.training_source import Loss, Parameter, parameters_of

PLAIN = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic")


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights from a generator, the scale of torch's own."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            fan = p[0].numel() if p.ndim > 1 else 4
            p.copy_((torch.rand(p.shape, generator=draw) * 2 - 1) * (3.0 / fan) ** 0.5)
    return model


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pools() -> nn.Module:
    """Windows that overlap, reach over the edge, and skip; a sum of two activations of x."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tanh = nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            y = torch.sigmoid(self.tanh(x))
            return y + torch.sigmoid(x)

    return nn.Sequential(
        nn.MaxPool2d(2, stride=1), nn.Conv2d(2, 6, (3, 2), stride=(2, 1), padding=(2, 1),
        dilation=(2, 1), groups=2, bias=False), Both(), nn.MaxPool2d(3, stride=2, padding=1),
        nn.AvgPool2d((2, 3), stride=(1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(6, 6, bias=False),
    )  # fmt: skip


class Late(nn.Module):
    """Layers that are made in another order than they run, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.idle, self.first = nn.Linear(5, 3), nn.Linear(2, 2), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def frozen() -> nn.Module:
    model = small()
    model[4].requires_grad_(False)
    return model


MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "small": (small(), (2, 8, 8)),
    "deep": (deep(), (1, 8, 8)),
    "pools": (pools(), (2, 8, 8)),
    "late": (Late(), (4,)),
    "frozen": (frozen(), (2, 8, 8)),
    "one layer": (nn.Linear(3, 2), (3,)),
    "activation first": (nn.Sequential(nn.Tanh(), nn.Linear(3, 2), nn.Sigmoid()), (3,)),
}


def arrays_in_c(folder: Path, parameters: tuple[Parameter, ...], steps: str) -> list[Tensor]:
    """What the gradients and weights are in C after some statements."""
    names = [f"{p.name}{end}" for p in parameters for end in ("_gradient", "")]
    sizes = [p.values.numel() for p in parameters for _ in range(2)]
    loops = "\n".join(
        f'    for (int i = 0; i < {size}; i++)\n        printf("%.9g\\n", (double){name}[i]);'
        for name, size in zip(names, sizes, strict=True)
    )
    (folder / "print.c").write_text(
        f'#include "network.h"\n#include <stdio.h>\n{steps}\n{loops}\n    return 0;\n}}\n'
    )
    said = compile_and_run(folder, "network.c", "print.c")
    return list(torch.tensor([float(word) for word in said.split()]).split(sizes))


def main_with(x: Tensor, targets: Tensor, body: str) -> str:
    kind = "float" if targets.is_floating_point() else "int"
    f = "f" if kind == "float" else ""
    a = ", ".join(f"{v!r}f" for v in x.flatten().tolist())
    b = ", ".join(f"{v!r}{f}" for v in targets.flatten().tolist())
    return (
        f"static const float x[] = {{{a}}};\nstatic const {kind} t[] = {{{b}}};\n"
        f"int main(void)\n{{\n    {body}"
    )


def data_for(name: str, count: int, loss: Loss) -> tuple[nn.Module, Tensor, Tensor]:
    model, shape = MODELS[name]
    model, x = filled(model), drawn(count, *shape)
    with torch.no_grad():
        out = model(x[:1]).numel()
    targets = torch.arange(count) % out if loss == "cross_entropy" else drawn(count, out, seed=2)
    return model, x, targets


@needs_compiler
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_pytorch_to_a_hundred_thousandth(
    tmp_path: Path, name: str, loss: Loss
) -> None:
    """Each array by itself, relative to its own norm; tiles of a memory of 256 bytes."""
    model, x, targets = data_for(name, 1, loss)
    export_training_c(model, tmp_path, samples=x, targets=targets, loss=loss, fast_bytes=256)
    compile_and_run(tmp_path, "network.c", "self_test.c")
    program = lower_training(model, tuple(x.shape[1:]))
    learned = tuple(p for p in parameters_of(program, "network") if p.trained)
    argument = "t[0]" if loss == "cross_entropy" else "t"
    found = arrays_in_c(
        tmp_path, learned, main_with(x, targets, f"network_gradient(x, {argument});")
    )
    weights = [p.values for p in learned]
    value = loss_of(model(x), targets, loss)
    for p, c, wanted in zip(learned, found[::2], torch.autograd.grad(value, weights), strict=True):
        assert (c - wanted.flatten()).norm() <= 1e-5 * wanted.norm() + 1e-9, p.name
    assert len(learned) >= 1


@needs_compiler
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_a_hundred_steps_are_those_of_pytorch(tmp_path: Path, optimizer: str) -> None:
    """The self-test compares losses and weights after 100 steps, to 1e-5."""
    model, x, targets = data_for("small", 100, "cross_entropy")
    momentum = 0.9 if optimizer == "momentum" else 0.0
    before = [p.clone() for p in model.parameters()]
    report = export_training_c(
        model, tmp_path, samples=x, targets=targets, optimizer=optimizer,  # type: ignore[arg-type]
        rate=0.01, momentum=momentum, vectors=100,
    )  # fmt: skip
    said = compile_and_run(tmp_path, *sorted(f.name for f in tmp_path.glob("*.c")), flags=PLAIN)
    assert said.startswith("network: 100 steps")
    assert report.vectors == 100
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    wanted = reference(
        lower_training(model, (2, 8, 8)), x, targets, "cross_entropy", 0.01, momentum
    )
    moved = [
        (after - p).abs().max() for after, p in zip(wanted.weights, model.parameters(), strict=True)
    ]
    assert min(moved) > 0.01  # there was something to compare


@needs_compiler
def test_gradients_of_the_c_are_slopes_of_its_own_loss(tmp_path: Path) -> None:
    """Central differences of the compiled loss along the gradient, without PyTorch."""
    model, x, targets = data_for("small", 1, "mse")
    export_training_c(model, tmp_path, samples=x, targets=targets, loss="mse")
    (tmp_path / "slope.c").write_text(
        '#include "network.h"\n#include <stdio.h>\n'
        + main_with(x, targets, "double up, down, square = 0.0;\n")
        + "    network_gradient(x, t);\n"
        "    for (int i = 0; i < 72; i++)\n"
        "        square += (double)network_weight_0_gradient[i] * network_weight_0_gradient[i];\n"
        "    float saved[72], along[72];\n"
        "    for (int i = 0; i < 72; i++) {\n"
        "        saved[i] = network_weight_0[i];\n"
        "        along[i] = network_weight_0_gradient[i];\n"
        "        network_weight_0[i] = saved[i] + 0.01f * along[i];\n    }\n"
        "    up = (double)network_gradient(x, t);\n"
        "    for (int i = 0; i < 72; i++)\n"
        "        network_weight_0[i] = saved[i] - 0.01f * along[i];\n"
        "    down = (double)network_gradient(x, t);\n"
        '    printf("%.9g %.9g\\n", (up - down) / 0.02, square);\n    return 0;\n}\n'
    )
    slope, square = map(
        float, compile_and_run(tmp_path, "network.c", "slope.c", flags=PLAIN).split()
    )
    assert slope == pytest.approx(square, rel=1e-2)
    assert square > 1e-3


@needs_compiler
def test_gradients_of_several_samples_add_up(tmp_path: Path) -> None:
    model, x, targets = data_for("deep", 3, "cross_entropy")
    export_training_c(model, tmp_path, samples=x, targets=targets)
    learned = parameters_of(lower_training(model, (1, 8, 8)), "network")
    body = "for (int n = 0; n < 3; n++)\n        network_gradient(x + 64 * n, t[n]);"
    found = arrays_in_c(tmp_path, learned, main_with(x, targets, body))
    loss = nn.functional.cross_entropy(model(x), targets, reduction="sum")
    wanted = torch.autograd.grad(loss, [p.values for p in learned])
    for c, w in zip(found[::2], wanted, strict=True):
        assert (c - w.flatten()).norm() <= 1e-5 * w.norm() + 1e-9


@needs_compiler
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("name", ["small", "deep", "pools", "frozen"])
def test_the_planned_bytes_are_those_of_all_arrays(
    tmp_path: Path, name: str, optimizer: str
) -> None:
    """By sizeof of each array, and by the symbols of data in the object file."""
    model, x, targets = data_for(name, 1, "cross_entropy")
    plan = plan_training(model, tuple(x.shape[1:]), optimizer=optimizer)  # type: ignore[arg-type]
    report = export_training_c(
        model, tmp_path, samples=x, targets=targets, optimizer=optimizer  # type: ignore[arg-type]
    )  # fmt: skip
    names = re.findall(r"extern float (\w+)\[", (tmp_path / "network.h").read_text())
    total = " + ".join(f"sizeof {each}" for each in [*names, "memory"])
    (tmp_path / "sizes.c").write_text(
        '#include "network.c"\n#include <stdio.h>\nint main(void)\n{\n'
        f'    printf("%lu\\n", (unsigned long)({total}));\n    return 0;\n}}\n'
    )
    assert int(compile_and_run(tmp_path, "sizes.c", flags=PLAIN)) == plan.total_bytes
    assert report.ram_bytes == plan.total_bytes
    assert report.macs == sum(plan.macs)
    if (nm := shutil.which("nm")) is None:
        return
    subprocess.run([str(COMPILER), *PLAIN, "-c", "network.c"], cwd=tmp_path, check=True)
    said = subprocess.run(
        [nm, "-S", "network.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    sizes = [line.split() for line in said.splitlines()]
    written = sum(int(s[1], 16) for s in sizes if len(s) == 4 and s[2] in "bBdDcC")
    assert written == plan.total_bytes


@needs_compiler
def test_a_wrong_weight_fails_the_self_test(tmp_path: Path) -> None:
    model, x, targets = data_for("small", 2, "cross_entropy")
    export_training_c(model, tmp_path, samples=x, targets=targets)
    text = (tmp_path / "network.c").read_text()
    first = re.search(r"float network_weight_0\[72\] = \{\s+(\S+)f,", text)
    assert first is not None
    (tmp_path / "network.c").write_text(text.replace(f"{first.group(1)}f,", "0.9f,", 1))
    with pytest.raises(AssertionError, match="largest differences"):
        compile_and_run(tmp_path, "network.c", "self_test.c")


@needs_compiler
def test_a_model_in_double_or_with_large_memory_gives_the_same_text(tmp_path: Path) -> None:
    model, x, targets = data_for("small", 2, "cross_entropy")
    for folder, each in (("a", model), ("b", model), ("c", filled(small()).double())):
        export_training_c(each, tmp_path / folder, samples=x, targets=targets)
    texts = [(tmp_path / f / "network.c").read_text() for f in "ab"]
    assert texts[0] == texts[1]
    compile_and_run(tmp_path / "c", "network.c", "self_test.c")


@pytest.mark.parametrize(
    ("model", "x", "targets", "message"),
    [
        (Odd(), drawn(1, 2, 4, 8), torch.zeros(1).long(), "BatchNorm2d"),
        (nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)), drawn(1, 3), torch.zeros(1).long(), "Soft"),
        (nn.Linear(3, 2), drawn(4, 3), torch.zeros(3).long(), "4 samples have 3 targets"),
        (nn.Linear(3, 2), drawn(4, 3), torch.full((4,), 2), "0..1"),
        (nn.Linear(3, 2), drawn(4, 3), drawn(4), "whole numbers"),
        (nn.Linear(3, 2), drawn(4, 5), torch.zeros(4).long(), "does not run"),
        (nn.Linear(3, 2), torch.full((4, 3), torch.nan), torch.zeros(4).long(), "not finite"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    tmp_path: Path, model: nn.Module, x: Tensor, targets: Tensor, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        export_training_c(model, tmp_path / "out", samples=x, targets=targets)
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    x, t = drawn(2, 3), torch.zeros(2).long()
    for given, message in (
        ({"momentum": 0.5}, "momentum needs"),
        ({"loss": "mse"}, "2 finite values a sample"),
        ({"loss": "hinge"}, "hinge"),
        ({"name": "dw_x"}, "dw_"),
        ({"optimizer": "adam"}, "adam"),
    ):
        with pytest.raises(InvalidInput, match=message):
            export_training_c(nn.Linear(3, 2), tmp_path / "out", samples=x, targets=t, **given)
    assert not (tmp_path / "out").exists()
