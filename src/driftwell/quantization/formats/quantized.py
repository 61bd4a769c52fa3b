"""A quantized matrix: its codes one a byte, to work with, or packed in b bits, to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats.grid import Grid
from driftwell.quantization.formats.packing import pack_codes, packed_width, unpack_codes

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}


@final
@dataclass(frozen=True, eq=False)
class Quantized:
    """Codes of a weight on a grid, one code a byte.

    Attributes:
        codes: (R, C) uint8.
        grid: the levels the codes stand for.
        shape: shape of the weight; its first axis has R entries, the others C together.
        dtype: dtype of the weight.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> Uniform(8).encode(torch.tensor([[0.0, 2.55]])).decode().tolist()
        [[0.0, 2.549999952316284]]
    """

    codes: Tensor
    grid: Grid
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def matrix(self) -> Tensor:
        """The weight as a matrix (R, C), in the dtype of the grid."""
        return self.grid.values(self.codes)

    def decode(self) -> Tensor:
        """The weight, of `shape` and `dtype`."""
        return self.matrix.to(self.dtype).reshape(self.shape)

    def pack(self) -> Packed:
        """The same in really b bits a code."""
        data = pack_codes(self.codes, self.grid.bits)
        return Packed(data, self.grid, self.codes.shape[1], self.shape, self.dtype)


@final
@dataclass(frozen=True, eq=False)
class Packed:
    """Codes of a weight on a grid, b bits a code, in memory and on disk.

    Attributes:
        data: (R, ceil(C bits / 8)) uint8, a little-endian stream of bits per row.
        grid: the levels the codes stand for.
        columns: C.
        shape: shape of the weight.
        dtype: dtype of the weight.

    Raises:
        InvalidInput: the parts do not fit each other.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> packed = Uniform(2).encode(torch.randn(8, 64)).pack()
        >>> packed.data.shape, packed.nbytes
        (torch.Size([8, 16]), 192)
    """

    data: Tensor
    grid: Grid
    columns: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        """Raise where bytes, grid and shape do not belong together."""
        rows = self.shape[0] if self.shape else 0
        expected = (rows, packed_width(self.columns, self.grid.bits))
        if math.prod(self.shape) != rows * self.columns or tuple(self.data.shape) != expected:
            raise InvalidInput(
                f"a weight of shape {self.shape} in {self.grid.bits} bits takes {expected} bytes, "
                f"not {tuple(self.data.shape)} for {self.columns} columns"
            )
        if self.grid.scale.shape[0] not in (1, rows):
            raise InvalidInput(
                f"{self.grid.scale.shape[0]} rows of scales do not serve {rows} rows of weights"
            )
        groups = self.grid.scale.shape[1]
        if groups > 1 and groups * self.grid.group_size != self.columns:
            raise InvalidInput(
                f"{groups} groups of {self.grid.group_size} do not make {self.columns} columns"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zeros (and levels, where they are not 0, 1, 2, ..)."""
        return sum(part.numel() * part.element_size() for part in self.tensors().values())

    def unpack(self) -> Quantized:
        """One code a byte again."""
        codes = unpack_codes(self.data, self.grid.bits, self.columns)
        return Quantized(codes, self.grid, self.shape, self.dtype)

    def decode(self) -> Tensor:
        """The weight, of `shape` and `dtype`."""
        return self.unpack().decode()

    def tensors(self) -> dict[str, Tensor]:
        """What a file must hold: codes and scale; zero and levels only where they say something."""
        kept = {"codes": self.data, "scale": self.grid.scale.contiguous()}
        if not self.grid.has_usual_zero:
            kept["zero"] = self.grid.zero.contiguous()
        if not self.grid.is_uniform:
            kept["levels"] = self.grid.levels.contiguous()
        return kept

    def description(self) -> dict[str, Any]:
        """What a file must say beside the tensors, as plain numbers and strings."""
        return {
            "bits": self.grid.bits,
            "columns": self.columns,
            "group_size": self.grid.group_size,
            "levels": len(self.grid.levels),
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> Packed:
        """The packed weight that `tensors` and `description` were taken from.

        Raises:
            InvalidInput: something is missing or does not fit.

        Example:
            >>> from driftwell.quantization.formats import Uniform
            >>> packed = Uniform(3).encode(torch.randn(4, 5)).pack()
            >>> again = Packed.from_tensors(packed.tensors(), packed.description())
            >>> bool((again.decode() == packed.decode()).all())
            True
        """
        try:
            bits, shape = int(description["bits"]), tuple(int(n) for n in description["shape"])
            columns, group_size = int(description["columns"]), int(description["group_size"])
            count, dtype = int(description["levels"]), _DTYPES[description["dtype"]]
            data, scale = tensors["codes"], tensors["scale"]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"the packed weight lacks or garbles {error}") from error
        levels = tensors.get("levels")
        if levels is None:
            levels = torch.arange(count, dtype=scale.dtype, device=scale.device)
        grid = Grid(levels, scale, torch.zeros_like(scale), group_size, bits)
        zero = tensors.get("zero")
        grid = grid.replaced(zero=torch.full_like(scale, grid.usual_zero) if zero is None else zero)
        return Packed(data, grid, columns, shape, dtype)
