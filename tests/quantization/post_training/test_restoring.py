"""A quantized model is built again from its state dict, bit for bit, around a float one."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.models.equilibrium.classifier import DEQClassifier
from driftwell.quantization.formats import Binary, Format, NormalFloat, Ternary, Uniform
from driftwell.quantization.post_training import Inputs, RoundToNearest, quantize
from driftwell.quantization.post_training.restoring import packed_settings, restored

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Module:
    return build(nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), seed)


def images(seed: int = 0) -> nn.Module:
    layers = nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    net = nn.Sequential(nn.Unflatten(1, (1, 2, 4)), nn.ZeroPad2d(1), *layers)
    net(X)
    return build(net, seed)


def equilibrium(seed: int = 0) -> nn.Module:
    return build(DEQClassifier(8, 5, 3, seed=seed), seed)


def words(seed: int = 0) -> nn.Module:
    return build(nn.Sequential(nn.Embedding(8, 6), nn.Linear(6, 8)), seed)


def build(net: nn.Module, seed: int) -> nn.Module:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    return net.eval().requires_grad_(False)


FORMATS = (
    Uniform(3), Uniform(8, symmetric=True), Binary("channel"), Ternary("channel"),
    NormalFloat(4, "channel", None),
)  # fmt: skip
MODELS = {"dense": network, "pictures": images, "equilibrium": equilibrium, "words": words}


def inputs(name: str) -> Tensor:
    return torch.arange(8)[None] if name == "words" else X


def answer(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found = model(x)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("format", FORMATS)
def test_bit_for_bit(name: str, format: Format) -> None:
    x = inputs(name)
    model = quantize(
        MODELS[name](), Inputs([x]), format=format, method=RoundToNearest(), sequential=False
    ).model
    settings = json.loads(json.dumps(packed_settings(model)))
    assert settings, "something was quantized"
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    blank = MODELS[name](seed=9)
    before = copy.deepcopy(blank.state_dict())
    again = restored(blank, state, settings)
    assert torch.equal(answer(again, x), answer(model, x))
    assert {k: t.dtype for k, t in again.state_dict().items()} == {
        k: t.dtype for k, t in state.items()
    }
    assert packed_settings(again) == settings
    for key, tensor in blank.state_dict().items():
        assert torch.equal(tensor, before[key]), "the float model is left as it is"


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_what_layers_multiply_with_is_kept(activations: str) -> None:
    model = quantize(network(), Inputs([X]), activations=activations).model
    settings = packed_settings(model)
    assert {s["activations"] for s in settings.values()} == {activations}
    again = restored(network(9), model.state_dict(), settings)
    assert torch.equal(answer(again, X), answer(model, X))


def test_what_was_skipped_stays_float() -> None:
    model = quantize(network(), Inputs([X]), skip=("2",)).model
    assert list(packed_settings(model)) == ["0"]
    again = restored(network(9), model.state_dict(), packed_settings(model))
    assert isinstance(again[2], nn.Linear)
    assert torch.equal(answer(again, X), answer(model, X))


def test_a_float_model_has_no_settings_and_takes_its_own_state() -> None:
    assert packed_settings(network()) == {}
    again = restored(network(9), network().state_dict(), {})
    assert torch.equal(answer(again, X), answer(network(), X))


def test_what_does_not_fit_is_named() -> None:
    model = quantize(network(), Inputs([X])).model
    settings, state = packed_settings(model), model.state_dict()
    data = "0.packed_weight.data"
    other = build(nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)), 0)
    small = build(nn.Sequential(nn.Linear(8, 6)), 0)
    for target, kept, sentence in (
        (small, state, "the stored weight '2' has no place in this Sequential"),
        (other, state, "bytes, which are not"),
        (network(), {k: t for k, t in state.items() if not k.startswith("0.packed")},
         "lack the packed weight '0'"),
        (network(), {**state, data: state[data][:, :3]}, "bytes, which are not"),
        (network(), {**state, data: state[data][:5]}, "bytes, which are not"),
        (network(), {k: t for k, t in state.items() if k != "2.bias"}, "are not those of"),
        (network(), {**state, "9.bias": torch.zeros(1)}, "are not those of"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=sentence):
            restored(target, kept, settings)
