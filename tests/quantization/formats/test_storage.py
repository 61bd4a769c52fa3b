"""The file of packed weights: bit for bit back, refused when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import (
    Format,
    NormalFloat,
    Ternary,
    Uniform,
    load_packed,
    save_packed,
)

FORMATS: list[Format] = [Uniform(3), Uniform(8, symmetric=True), Ternary(), NormalFloat(4)]


def weight() -> torch.Tensor:
    return torch.randn(16, 128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_round_trip_is_bit_exact(format: Format, tmp_path: Path) -> None:
    packed = format.encode(weight()).pack()
    extra = {"bias": torch.randn(16).to(torch.bfloat16)}
    save_packed(tmp_path / "w.safetensors", {"a.b": packed}, extra, {"method": "rtn"})
    again = load_packed(tmp_path / "w.safetensors")
    assert again.notes == {"method": "rtn"}
    assert torch.equal(again.extra["bias"], extra["bias"])
    found = again.weights["a.b"]
    for part, value in packed.tensors().items():
        assert torch.equal(found.tensors()[part], value), part
    assert found.description() == packed.description()
    assert torch.equal(found.decode(), packed.decode())


def test_the_file_is_little_larger_than_its_codes(tmp_path: Path) -> None:
    packed = Uniform(2, symmetric=True).encode(torch.randn(512, 1024)).pack()
    save_packed(tmp_path / "w.safetensors", {"w": packed})
    ideal = 512 * 1024 * 2 / 8 + 512 * 4
    assert (tmp_path / "w.safetensors").stat().st_size <= 1.03 * ideal


@pytest.mark.parametrize("where", [0.2, 0.6, 0.95])
def test_a_flipped_byte_is_noticed(tmp_path: Path, where: float) -> None:
    path = tmp_path / "w.safetensors"
    save_packed(path, {"w": Uniform(4).encode(weight()).pack()})
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 0x10
    path.write_bytes(bytes(content))
    with pytest.raises(InvalidInput):
        load_packed(path)


def test_a_file_cut_short_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_packed(path, {"w": Uniform(4).encode(weight()).pack()})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidInput, match="damaged"):
        load_packed(path)


def test_another_kind_of_file_is_told_apart(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": weight()}, tmp_path / "w.safetensors")
    with pytest.raises(InvalidInput, match="without packed weights"):
        load_packed(tmp_path / "w.safetensors")


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    packed = Uniform(4).encode(weight()).pack()
    with pytest.raises(InvalidInput, match=r"w\.codes"):
        save_packed(tmp_path / "w", {"w": packed}, {"w.codes": torch.zeros(1)})
    assert not (tmp_path / "w").exists()
