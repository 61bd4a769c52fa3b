"""adapt, merge, and adapters stored on their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import normal
from driftwell.quantization.adapters import (
    CDKA,
    Adapter,
    AdapterDescription,
    DiaBlo,
    LoRA,
    ResidualStart,
    adapt,
    adapter_state,
    adapters_of,
    cloq_init,
    layer_grams,
    load_adapter_state,
    matching_layers,
    merge,
    merging_error,
    parameter_count,
)
from driftwell.quantization.formats import Uniform
from driftwell.quantization.modules.linear import QuantizedLinear
from driftwell.quantization.post_training.calibration import Inputs
from driftwell.quantization.post_training.output_error import output_error

each = pytest.mark.parametrize(
    "description", [LoRA(2, alpha=4.0), DiaBlo(3), DiaBlo(2, permuted=1), CDKA(2, 2, 2)], ids=str
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return normal(shape, seed=seed, purpose=64, chains=shape[0], step=0)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.output = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.output(torch.tanh(self.query(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 6)
        for i, p in enumerate(self.parameters()):
            with torch.no_grad():
                p.copy_(0.3 * drawn(*p.shape, seed=i))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(x)))


def quantized(net: Net) -> Net:
    coarse = Net()
    coarse.load_state_dict(net.state_dict())
    for block in coarse.blocks:
        for name in ("query", "output"):
            layer = getattr(block, name)
            codes = Uniform(2).encode(layer.weight.detach())
            setattr(block, name, QuantizedLinear.from_float(layer, codes))
    return coarse


def train(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    x, y = drawn(16, 8, seed=50), drawn(16, 6, seed=51)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


@each
def test_only_adapters_train_and_the_model_is_left_alone(description: AdapterDescription) -> None:
    net = Net()
    before = {n: p.clone() for n, p in net.state_dict().items()}
    tuned = adapt(net, description, ["query", "output"])
    x = drawn(4, 8)
    assert torch.equal(tuned(x), net(x))
    train(tuned)
    assert not torch.allclose(tuned(x), net(x))
    assert all(torch.equal(p, before[n]) for n, p in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    for name, adapter in adapters_of(tuned).items():
        assert torch.equal(adapter.base.weight, before[f"{name}.weight"])
    trained = {n for n, p in tuned.named_parameters() if p.requires_grad}
    assert trained == {n for n in adapter_state(tuned) if not n.endswith("order")}
    assert parameter_count(tuned) == 4 * description.count(8, 8)


@each
def test_merged_layers_compute_what_adapters_did(description: AdapterDescription) -> None:
    tuned = adapt(Net(), description)
    train(tuned)
    plain = merge(tuned)
    x = drawn(4, 8)
    torch.testing.assert_close(plain(x), tuned(x), rtol=0, atol=1e-5)
    assert not any(isinstance(m, Adapter) for m in plain.modules())
    assert all(p.requires_grad for p in plain.parameters())
    assert {n: p.shape for n, p in plain.state_dict().items()} == {
        n: p.shape for n, p in Net().state_dict().items()
    }
    assert any(isinstance(m, Adapter) for m in tuned.modules())


@each
def test_a_packed_base_is_merged_as_float(description: AdapterDescription) -> None:
    tuned = adapt(quantized(Net()), description, ["query", "output"])
    train(tuned)
    plain = merge(tuned)
    x = drawn(4, 8)
    torch.testing.assert_close(plain(x), tuned(x), rtol=0, atol=1e-5)
    assert type(plain.blocks[0].query) is nn.Linear
    assert plain.blocks[0].output.bias is None


@each
def test_adapters_travel_alone(description: AdapterDescription, tmp_path: Path) -> None:
    tuned = adapt(Net(), description)
    train(tuned)
    save_file(adapter_state(tuned), tmp_path / "adapters.safetensors")
    again = adapt(Net(), description)
    load_adapter_state(again, load_file(tmp_path / "adapters.safetensors"))
    x = drawn(4, 8)
    assert torch.equal(again(x), tuned(x))
    assert not any("base" in name for name in adapter_state(tuned))


def test_a_packed_base_passes_gradients_on() -> None:
    """Adapters before and behind packed layers see the gradients of the decoded network."""
    coarse = quantized(Net())
    plain = quantized(Net())
    for block in plain.blocks:
        block.query, block.output = block.query.dequantized(), block.output.dequantized()
    x, found = drawn(4, 8), []
    for net in (coarse, plain):
        tuned = adapt(net, DiaBlo(2), "query")
        tuned(x).square().mean().backward()
        found.append([a.blocks.grad for a in adapters_of(tuned).values()])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)


def test_merging_back_into_bits_says_what_it_loses() -> None:
    tuned = adapt(quantized(Net()), DiaBlo(2), "query")
    train(tuned)
    again, errors = merge(tuned, Uniform(8)), merging_error(tuned, Uniform(8))
    coarser = merging_error(tuned, Uniform(3))
    for name, adapter in adapters_of(tuned).items():
        layer = again.get_submodule(name)
        assert isinstance(layer, QuantizedLinear)
        lost = (layer.weight - adapter.merged_weight()).norm() / adapter.delta().detach().norm()
        assert errors[name] == pytest.approx(float(lost), rel=1e-4)
        assert errors[name] < 0.2 < coarser[name]
    x = drawn(4, 8)
    torch.testing.assert_close(again(x), tuned(x), rtol=0, atol=0.05)


def test_targets_are_names_ends_of_names_or_patterns() -> None:
    net = Net()
    assert matching_layers(net, "query") == ["blocks.0.query", "blocks.1.query"]
    assert matching_layers(net, "blocks.1.*") == ["blocks.1.query", "blocks.1.output"]
    assert matching_layers(net, ["head", "0.output"]) == ["blocks.0.output", "head"]
    assert len(matching_layers(net)) == 5


def test_a_target_without_layer_is_said_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"no layer matches 'qery'; there are blocks\.0\.query"):
        adapt(Net(), LoRA(2), ["query", "qery"])
    with pytest.raises(InvalidInput, match="no targets"):
        adapt(Net(), LoRA(2), [])
    with pytest.raises(InvalidInput, match="no linear layer"):
        adapt(nn.Sequential(nn.ReLU()), LoRA(2))
    with pytest.raises(InvalidInput, match="description"):
        adapt(Net(), LoRA)
    with pytest.raises(InvalidInput, match="layer 'head': r1 must divide the 6 outputs"):
        adapt(Net(), CDKA(4, 2, 1))


def test_attention_of_torch_is_not_touched() -> None:
    """Its forward reads out_proj.weight and would never call an adapter."""
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert matching_layers(net) == ["linear1", "linear2"]
    layer = nn.Linear(8, 8)
    codes = Uniform(8).encode(layer.weight.detach())
    net.self_attn.out_proj = QuantizedLinear.from_float(layer, codes)
    assert matching_layers(net) == ["linear1", "linear2"]


def test_a_layer_of_two_names_has_one_adapter() -> None:
    shared = nn.Linear(8, 8)
    tuned = adapt(nn.Sequential(shared, nn.ReLU(), shared), LoRA(2))
    assert tuned[0] is tuned[2]
    assert parameter_count(tuned) == 32
    plain = merge(tuned)
    assert plain[0] is plain[2]
    block = Block()
    tuned = adapt(nn.Sequential(block, block), LoRA(2), "query")
    assert tuned[0] is tuned[1]
    assert parameter_count(tuned) == 32
    assert type(merge(tuned)[1].query) is nn.Linear


def test_a_lone_layer_is_a_model_too() -> None:
    layer = nn.Linear(8, 6)
    tuned = adapt(layer, DiaBlo(2))
    train(tuned)
    x = drawn(4, 8)
    torch.testing.assert_close(merge(tuned)(x), tuned(x), rtol=0, atol=1e-5)


def test_adapters_are_not_stacked_but_more_layers_may_follow() -> None:
    once = adapt(Net(), LoRA(2), "query")
    assert matching_layers(once) == ["blocks.0.output", "blocks.1.output", "head"]
    with pytest.raises(InvalidInput, match="merge the adapters"):
        adapt(adapt(nn.Linear(8, 6), LoRA(2)), LoRA(2))


def test_a_calibrated_start_repairs_what_quantization_lost() -> None:
    net, x = Net(), drawn(64, 8, seed=3) @ torch.diag(torch.logspace(0, -2, 8))
    grams = layer_grams(net, Inputs([x]), ["query", "output"])
    coarse = quantized(net)
    targets = ["query", "output"]
    tuned = adapt(coarse, LoRA(3, alpha=6.0), targets, start=ResidualStart(net, grams, damp=0.0))
    loft = adapt(coarse, LoRA(3, alpha=6.0), targets, start=ResidualStart(net))
    for name, adapter in adapters_of(tuned).items():
        w, q = net.get_submodule(name).weight.detach(), adapter.base.weight
        a, b = cloq_init(w, q, grams[name], 3, damp=0.0)
        torch.testing.assert_close(adapter.delta(), b @ a, rtol=1e-4, atol=1e-5)
        ours, theirs = adapter.merged_weight(), adapters_of(loft)[name].merged_weight()
        assert output_error(w, ours, grams[name]) < output_error(w, theirs, grams[name])
    exact = adapt(coarse, DiaBlo(1), targets, start=ResidualStart(net))
    torch.testing.assert_close(exact(x), net(x))


def test_layer_grams_are_those_of_all_inputs() -> None:
    net, batches = Net(), [drawn(4, 8, seed=1), drawn(6, 8, seed=2)]
    grams = layer_grams(net, Inputs(batches), ["0.query", "head"])
    read = torch.cat(batches)
    torch.testing.assert_close(grams["blocks.0.query"], (read.mT @ read).double())
    read = net.norm(net.blocks(read)).detach()
    torch.testing.assert_close(grams["head"], (read.mT @ read).double(), rtol=1e-5, atol=1e-5)
    assert not net.head._forward_pre_hooks
    with pytest.raises(InvalidInput, match="no layer matches"):
        layer_grams(net, Inputs(batches), "tail")


def test_a_start_that_does_not_fit_is_said() -> None:
    net = Net()
    with pytest.raises(InvalidInput, match="no Gram matrix for layer 'head'"):
        adapt(net, LoRA(2), "head", start=ResidualStart(net, {}))
    with pytest.raises(InvalidInput, match="no linear layer named"):
        adapt(net, LoRA(2), "head", start=ResidualStart(Block()))
    with pytest.raises(InvalidInput, match="in the reference"):
        adapt(
            nn.Sequential(nn.Linear(8, 6)),
            LoRA(2),
            start=ResidualStart(nn.Sequential(nn.Linear(8, 5))),
        )
    with pytest.raises(InvalidInput, match="damp"):
        ResidualStart(net, damp=-1.0)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    tuned = adapt(Net(), LoRA(2), "query")
    state = adapter_state(adapt(Net(), LoRA(2, seed=5)))
    before = adapter_state(tuned)
    with pytest.raises(InvalidInput, match=r"adds blocks\.0\.output\.lora_A"):
        load_adapter_state(tuned, state)
    with pytest.raises(InvalidInput, match="lacks"):
        load_adapter_state(tuned, {})
    wide = {name: torch.cat([t, t]) for name, t in before.items()}
    with pytest.raises(InvalidInput, match="shape"):
        load_adapter_state(tuned, wide)
    assert all(torch.equal(t, before[n]) for n, t in adapter_state(tuned).items())
    with pytest.raises(InvalidInput, match="no adapters"):
        adapter_state(Net())
    with pytest.raises(InvalidInput, match="no adapters"):
        merge(Net())
