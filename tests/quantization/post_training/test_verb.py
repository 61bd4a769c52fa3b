"""`quantize`: any module, right on the states it visits, and never at the caller's expense."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from driftwell.core.errors import InvalidInput
from driftwell.models.equilibrium import DEQClassifier, MonotoneDEQ
from driftwell.models.langevin import NeuralLangevinMachine
from driftwell.models.proximal import LPN
from driftwell.nn import SpectralBound
from driftwell.quantization.formats import Uniform
from driftwell.quantization.modules import (
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLinear,
    Recurrent,
    StaticActivations,
)
from driftwell.quantization.post_training.calibration import Inputs, LangevinStates
from driftwell.quantization.post_training.layer_report import QuantizationResult
from driftwell.quantization.post_training.round_to_nearest import RoundToNearest
from driftwell.quantization.post_training.verb import quantize


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with weights N(0, 1 / inputs) of one seed."""
    with torch.no_grad():
        for index, p in enumerate(model.parameters()):
            fan = p[0].numel() if p.ndim > 1 else 10
            p.copy_(drawn(*p.shape, seed=1000 * seed + index) / fan**0.5)
    return model


def mlp(seed: int = 0, width: int = 48, depth: int = 3) -> nn.Module:
    sizes = [16] + [width] * depth + [8]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return seeded(nn.Sequential(*layers[:-1]), seed)


def gap(result: QuantizationResult, model: nn.Module, x: Tensor) -> float:
    """|quantized(x) - model(x)| / |model(x)|."""
    with torch.no_grad():
        a, b = model(x), result.model(x)
    a, b = (y[0] if isinstance(y, tuple) else y for y in (a, b))
    return float((a - b).norm() / a.norm())


def test_eight_bits_stay_within_the_bound_of_the_format() -> None:
    """One layer: |y - y_hat|_inf <= step / 2 |x|_1 for plain rounding, which no row exceeds."""
    model, x = mlp(depth=0), drawn(64, 16)
    layer: Any = model[0]
    result = quantize(model, Inputs([x]), format=Uniform(8), method=RoundToNearest())
    step = (layer.weight.amax(1).clamp(min=0) - layer.weight.amin(1).clamp(max=0)) / 255
    bound = 0.5 * step[None] * x.abs().sum(1, keepdim=True)
    assert ((result.model(x) - model(x)).abs() <= bound + 1e-5).all()


def test_each_bit_more_halves_the_error() -> None:
    model, x = mlp(), drawn(256, 16)
    errors = [gap(quantize(model, Inputs([x]), format=Uniform(b)), model, x) for b in (2, 4, 6, 8)]
    for coarse, fine in itertools.pairwise(errors):
        assert 2.5 < coarse / fine < 8


def test_the_model_given_is_not_touched() -> None:
    model, x = mlp().train(), drawn(32, 16)
    before, repr_before = copy.deepcopy(model.state_dict()), repr(model)
    result = quantize(model, Inputs([x]))
    assert repr(model) == repr_before
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    assert model.training
    assert result.model.training
    assert not torch.equal(result.model[0].weight, model[0].weight)


def test_reports_say_what_each_layer_lost() -> None:
    model, x = mlp(), drawn(256, 16)
    result = quantize(model, Inputs([x]), format=Uniform(3), sequential=False)
    assert [layer.name for layer in result.layers] == ["0", "2", "4", "6"]
    seen = x
    for report, place in zip(result.layers, (0, 2, 4, 6), strict=True):
        layer, small = model[place], result.model[place]
        with torch.no_grad():
            error = (seen @ (layer.weight - small.weight).T).norm() / (seen @ layer.weight.T).norm()
            seen = torch.tanh(layer(seen))
        assert report.error == pytest.approx(float(error), rel=1e-3)
        assert report.error < report.rounded
        assert 0 <= report.clip < 0.2
        assert report.nbytes == small.packed_weight.nbytes
        assert report.float_bytes == 4 * report.weights
        assert report.inputs == 256
    assert result.nbytes < result.float_bytes / 6
    assert "0 (Linear): 3 bits" in str(result)


