"""Packed safetensors: the model comes back bit for bit, a damaged file does not."""

import pytest
import torch
from torch import nn

from driftwell.core.errors import InvalidInput
from driftwell.models.equilibrium.classifier import DEQClassifier
from driftwell.quantization.export.safetensors import export_safetensors, load_safetensors
from driftwell.quantization.formats import NormalFloat, Uniform
from driftwell.quantization.post_training import Inputs, RoundToNearest, quantize


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net():
    return nn.Sequential(nn.Linear(64, 48), nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, 10))


@pytest.mark.parametrize(
    "form", [Uniform(2), Uniform(3, symmetric=True), Uniform(8), NormalFloat(group_size=16)],
    ids=str,
)  # fmt: skip
def test_a_model_comes_back_bit_for_bit(form, tmp_path):
    x = numbers(100, 64)
    small = quantize(net(), Inputs([x]), format=form, method=RoundToNearest()).model
    size = export_safetensors(small, tmp_path / "m.safetensors", {"data": "digits"})
    again = load_safetensors(net(), tmp_path / "m.safetensors")
    stored, wanted = again.state_dict(), small.state_dict()
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[name], wanted[name]) for name in wanted)
    assert torch.equal(again(x), small(x))
    assert size == (tmp_path / "m.safetensors").stat().st_size


def test_an_equilibrium_model_comes_back(tmp_path):
    model = DEQClassifier(16, 24, 4, seed=1).eval()
    small = quantize(model, Inputs([numbers(40, 16)]), method=RoundToNearest()).model
    export_safetensors(small, tmp_path / "m.safetensors")
    again = load_safetensors(DEQClassifier(16, 24, 4, seed=2), tmp_path / "m.safetensors")
    assert torch.equal(again(numbers(5, 16, seed=3))[0], small(numbers(5, 16, seed=3))[0])


def test_the_bytes_are_those_of_the_bits(tmp_path):
    layer = nn.Linear(512, 512, bias=False)
    x = numbers(8, 512)
    for bits in (2, 3, 8):
        form = Uniform(bits, symmetric=True)
        small = quantize(nn.Sequential(layer), Inputs([x]), format=form, method=RoundToNearest())
        size = export_safetensors(small.model, tmp_path / "m.safetensors")
        assert 512 * 512 * bits / 8 <= size <= 512 * 512 * bits / 8 + 4 * 2 * 512 + 2000


def test_damaged_and_wrong_files_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(InvalidInput, match="no packed weights: quantize it"):
        export_safetensors(net(), path)
    small = quantize(net(), Inputs([numbers(20, 64)]), method=RoundToNearest()).model
    with pytest.raises(InvalidInput, match="another name"):
        export_safetensors(small, path, {"settings": 1})
    assert not path.exists()
    export_safetensors(small, path)
    with pytest.raises(InvalidInput):
        load_safetensors(nn.Sequential(nn.Linear(64, 48)), path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match="damaged"):
        load_safetensors(net(), path)
