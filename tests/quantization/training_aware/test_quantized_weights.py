"""Layers that compute with quantized weights: gradients, names, state, and what ships."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.nn.drawn_layers import drawn_conv, drawn_linear
from driftwell.quantization.formats import Binary, Format, Ternary, Uniform
from driftwell.quantization.modules import QuantizedConv2d, QuantizedLinear
from driftwell.quantization.training_aware.lbw import LowBitWidth
from driftwell.quantization.training_aware.quantized_weights import (
    FakeQuantized,
    WeightQuantizer,
    hardened,
    quantization_aware,
    seen_weights,
)
from driftwell.quantization.training_aware.straight_through import ClippedSTE

FORMATS = (
    Binary("tensor"),
    Ternary("channel"),
    Uniform(4),
    LowBitWidth(4, "tensor"),
    Uniform(3, per="group", group_size=4),
)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    draw = torch.Generator().manual_seed(0)
    return nn.Sequential(
        drawn_conv(1, 4, 3, draw, dtype=dtype),
        nn.Tanh(),
        nn.Flatten(),
        drawn_linear(16, 3, draw, dtype=dtype),
    )


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_the_gradient_is_the_loss_s_own_at_the_quantized_weights() -> None:
    """By central differences in every entry of Q(w), in float64."""
    plain = network(torch.float64)
    model = quantization_aware(plain, Ternary("tensor"))
    model(images(torch.float64)).square().sum().backward()
    for seen in seen_weights(model):
        place = plain.get_submodule(seen.name)
        for each in seen_weights(model):  # all other weights at Q as well
            plain.get_submodule(each.name).weight.data.copy_(each.value())
        slope = torch.zeros_like(seen.weight).flatten()
        entries = place.weight.data.view(-1)
        for i in range(len(entries)):
            sides = []
            for h in (1e-5, -1e-5):
                entries[i] += h
                with torch.no_grad():
                    sides.append(plain(images(torch.float64)).square().sum())
                entries[i] -= h
            slope[i] = (sides[0] - sides[1]) / 2e-5
        torch.testing.assert_close(seen.weight.grad.flatten(), slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_step_is_binary_connect_s(format: Format) -> None:
    layer = drawn_linear(8, 4, torch.Generator().manual_seed(0))
    model = quantization_aware(layer, format)
    x = torch.ones(2, 8)
    by_hand = copy.deepcopy(layer)
    by_hand.weight.data.copy_(format.fake(layer.weight))
    by_hand(x).square().sum().backward()
    model(x).square().sum().backward()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    sgd.step()
    expected = layer.weight - 0.1 * by_hand.weight.grad
    torch.testing.assert_close(seen_weights(model)[0].weight, expected)


def test_the_model_given_is_not_touched() -> None:
    plain = network()
    before = copy.deepcopy(plain.state_dict())
    model = quantization_aware(plain, Binary())
    for seen in seen_weights(model):
        seen.weight.data.zero_()
    assert type(plain[0]) is nn.Conv2d
    assert all(torch.equal(plain.state_dict()[name], t) for name, t in before.items())


def test_a_surrogate_cuts_the_gradient_where_it_is_flat() -> None:
    model = quantization_aware(nn.Linear(4, 1, bias=False), Binary(), ste=ClippedSTE(1.0))
    weight = seen_weights(model)[0].weight
    weight.data.copy_(torch.tensor([[0.5, -2.0, 3.0, -0.1]]))
    model(torch.ones(1, 4)).sum().backward()
    assert weight.grad.tolist() == [[1.0, 0.0, 0.0, 1.0]]


def test_frozen_weights_stay_frozen() -> None:
    plain = network()
    plain[0].weight.requires_grad_(False)
    model = quantization_aware(plain, Binary())
    before = [seen.weight.detach().clone() for seen in seen_weights(model)]
    model(images()).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1).step()
    kept, moved = (
        torch.equal(seen.weight, old) for seen, old in zip(seen_weights(model), before, strict=True)
    )
    assert kept
    assert not moved


def test_the_state_goes_into_a_file_and_back() -> None:
    model = quantization_aware(network(), Ternary())
    other = network()
    for parameter in other.parameters():
        parameter.data.add_(1.0)
    again = quantization_aware(other, Ternary())
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images()), model(images()))


@pytest.mark.parametrize("format", FORMATS[:4], ids=str)
def test_what_is_hardened_computes_what_was_trained(format: Format) -> None:
    model = quantization_aware(network(), format)
    small = hardened(model)
    assert isinstance(small[0], QuantizedConv2d)
    assert isinstance(small[3], QuantizedLinear)
    torch.testing.assert_close(small[0].weight, model[0].weight)
    torch.testing.assert_close(small(images()), model(images()), rtol=1e-2, atol=2e-2)
    assert len(seen_weights(model)) == 2, "the model in training goes on"
    assert not seen_weights(small)


def test_a_model_that_is_one_layer_hardens() -> None:
    model = quantization_aware(nn.Linear(4, 2), Binary())
    assert isinstance(hardened(model), QuantizedLinear)


def test_layers_are_chosen_by_name() -> None:
    model = quantization_aware(network(), {"0": Binary("tensor"), "*": Uniform(8)}, skip=["3"])
    assert [seen.name for seen in seen_weights(model)] == ["0"]
    assert len(model[0].weight.unique()) == 2


def test_a_quantizer_may_be_made_from_each_weight() -> None:
    given: list[tuple[int, ...]] = []

    def made(w: Tensor) -> WeightQuantizer:
        given.append(tuple(w.shape))
        return FakeQuantized(Binary())

    quantization_aware(network(), made)
    assert given == [(4, 1, 3, 3), (3, 16)]


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidInput, match="no linear layer or convolution is named 'head'"):
        quantization_aware(network(), {"head": Binary()})
    with pytest.raises(InvalidInput, match="leaves no layer"):
        quantization_aware(network(), Binary(), skip=["*"])
    with pytest.raises(InvalidInput, match="parametrized already"):
        quantization_aware(quantization_aware(network(), Binary()), Binary())
    with pytest.raises(InvalidInput, match="quantization_aware first"):
        hardened(network())


def test_a_weight_that_diverged_is_an_error() -> None:
    model = quantization_aware(nn.Linear(4, 2), Binary())
    seen_weights(model)[0].weight.data[0, 0] = float("nan")
    with pytest.raises(InvalidInput, match="NaN"):
        model(torch.ones(1, 4))
