"""Products of signs as they run on bits: exclusive or, then a count of ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import pack_codes
from driftwell.quantization.training_aware.binary_layers import BIBERT, BinaryLinear

__all__ = ["PackedSigns", "PopcountLinear", "boolean_product", "sign_product"]

_BYTES_A_WORD = 8
# Words of the intermediate (rows of a, rows of b, words) held at a time.
_WORDS_AT_ONCE = 1 << 20


@final
@dataclass(frozen=True, eq=False)
class PackedSigns:
    """Rows of signs, one bit each: 1 for x >= 0 and 0 for x < 0.

    Attributes:
        words: 64 bits each, (R, ceil(C / 64)) int64; bits beyond the last column are 0.
        columns: C.

    Example:
        >>> PackedSigns.of(torch.tensor([[1.0, -1.0, 0.0]])).words.tolist()
        [[5]]
    """

    papers = (BIBERT,)

    words: Tensor
    columns: int

    @staticmethod
    def of(x: Tensor) -> PackedSigns:
        """The signs of x (R, C); sign(0) = +1.

        Raises:
            InvalidInput: x is no matrix, has no entry, or has NaN in it.
        """
        if x.ndim != 2 or not x.numel():
            raise InvalidInput(f"signs are packed of a matrix (R, C), not of {tuple(x.shape)}")
        if x.is_floating_point() and bool(x.isnan().any()):
            raise InvalidInput("a sign is packed of a number, and the matrix has NaN in it")
        data = pack_codes((x >= 0).to(torch.uint8), 1)
        padding = -data.shape[1] % _BYTES_A_WORD
        whole = nn.functional.pad(data, (0, padding)).contiguous()
        return PackedSigns(whole.view(torch.int64), x.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the words."""
        return self.words.numel() * _BYTES_A_WORD


def sign_product(a: PackedSigns, b: PackedSigns) -> Tensor:
    """a b^T of two matrices of signs, in bits, as in Qin et al., *BiBERT: Accurate Fully
    Binarized BERT*, 2022, arXiv:2203.06390.

        sum_c a_c b_c = C - 2 popcount(a xor b)

    Args:
        a: (R, C).
        b: (S, C).

    Returns:
        (R, S) int64; equal to the float product of the signs, exactly.

    Raises:
        InvalidInput: other numbers of columns.

    Example:
        >>> a = PackedSigns.of(torch.tensor([[1.0, -1.0, 1.0]]))
        >>> sign_product(a, PackedSigns.of(torch.tensor([[1.0, 1.0, 1.0]]))).tolist()
        [[1]]
    """
    _check(a, b)
    return a.columns - 2 * _counts(a.words, b.words, either=True)


def boolean_product(a: PackedSigns, b: PackedSigns) -> Tensor:
    """w b^T of booleans w and signs b, in bits: the bitwise affine product of attention, from Qin
    et al., *BiBERT: Accurate Fully Binarized BERT*, 2022, arXiv:2203.06390.

        sum_c w_c b_c = 2 popcount(w and b) - popcount(w)

    Args:
        a: booleans (R, C): a bit that is set is true.
        b: signs (S, C).

    Returns:
        (R, S) int64.

    Raises:
        InvalidInput: other numbers of columns.

    Example:
        >>> chosen = PackedSigns.of(torch.tensor([[1.0, 1.0, -1.0]]))  # true, true, false
        >>> boolean_product(chosen, PackedSigns.of(torch.tensor([[1.0, -1.0, -1.0]]))).tolist()
        [[0]]
    """
    _check(a, b)
    chosen = popcount(a.words).sum(dim=1, keepdim=True)
    return 2 * _counts(a.words, b.words, either=False) - chosen


def popcount(words: Tensor) -> Tensor:
    """Bits that are set in each int64, by adding neighbours in halves, quarters and bytes.

    Example:
        >>> popcount(torch.tensor([0, 5, -1])).tolist()
        [0, 2, 64]
    """
    # a right shift copies the sign bit; the masks drop the copies
    pairs = words - ((words >> 1) & 0x5555555555555555)
    nibbles = (pairs & 0x3333333333333333) + ((pairs >> 2) & 0x3333333333333333)
    count = (nibbles + (nibbles >> 4)) & 0x0F0F0F0F0F0F0F0F
    for shift in (8, 16, 32):
        count = count + (count >> shift)
    return count & 0x7F


@final
class PopcountLinear(nn.Module):
    """A trained `BinaryLinear` on bits, as it ships, from Qin et al., *BiBERT: Accurate Fully
    Binarized BERT*, 2022, arXiv:2203.06390.

        y = s (C - 2 popcount(bits(x) xor bits(w))) + bias

    It shows that the trained layer is what bits compute; written in plain tensor operations, it
    is not there to be fast.

    Args:
        layer: the trained layer.

    Example:
        >>> layer = BinaryLinear(70, 3, draw=torch.Generator().manual_seed(0))
        >>> x = torch.linspace(-1, 1, 70)[None]
        >>> bool(torch.allclose(PopcountLinear(layer)(x), layer(x), atol=1e-5))
        True
    """

    papers = (BIBERT,)
    words: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: BinaryLinear) -> None:
        super().__init__()
        quantized = layer.quantized()
        packed = PackedSigns.of(2 * quantized.codes.to(torch.int8) - 1)
        self.columns = packed.columns
        self.register_buffer("words", packed.words)
        self.register_buffer("scale", quantized.grid.scale[:, 0].clone())
        bias = None if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Numbers (..., inputs) -> (..., outputs), in the dtype of x."""
        if x.shape[-1] != self.columns:
            raise InvalidInput(f"the layer takes {self.columns} entries, not {x.shape[-1]}")
        rows = PackedSigns.of(x.reshape(-1, self.columns))
        counts = sign_product(rows, PackedSigns(self.words, self.columns)).to(self.scale.dtype)
        y = counts * self.scale if self.bias is None else counts * self.scale + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], -1)


def _counts(a: Tensor, b: Tensor, *, either: bool) -> Tensor:
    """popcount(a xor b) or popcount(a and b), summed over words, (R, S)."""
    block = max(1, _WORDS_AT_ONCE // b.numel())
    found = []
    for rows in a.split(block):
        left, right = rows[:, None], b[None]
        found.append(popcount(left ^ right if either else left & right).sum(dim=2))
    return torch.cat(found)


def _check(a: PackedSigns, b: PackedSigns) -> None:
    if a.columns != b.columns:
        raise InvalidInput(
            f"rows of {a.columns} and of {b.columns} signs have no product: they need one length"
        )