def test_sequential_calibration_aims_at_the_float_outputs_of_rounded_inputs() -> None:
    """The second layer's error is measured on what the rounded first layer gives it."""
    model, x = mlp(depth=1), drawn(256, 16)
    result = quantize(model, Inputs([x]), format=Uniform(2))
    with torch.no_grad():
        seen = torch.tanh(result.model[0](x))
        w, what = model[2].weight, result.model[2].weight
        error = (seen @ (w - what).T).norm() / (seen @ w.T).norm()
    assert result.layers[1].error == pytest.approx(float(error), rel=1e-3)


def test_layers_that_read_one_tensor_are_one_step() -> None:
    runs = 0

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            nonlocal runs
            runs += 1
            weights = torch.softmax(self.q(x) @ self.k(x).mT, dim=-1)
            result: Tensor = self.out(weights @ self.v(x))
            return result

    model = seeded(Attention())
    result = quantize(model, Inputs([drawn(4, 5, 8)]), format=Uniform(8))
    assert [layer.name for layer in result.layers] == ["q", "k", "v", "out"]
    assert runs == 3  # one to see the order, one a step


def test_mixed_bits_and_skips_by_name() -> None:
    model, x = mlp(), drawn(64, 16)
    format = {"0": Uniform(8), "[24]": Uniform(3)}
    result = quantize(model, Inputs([x]), format=format, skip=["4"])
    assert {layer.name: layer.bits for layer in result.layers} == {"0": 8, "2": 3}
    assert set(result.skipped) == {"4", "6"}
    assert result.skipped["6"] == "as no format names it"
    assert isinstance(result.model[6], nn.Linear)


def test_a_tied_table_is_packed_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 16)
            self.head = nn.Linear(16, 20, bias=False)
            self.head.weight = self.table.weight

        def forward(self, index: Tensor) -> Tensor:
            result: Tensor = self.head(torch.tanh(self.table(index)))
            return result

    model, index = seeded(Tied()), torch.arange(20)[None]
    result = quantize(model, Inputs([index]), format=Uniform(8))
    assert [layer.name for layer in result.layers] == ["head"]
    assert result.layers[0].inputs == 20
    assert isinstance(result.model.table, QuantizedEmbedding)
    assert result.model.table.packed_weight is result.model.head.packed_weight
    assert gap(result, model, index) < 0.02


def test_an_embedding_stays_unless_a_format_names_it() -> None:
    model = seeded(nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 4)))
    index = torch.arange(20)[None]
    plain = quantize(model, Inputs([index]), format=Uniform(8))
    assert "embeddings" in plain.skipped["0"]
    named = quantize(model, Inputs([index]), format={"0": Uniform(8), "1": Uniform(8)})
    assert isinstance(named.model[0], QuantizedEmbedding)
    assert gap(named, model, index) < 0.02


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (
            nn.Sequential(
                nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(),
                nn.Conv2d(8, 6, 3, stride=2, dilation=2),
            ),
            drawn(8, 4, 10, 10),
        ),
        (nn.Sequential(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.Conv1d(8, 4, 3)), drawn(8, 4, 20)),
        (nn.LSTM(6, 10, 2, bidirectional=True, batch_first=True), drawn(16, 8, 6)),
        (nn.GRU(6, 10), drawn(8, 16, 6)),
        (nn.GRUCell(6, 10), drawn(64, 6)),
        (nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True), drawn(8, 6, 16)),
        (nn.Linear(16, 8), drawn(32, 16)),
    ],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
