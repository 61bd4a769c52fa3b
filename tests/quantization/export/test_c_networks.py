"""Networks in C: every layer bit for bit what the simulator gives, on 1,000 inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.quantization.export.compiled import agrees, needs_compiler
from torch import Tensor, nn

from driftwell.models.equilibrium import DEQClassifier
from driftwell.quantization.export.c import Settling, equilibrium_network, lower, simulate
from driftwell.quantization.formats import Binary, NormalFloat, PowerOfTwo, Ternary, Uniform
from driftwell.quantization.modules import QuantizedLinear
from driftwell.quantization.modules.parameter import quantized_parameter
from driftwell.quantization.post_training import Inputs, quantize


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(model: nn.Module, seed: int = 1) -> nn.Module:
    """The model in eval mode, with weights of variance 1 / fan-in from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
    return model.eval()


def mlp() -> nn.Module:
    layers = (nn.Linear(20, 33), nn.Tanh(), nn.Linear(33, 17), nn.ReLU(), nn.Linear(17, 8))
    return nn.Sequential(*layers, nn.GELU(), nn.Linear(8, 5))


class Normalized(nn.Module):
    """A residual block with a normalisation, a product and functions of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 6)
        self.norm = nn.BatchNorm1d(12)
        self.norm.running_mean = drawn(12, seed=3)
        self.norm.running_var = drawn(12, seed=4).square() + 0.3

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = torch.relu(self.norm(self.b(h)) + h)
        found: Tensor = self.c(h * x - h + 0.5 * x)
        return found


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(8, 12, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip


def cnn_of_signals() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, dilation=2, padding="same"), nn.SiLU(), nn.MaxPool1d(3, 2, padding=1),
        nn.Conv1d(8, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


class Reader(nn.Module):
    """A recurrent layer and a read-out, at every time or at the end."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, last: bool = False) -> None:
        super().__init__()
        self.net = kind(5, 16, num_layers=layers, batch_first=True)  # type: ignore[call-arg]
        self.out, self.last = nn.Linear(16, 4), last

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.net(x)
        found: Tensor = self.out(y[:, -1] if self.last else y)
        return found


class TwoInputs(nn.Module):
    """A layer that is settled: tanh(z / 2 + W z + V x)."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(0.5 * z + 0.3 * self.w(z) + self.v(x))


class TwoStages(nn.Module):
    """A settled layer that reads x early and writes late, when x must still be there."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        h = torch.tanh(self.w(z) * x)
        found: Tensor = 0.5 * torch.tanh(self.b(torch.relu(self.a(h))))
        return found


def deq(activation: str) -> nn.Module:
    return DEQClassifier(40, 24, 5, activation=activation, seed=0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp": (mlp, drawn(200, 20)),
    "residual": (Normalized, drawn(200, 12)),
    "cnn": (cnn, drawn(100, 1, 12, 12)),
    "signals": (cnn_of_signals, drawn(100, 3, 40)),
    "rnn": (lambda: Reader(nn.RNN), drawn(50, 20, 5)),
    "gru": (lambda: Reader(nn.GRU), drawn(50, 20, 5)),
    "lstm, two layers": (lambda: Reader(nn.LSTM, 2, last=True), drawn(50, 20, 5)),
    "cell": (lambda: nn.GRUCell(5, 9), drawn(50, 20, 5)),
    "settling": (lambda: nn.Sequential(Settling(TwoInputs(), (8,), 9)), drawn(200, 4)),
    "two stages": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Settling(TwoStages(), (8,), 9)),
        drawn(200, 4),
    ),
}
"""Each model's builder, and data it is calibrated on."""
THOUSAND = [(name, bits) for name in ("mlp", "cnn", "gru") for bits in (8, 4, 2)]
OTHERS = [(name, 8) for name in NETWORKS if name not in ("mlp", "cnn", "gru")]


@needs_compiler
@pytest.mark.parametrize(("name", "bits"), THOUSAND)
def test_c_gives_the_bits_of_the_simulator(tmp_path: Path, name: str, bits: int) -> None:
    build, calibration = NETWORKS[name]
    program = lower(filled(build()), calibration, bits=bits)
    assert agrees(program, tmp_path)


@needs_compiler
@pytest.mark.parametrize(("name", "bits"), [*OTHERS, ("lstm, two layers", 3)])
def test_c_carries_other_layers_as_well(tmp_path: Path, name: str, bits: int) -> None:
    build, calibration = NETWORKS[name]
    program = lower(filled(build()), calibration, bits=bits)
    assert agrees(program, tmp_path, 200)


@needs_compiler
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_c_settles_where_the_simulator_does(tmp_path: Path, activation: str, bits: int) -> None:
    program = lower(deq(activation).eval(), drawn(200, 40), bits=bits, iterations=12)
    assert program.macs == 40 * 24 + 12 * 24 * 24 + 24 * 5
    assert agrees(program, tmp_path)


