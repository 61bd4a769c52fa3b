"""A table of embeddings, packed: only the rows that are looked up are decoded."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Quantized
from driftwell.quantization.modules.linear import check_shape
from driftwell.quantization.modules.packed_weight import PackedWeight


@final
class QuantizedEmbedding(nn.Module):
    """Embedding with a packed table: decodes the rows that are looked up and no others.

    Args:
        weight: the packed table (entries, width).
        padding_idx: kept for reference; its row is stored as it was.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> import torch
        >>> table = nn.Embedding(10, 4)
        >>> small = QuantizedEmbedding.from_float(table, Uniform(8).encode(table.weight.detach()))
        >>> small(torch.tensor([[1, 7]])).shape
        torch.Size([1, 2, 4])
    """

    def __init__(self, weight: PackedWeight, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx = padding_idx
        self.packed_weight = weight

    @classmethod
    def from_float(cls, layer: nn.Embedding, quantized: Quantized) -> QuantizedEmbedding:
        """The table with `quantized` in place of its weight.

        Raises:
            InvalidInput: a table that changes as it is read (`max_norm`).
        """
        check_shape(layer, quantized)
        if layer.max_norm is not None:
            raise InvalidInput(
                "an embedding with max_norm rescales its rows as it reads them and cannot be "
                "packed: rescale the table once and set max_norm=None"
            )
        return cls(PackedWeight(quantized.pack()), layer.padding_idx)

    @property
    def weight(self) -> Tensor:
        """The whole table, decoded."""
        return self.packed_weight.decode()

    def dequantized(self) -> nn.Embedding:
        """A float table with the rounded values."""
        table: nn.Embedding = nn.Embedding.from_pretrained(
            self.weight, padding_idx=self.padding_idx
        )
        return table

    def forward(self, index: Tensor) -> Tensor:
        """Rows of the table, (..., width), for integers (...)."""
        weight = self.packed_weight
        rows = index.reshape(-1)
        packed = weight.packed
        grid = packed.grid if len(packed.grid.scale) == 1 else packed.grid.rows(rows)
        picked = functional.embedding(rows, packed.data)  # raises for an index out of range
        some = type(packed)(picked, grid, packed.columns, (len(rows), packed.columns), weight.dtype)
        return some.decode().to(weight.dtype).reshape(*index.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return f"{self.num_embeddings}, {self.embedding_dim}"