def test_the_layers_of_torch(model: nn.Module, x: Tensor) -> None:
    seeded(model)
    result = quantize(model, Inputs([x]), format=Uniform(8))
    assert not result.skipped
    assert gap(result, model, x) < 0.02
    kinds = {type(module) for module in result.model.modules()}
    assert kinds & {QuantizedLinear, QuantizedConv2d} or not isinstance(model, nn.Linear)
    if isinstance(model, nn.RNNBase):
        assert isinstance(result.model, Recurrent)
    blank = quantize(model, Inputs([2 * x]), format=Uniform(8)).model
    blank.load_state_dict(result.model.state_dict())
    assert gap(QuantizationResult(blank, ()), result.model, x) == 0


def test_grouped_convolutions_are_calibrated_group_by_group() -> None:
    """As two convolutions of one group each, on the halves of the image."""
    layer = seeded(nn.Conv2d(4, 6, 3, groups=2, bias=False))
    image = drawn(4, 4, 8, 8) * torch.tensor([1.0, 0.1, 3.0, 0.5])[None, :, None, None]
    whole = quantize(layer, Inputs([image]), format=Uniform(3)).model
    for half in range(2):
        part = nn.Conv2d(2, 3, 3, bias=False)
        with torch.no_grad():
            part.weight.copy_(layer.weight[3 * half : 3 * half + 3])
        x = image[:, 2 * half : 2 * half + 2]
        alone = quantize(part, Inputs([x]), format=Uniform(3)).model
        assert torch.equal(alone.weight, whole.weight[3 * half : 3 * half + 3])


def test_a_parametrized_layer_is_quantized_as_it_acts() -> None:
    model, x = mlp(depth=1), drawn(64, 16)
    parametrize.register_parametrization(model[0], "weight", SpectralBound(0.5))
    result = quantize(model, Inputs([x]), format=Uniform(8))
    assert isinstance(result.model[0], QuantizedLinear)
    assert gap(result, model, x) < 0.02
    assert parametrize.is_parametrized(model[0], "weight")  # and the caller's is as it was


def test_a_copy_that_is_quantized_further_leaves_its_original_alone() -> None:
    model, x = DEQClassifier(20, 32, 4), drawn(64, 20)
    first = quantize(model, Inputs([x]), format={"U": Uniform(8)}).model
    before = first(x)[0]
    second = quantize(first, Inputs([x]), format={"V": Uniform(4)}).model
    assert torch.equal(first(x)[0], before)
    assert isinstance(first.V, nn.Parameter)
    assert not isinstance(second.V, nn.Parameter)


def test_what_is_iterated_multiplies_exactly_and_the_rest_may_be_fast() -> None:
    """A product in bfloat16 keeps a solve from coming to rest."""
    cell = quantize(nn.GRU(6, 10), Inputs([drawn(8, 16, 6)]), format=Uniform(8)).model.cells[0]
    assert cell.hh.packed_weight.exact
    assert not cell.ih.packed_weight.exact
    two = quantize(mlp(), Inputs([drawn(8, 16), drawn(8, 16)])).model
    assert not two[0].packed_weight.exact
    forced = quantize(mlp(), Inputs([drawn(8, 16)]), exact=True).model
    assert forced[0].packed_weight.exact


# ------------------------------------------------------------ the library's own models
def test_a_deep_equilibrium_classifier_comes_to_rest_near_where_it_was() -> None:
    model, x = DEQClassifier(20, 32, 4), drawn(64, 20)
    for bits, tolerance in ((8, 0.006), (4, 0.15)):
        result = quantize(model, Inputs([x]), format=Uniform(bits))
        assert {layer.name for layer in result.layers} == {"U", "W_0", "V"}
        assert not list(p for p in result.model.parameters() if p.ndim > 1)
        _, float_rest = model(x)
        _, rest = result.model(x, throw=True)
        assert (rest.z - float_rest.z).norm() < tolerance * float_rest.z.norm()
        assert torch.linalg.matrix_norm(result.model.couplings(), 2) <= 0.9 + 1e-5


