"""b-bit codes as bytes: a little-endian stream of bits per row, for any b from 1 to 8.

Code c of a row takes bits b c .. b c + b - 1 of the row's stream, lowest bit first; bit k of the
stream is bit k mod 8 of byte k // 8. Every row starts at a whole byte.
"""

from __future__ import annotations

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput

CODES_A_BLOCK = 8  # eight codes of b bits are b whole bytes


def packed_width(columns: int, bits: int) -> int:
    """Bytes a row of `columns` codes takes.

    Example:
        >>> packed_width(10, 3)
        4
    """
    return (columns * bits + 7) // 8


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes (R, C) uint8 below 2^bits as bytes (R, ceil(C bits / 8)) uint8.

    Raises:
        InvalidInput: `codes` is not such a matrix, or a code needs more than `bits` bits.

    Example:
        >>> pack_codes(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 2).tolist()
        [[57]]
    """
    check_bits(bits)
    if codes.dtype != torch.uint8 or codes.ndim != 2:
        raise InvalidInput(
            f"codes must be a uint8 matrix, not {codes.dtype} of shape {tuple(codes.shape)}"
        )
    if codes.numel() and int(codes.max()) >= 1 << bits:
        raise InvalidInput(f"code {int(codes.max())} does not fit in {bits} bits")
    if bits == 8:
        return codes.clone()
    rows, columns = codes.shape
    blocks = -(-columns // CODES_A_BLOCK)
    padded = codes.new_zeros(rows, blocks * CODES_A_BLOCK)
    padded[:, :columns] = codes
    words = torch.zeros(rows, blocks, dtype=torch.int64, device=codes.device)
    for k in range(CODES_A_BLOCK):
        words |= padded[:, k::CODES_A_BLOCK].to(torch.int64) << (bits * k)
    data = torch.stack([(words >> (8 * j)) & 0xFF for j in range(bits)], dim=2)
    return data.to(torch.uint8).reshape(rows, -1)[:, : packed_width(columns, bits)].contiguous()


def unpack_codes(data: Tensor, bits: int, columns: int) -> Tensor:
    """The codes (R, columns) uint8 that `pack_codes` made `data` of.

    Raises:
        InvalidInput: `data` is not a uint8 matrix of the width that `columns` codes take.

    Example:
        >>> unpack_codes(torch.tensor([[57]], dtype=torch.uint8), 2, 3).tolist()
        [[1, 2, 3]]
    """
    check_bits(bits)
    width = packed_width(columns, bits)
    if data.dtype != torch.uint8 or data.ndim != 2 or data.shape[1] != width:
        raise InvalidInput(
            f"{columns} codes of {bits} bits take rows of {width} bytes (uint8), "
            f"not {data.dtype} of shape {tuple(data.shape)}"
        )
    if bits == 8:
        return data.clone()
    rows = data.shape[0]
    blocks = -(-columns // CODES_A_BLOCK)
    padded = data.new_zeros(rows, blocks * bits)
    padded[:, :width] = data
    words = torch.zeros(rows, blocks, dtype=torch.int64, device=data.device)
    for j in range(bits):
        words |= padded[:, j::bits].to(torch.int64) << (8 * j)
    mask = (1 << bits) - 1
    codes = torch.stack([(words >> (bits * k)) & mask for k in range(CODES_A_BLOCK)], dim=2)
    return codes.to(torch.uint8).reshape(rows, -1)[:, :columns].contiguous()


def check_bits(bits: int) -> None:
    """Raise unless `bits` is an integer from 1 to 8."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 8:
        raise InvalidInput(f"codes have 1 to 8 bits, not {bits!r}")
