"""Packing: any code of 1 to 8 bits comes back, and takes no more than its bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import pack_codes, unpack_codes


def random_codes(rows: int, columns: int, bits: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, (rows, columns), generator=generator, dtype=torch.uint8)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 70), st.integers(0, 2**31))
def test_codes_come_back(bits: int, rows: int, columns: int, seed: int) -> None:
    codes = random_codes(rows, columns, bits, seed)
    data = pack_codes(codes, bits)
    assert data.shape == (rows, -(-columns * bits // 8))
    assert torch.equal(unpack_codes(data, bits, columns), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_layout_is_a_little_endian_stream_of_bits(bits: int) -> None:
    codes = random_codes(1, 13, bits, 3)
    stream = sum(int(code) << (bits * index) for index, code in enumerate(codes[0]))
    width = -(-13 * bits // 8)
    assert bytes(pack_codes(codes, bits)[0].tolist()) == stream.to_bytes(width, "little")


def test_a_code_too_large_is_refused() -> None:
    with pytest.raises(InvalidInput, match="code 4 does not fit in 2 bits"):
        pack_codes(torch.tensor([[4]], dtype=torch.uint8), 2)


@pytest.mark.parametrize("bits", [0, 9, 2.0, True])
def test_a_width_without_codes_is_refused(bits: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 8 bits"):
        pack_codes(torch.zeros(1, 1, dtype=torch.uint8), bits)


def test_bytes_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidInput, match="rows of 4 bytes"):
        unpack_codes(torch.zeros(2, 3, dtype=torch.uint8), 3, 10)
