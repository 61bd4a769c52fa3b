"""Layers of packed weights say what the float layer with the rounded weight says."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Format, NormalFloat, Ternary, Uniform
from driftwell.quantization.modules import (
    PackedWeight,
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedParameter,
    RoundedInput,
    StaticActivations,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(layer: nn.Module) -> nn.Module:
    """The layer with weights of its own seed, not of the global one."""
    with torch.no_grad():
        for index, parameter in enumerate(layer.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=index + 1))
    return layer


FORMATS: list[Format] = [
    Uniform(1, symmetric=True),
    Uniform(3),
    Uniform(4, per="group", group_size=8),
    Uniform(8, per="tensor"),
    NormalFloat(4, group_size=16),
    Ternary(),
]


@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_a_packed_linear_layer_equals_the_float_layer_with_rounded_weights(format: Format) -> None:
    layer = filled(nn.Linear(16, 12))
    small = QuantizedLinear.from_float(layer, format.encode(layer.weight.detach()))
    x = drawn(5, 7, 16)
    expected = nn.functional.linear(x, format.fake(layer.weight.detach()), layer.bias)
    torch.testing.assert_close(small(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(small.dequantized()(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(small.weight, format.fake(layer.weight.detach()))


def test_a_weight_takes_its_real_bits_in_memory() -> None:
    layer = filled(nn.Linear(64, 32))
    for bits in range(2, 9):
        small = QuantizedLinear.from_float(layer, Uniform(bits).encode(layer.weight.detach()))
        assert small.packed_weight.data.numel() == 32 * 64 * bits // 8
        assert f"bits={bits}" in repr(small)
        assert not any(p.ndim > 1 for p in small.parameters())


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), drawn(2, 4, 7, 7)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=2, bias=False), drawn(2, 4, 9, 9)),
        (nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular"), drawn(2, 4, 6, 6)),
        (nn.Conv2d(4, 6, 1), drawn(2, 4, 5, 5)),
        (nn.Conv2d(4, 6, 1), drawn(4, 5, 5)),
        (nn.Conv2d(8, 8, 3, groups=8, padding=1), drawn(1, 8, 5, 5)),
        (nn.Conv1d(4, 6, 5, padding=2, stride=2), drawn(3, 4, 11)),
    ],
    ids=str,
)
def test_a_packed_convolution_equals_the_float_one_with_rounded_weights(
    layer: nn.Conv1d | nn.Conv2d, x: Tensor
) -> None:
    filled(layer)
    kind = QuantizedConv1d if isinstance(layer, nn.Conv1d) else QuantizedConv2d
    small = kind.from_float(layer, Uniform(3).encode(layer.weight.detach()))
    rounded = copy.deepcopy(layer)
    with torch.no_grad():
        rounded.weight.copy_(Uniform(3).fake(layer.weight))
    torch.testing.assert_close(small(x), rounded(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(small.dequantized()(x), rounded(x))


def test_an_embedding_decodes_the_rows_that_are_looked_up() -> None:
    table = filled(nn.Embedding(50, 16))
    for format in (Uniform(4), Uniform(8, per="tensor"), NormalFloat(4, group_size=8)):
        small = QuantizedEmbedding.from_float(table, format.encode(table.weight.detach()))
        index = torch.tensor([[3, 3], [49, 0]])
        assert torch.equal(small(index), format.fake(table.weight.detach())[index])
        with pytest.raises(IndexError):
            small(torch.tensor([50]))


def test_state_travels_bit_for_bit(tmp_path: Path) -> None:
    """state_dict, a safetensors file, deepcopy, and dtypes there and back."""
    layer = filled(nn.Linear(24, 10))
    other = filled(nn.Linear(24, 10, bias=True))
    with torch.no_grad():
        other.weight.mul_(-2)
    small = QuantizedLinear.from_float(layer, Uniform(3).encode(layer.weight.detach()))
    blank = QuantizedLinear.from_float(other, Uniform(3).encode(other.weight.detach()))
    x = drawn(4, 24)
    assert not torch.equal(blank(x), small(x))

    save_file(small.state_dict(), tmp_path / "layer.safetensors")
    blank.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(blank(x), small(x))
    assert torch.equal(copy.deepcopy(small)(x), small(x))

    before = small.weight
    moved = copy.deepcopy(small).to(torch.bfloat16)
    assert moved.weight.dtype == torch.bfloat16
    assert moved(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(moved.to(torch.float32).weight, before)


def test_a_state_of_another_format_is_refused() -> None:
    layer = filled(nn.Linear(24, 10))
    four = QuantizedLinear.from_float(layer, Uniform(4).encode(layer.weight.detach()))
    three = QuantizedLinear.from_float(layer, Uniform(3).encode(layer.weight.detach()))
    with pytest.raises(InvalidInput, match="build the model with the format"):
        three.load_state_dict(four.state_dict())


def test_int8_activations_cost_one_part_in_two_hundred() -> None:
    layer = filled(nn.Linear(64, 32))
    quantized = Uniform(8, symmetric=True).encode(layer.weight.detach())
    x = drawn(16, 64)
    exact = QuantizedLinear.from_float(layer, quantized)(x)
    rough = QuantizedLinear.from_float(layer, quantized, activations="int8")(x)
    assert (rough - exact).norm() < 0.01 * exact.norm()


def test_a_quantized_parameter_reads_as_its_values() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W = nn.Parameter(drawn(6, 9))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.W

    module = Product()
    quantized = Uniform(4).encode(module.W.detach().T.contiguous())
    values = quantized.decode().T
    QuantizedParameter.replace(module, "W", PackedWeight(quantized.pack()), transposed=True)
    x = drawn(2, 6)
    assert isinstance(module, Product)
    assert torch.equal(module(x), x @ values)
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), x @ values)
    assert not list(module.parameters())
    module.load_state_dict(twin.state_dict())
    assert torch.equal(module(x), x @ values)
    assert module.to(torch.float64).W.dtype == torch.float64


def test_rounded_inputs_lie_on_a_grid_that_holds_zero() -> None:
    rounded = RoundedInput(4, -1.0, 2.0)
    x = torch.linspace(-3, 3, 301)
    y = rounded(x)
    assert len(y.unique()) == 16
    assert rounded(torch.zeros(1)) == 0
    inside = (x > -1) & (x < 2)
    assert (y - x)[inside].abs().max() <= rounded.scale / 2 + 1e-6


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: StaticActivations(bits=1), "2 to 16"),
        (lambda: StaticActivations(rule="median"), "must be one of minmax, mse, percentile"),
        (lambda: RoundedInput(8, 0.0, 0.0), "finite and not empty"),
        (lambda: PackedWeight(Uniform(4).encode(torch.ones(2, 2)).pack(), "int4"), '"float" or'),
        (
            lambda: QuantizedLinear.from_float(
                nn.Linear(2, 3), Uniform(4).encode(torch.ones(2, 3))
            ),
            "encode this layer's own weight",
        ),
        (
            lambda: QuantizedEmbedding.from_float(
                nn.Embedding(3, 2, max_norm=1.0), Uniform(4).encode(torch.ones(3, 2))
            ),
            "max_norm",
        ),
        (
            lambda: QuantizedParameter.replace(
                nn.Linear(2, 2), "W", PackedWeight(Uniform(4).encode(torch.ones(2, 2)).pack())
            ),
            "no parameter of its own 'W'",
        ),
    ],
)
def test_wrong_inputs_are_one_sentence(wrong: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        wrong()  # type: ignore[operator]