@needs_compiler
def test_c_reads_tokens_through_an_embedding(tmp_path: Path) -> None:
    layers = (nn.Embedding(20, 8), nn.Linear(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(48, 20))
    tokens = torch.arange(600).reshape(100, 6) * 7 % 20
    program = lower(filled(nn.Sequential(*layers)), tokens)
    assert program.buffer("input").bits == 16
    assert agrees(program, tmp_path, 200)


@needs_compiler
@pytest.mark.parametrize(
    "form",
    [Uniform(3), Uniform(5, symmetric=True), Binary(), Ternary(), PowerOfTwo(4), NormalFloat(4)],
    ids=lambda form: type(form).__name__,
)
def test_packed_layers_are_taken_as_they_are(tmp_path: Path, form: object) -> None:
    """Every format with a scale a row; the float network runs the very same weights."""
    if isinstance(form, NormalFloat):
        form = NormalFloat(4, group_size=24)
    first, last = filled(nn.Linear(24, 16)), filled(nn.Linear(16, 4), seed=2)
    packed = QuantizedLinear.from_float(first, form.encode(first.weight.detach()))  # type: ignore[attr-defined, arg-type]
    model = nn.Sequential(packed, nn.ReLU(), last).eval()
    x = drawn(300, 24)
    program = lower(model, x)
    q = program.buffer(program.input).quantize(x)
    found = program.buffer(program.output).dequantize(simulate(program, q))
    with torch.no_grad():
        wanted = model(x).double()
    assert (found - wanted).norm() < 0.02 * wanted.norm()
    assert agrees(program, tmp_path, 300)


@needs_compiler
def test_an_equilibrium_of_packed_matrices_keeps_their_codes(tmp_path: Path) -> None:
    """Zeros of fractions of a code, as fitted grids have them, included."""
    model = deq("relu")
    for name in ("W_0", "U", "V"):
        quantized = Uniform(4).encode(getattr(model, name).detach())
        moved = quantized.grid.zero + 0.3 * drawn(*quantized.grid.zero.shape)
        quantized = type(quantized)(
            quantized.codes, quantized.grid.replaced(zero=moved), quantized.shape, quantized.dtype
        )
        quantized_parameter(model, name, quantized)
    x = drawn(200, 40)
    program = lower(model.eval(), x, iterations=40)
    found = program.buffer(program.output).dequantize(
        simulate(program, program.buffer(program.input).quantize(x))
    )
    with torch.no_grad():
        wanted = model(x)[0].double()
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    assert agrees(program, tmp_path, 300)


def test_a_state_lasts_from_step_to_step_and_is_each_sample_s_own() -> None:
    build, calibration = NETWORKS["gru"]
    program = lower(filled(build()), calibration)
    q = program.buffer(program.input).quantize(calibration)
    state: dict[str, Tensor] = {}
    together = torch.stack([simulate(program, q[:, t], state) for t in range(20)], 1)
    alone: dict[str, Tensor] = {}
    single = torch.stack([simulate(program, q[7:8, t], alone) for t in range(20)], 1)
    assert torch.equal(together[7:8], single)
    assert not torch.equal(simulate(program, q[:, 5]), together[:, 5])


@needs_compiler
def test_rows_that_hardly_count_beside_their_bias_do_no_harm(tmp_path: Path) -> None:
    """Dead units, of weights 0 or tiny ones, are what training leaves; their bias must be right."""
    layer = filled(nn.Linear(12, 4))
    with torch.no_grad():
        layer.weight[0] = 0.0  # type: ignore[operator, index]
        layer.weight[1] *= 1e-13  # type: ignore[operator, index]
        layer.bias.copy_(torch.tensor([0.7, -0.9, 0.2, 0.1]))  # type: ignore[union-attr, operator]
    x = drawn(100, 12)
    program = lower(layer, x)
    found = program.buffer(program.output)
    q = simulate(program, program.buffer("input").quantize(x))
    assert (found.dequantize(q)[:, :2] - torch.tensor([0.7, -0.9])).abs().max() < found.scale
    assert agrees(program, tmp_path, 100)


def test_a_classifier_takes_raw_inputs_if_it_is_told_how_they_are_standardised() -> None:
    model, raw = deq("relu").eval(), 7.0 + 3.0 * drawn(100, 40)
    network = equilibrium_network(model, 60, mean=raw.mean(0), scale=3.0)
    with torch.no_grad():
        wanted = model((raw - raw.mean(0)) / 3.0)[0]
        assert (network(raw) - wanted).abs().max() < 1e-3 * wanted.abs().max()
    program = lower(network, raw)
    q = simulate(program, program.buffer("input").quantize(raw))
    found = program.buffer(program.output).dequantize(q)
    assert (found - wanted).norm() < 0.05 * wanted.norm()


@needs_compiler
def test_a_model_that_was_quantized_after_training_ships_its_own_codes(tmp_path: Path) -> None:
    """The default method of `quantize`, which fits scales and zeros, in 4 bits."""
    model, x = filled(cnn()), drawn(64, 1, 12, 12)
    small = quantize(model, Inputs([x]), format=Uniform(4)).model.eval()
    program = lower(small, x)
    found = program.buffer(program.output).dequantize(
        simulate(program, program.buffer("input").quantize(x))
    )
    with torch.no_grad():
        wanted = small(x).double()
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    assert agrees(program, tmp_path, 100)
