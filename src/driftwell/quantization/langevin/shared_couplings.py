"""One packed matrix of couplings that serves both products of a Langevin force."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Grid, Packed
from driftwell.quantization.langevin import kernel

_LARGEST = 128


@final
@dataclass(frozen=True, eq=False)
class Integers:
    """Couplings as J = diag(scale) Q.

    Attributes:
        Q: (R, C) int8.
        scale: (R,), of the dtype of the grid.
    """

    Q: Tensor
    scale: Tensor

    @cached_property
    def values(self) -> Tensor:
        """J (R, C), in the dtype of the scale."""
        return self.scale[:, None] * self.Q

    @cached_property
    def layout(self) -> Tensor:
        """Q as the compiled kernel reads it."""
        return kernel.lay_out(self.Q)


@final
class SharedCouplings(nn.Module):
    """Couplings J = diag(r) Q in b bits a number: one integer matrix for J phi and for J^T e.

    J^T e = Q^T (r e): the scales of the rows go into the vector, so that the transposed product
    needs no second copy with scales of its own. Kept are the packed codes; the integers are made
    of them once.

    Args:
        packed: codes on evenly spaced levels, one scale for all or one a row, with a zero that is
            a whole or a half number of levels.
        zero_diagonal: hold J_ii = 0 whatever the codes say.

    Raises:
        InvalidInput: other levels or scales, or integers that do not fit into 8 bits.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> J = torch.tensor([[0.0, 3.0], [-1.0, 0.0]])
        >>> couplings = SharedCouplings(Uniform(3, symmetric=True).encode(J).pack())
        >>> couplings.integers.Q.tolist(), couplings.decode().tolist()
        ([[0, 3], [-3, 0]], [[0.0, 3.0], [-1.0, 0.0]])
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, packed: Packed, zero_diagonal: bool = False) -> None:
        super().__init__()
        grid = packed.grid
        if not grid.is_uniform or grid.scale.shape[1] != 1 or len(packed.shape) != 2:
            raise InvalidInput(
                "couplings that serve two products need a matrix on evenly spaced levels with one "
                "scale a row or one in all: take Uniform(bits, symmetric=True)"
            )
        if not fits(grid):
            raise InvalidInput(
                "shared couplings are whole numbers of -128..127 times a scale: take "
                "Uniform(bits, symmetric=True), or Uniform(bits) with whole zeros below 8 bits"
            )
        self.bits, self.count, self.dtype = grid.bits, len(grid.levels), packed.dtype
        self.shape: tuple[int, int] = (packed.shape[0], packed.shape[1])
        self.zero_diagonal = zero_diagonal
        self.register_buffer("codes", packed.data)
        self.register_buffer("scale", grid.scale.to(packed.dtype))
        self.register_buffer("zero", grid.zero.to(packed.dtype))
        self._made: tuple[tuple[int, int, int], Integers] | None = None

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return f"{self.shape[0]} x {self.shape[1]}, bits={self.bits}"

    @property
    def packed(self) -> Packed:
        """The codes in b bits a number, with their grid."""
        levels = torch.arange(self.count, dtype=self.scale.dtype, device=self.scale.device)
        grid = Grid(levels, self.scale, self.zero, self.shape[1], self.bits)
        return Packed(self.codes, grid, self.shape[1], self.shape, self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zeros."""
        return self.packed.nbytes

    @property
    def integers(self) -> Integers:
        """Q and r, made anew only if the codes or scales changed."""
        key = (self.codes.data_ptr(), self.codes._version, self.scale._version)
        if self._made is None or self._made[0] != key:
            self._made = (key, self._integers())
        return self._made[1]

    def _integers(self) -> Integers:
        with torch.no_grad():
            codes = self.packed.unpack().codes.to(torch.int16)
            steps = _steps(self.zero)
            Q = steps * codes - (steps * self.zero).to(torch.int16)
            if self.zero_diagonal:
                Q.fill_diagonal_(0)
            scale = (self.scale[:, 0] / steps).expand(self.shape[0]).contiguous()
            return Integers(Q.to(torch.int8), scale)

    def decode(self) -> Tensor:
        """J (R, C) in its own dtype."""
        return self.integers.values


def fits(grid: Grid) -> bool:
    """Whether all levels of a uniform grid are 8-bit integers times the scale of their row.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> w = torch.tensor([[-1.0, 3.0]])
        >>> [fits(Uniform(bits, symmetric).fit(w)) for bits, symmetric in ((7, 0), (8, 0), (8, 1))]
        [True, False, True]
    """
    steps = _steps(grid.zero)
    zero = steps * grid.zero
    low, high = -zero, steps * (len(grid.levels) - 1) - zero
    whole = bool((zero == zero.round()).all())
    return whole and float(low.min()) >= -_LARGEST and float(high.max()) < _LARGEST


def _steps(zero: Tensor) -> int:
    """Integers a level: 2 for levels around half a number, which are odd, as those of one bit."""
    return 1 if bool((zero == zero.round()).all()) else 2