def test_a_langevin_machine_keeps_its_energy() -> None:
    machine = NeuralLangevinMachine(24, gain=1.0)
    start = machine.initial_state(64, seed=1)
    states = LangevinStates(start, steps=100, every=10, warmup=50, seed=2)
    result = quantize(machine, states, format=Uniform(8))
    assert isinstance(result.model, NeuralLangevinMachine)
    energy, rounded = machine.energy(start), result.model.energy(start)
    assert ((rounded - energy).abs() < 0.02 * energy).all()
    assert result.layers[0].inputs == 5 * 64


def test_matrices_behind_a_function_are_named_with_the_reason() -> None:
    monotone = quantize(MonotoneDEQ(8, 12, 3), Inputs([drawn(16, 8)]))
    assert set(monotone.skipped) == {"layer.A", "layer.B"}
    convex = quantize(LPN((1, 8, 8), hidden=4), Inputs([drawn(4, 1, 8, 8)]), format=Uniform(8))
    assert {layer.name for layer in convex.layers} == {f"psi.A.{k}" for k in range(4)}
    for reason in (monotone.skipped["layer.A"], convex.skipped["psi.V.0"]):
        assert "no multiple of it" in reason
    image = drawn(2, 1, 8, 8)
    model = LPN((1, 8, 8), hidden=4)
    assert gap(convex, model, image) < 0.02


def test_static_activations_round_every_input() -> None:
    model, x = mlp(), drawn(256, 16)
    errors = {
        bits: gap(
            quantize(
                model, Inputs([x]), format=Uniform(8), activations=StaticActivations(bits)
            ),
            model,
            x,
        )
        for bits in (4, 6, 8)
    }  # fmt: skip
    assert errors[8] < 0.03 < errors[4]
    assert errors[8] < errors[6] < errors[4]


def test_a_half_precision_model_stays_one() -> None:
    model, x = mlp().bfloat16(), drawn(64, 16).bfloat16()
    result = quantize(model, Inputs([x]), format=Uniform(8))
    assert result.model(x).dtype == torch.bfloat16
    assert gap(result, model, x) < 0.05


# ------------------------------------------------------------ what cannot be
class Upsampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.head, self.idle = (
            nn.ConvTranspose1d(4, 4, 2),
            nn.Linear(8, 2),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.up(x))
        return result


def test_a_layer_that_cannot_be_quantized_or_was_not_called_is_named() -> None:
    result = quantize(Upsampler(), Inputs([drawn(3, 4, 7)]))
    assert result.skipped["up.weight"] == "a ConvTranspose1d cannot be quantized"
    assert "never multiplied" in result.skipped["idle"]


x = drawn(8, 16)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"format": 4}, "format must be a Format such as Uniform"),
    ({"format": {"0": 4}}, "format must be a Format such as Uniform"),
    ({"format": {}}, "empty dict"),
    (
        {"format": {"first": Uniform(4)}},
        "no weight of the model is called 'first'; there",
    ),
    ({"skip": ["head"]}, "no weight of the model is called 'head'"),
    ({"skip": ["*"]}, "no weight of the model can be quantized"),
    ({"format": Uniform(4, per="group", group_size=5)}, "5"),
    ({"activations": "int4"}, 'activations must be "float" or "int8"'),
    ({"method": "gptq"}, "method must be a Method"),
    ({"calibration": [x]}, "needs a calibration such as Inputs"),
    ({"calibration": Inputs([x * float("nan")])}, "calibration of '0'.*NaN"),
    ({"calibration": Inputs([x / 0.0])}, "calibration of '0'.*infinite"),
    ({"model": torch.tanh}, "takes a torch module"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG, ids=[says for _, says in WRONG])
def test_wrong_inputs_are_one_sentence(wrong: dict[str, Any], says: str) -> None:
    given = {"model": mlp(depth=1), "calibration": Inputs([x])} | wrong
    with pytest.raises(InvalidInput, match=says):
        quantize(given.pop("model"), given.pop("calibration"), **given)


def test_a_layer_asked_for_by_name_that_cannot_be_quantized_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="a ConvTranspose1d cannot be quantized"):
        quantize(Upsampler(), Inputs([drawn(3, 4, 7)]), format={"up.weight": Uniform(4)})
