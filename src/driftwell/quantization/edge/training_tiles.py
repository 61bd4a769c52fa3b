"""Products of matrices cut into tiles that fit a small fast memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from driftwell.core.errors import InvalidInput

SUM_BYTES = 4
"""Of an entry of the tile that sums: single precision, whatever is stored."""


@final
@dataclass(frozen=True)
class Product:
    """C (M, N) = A (M, K) B (K, N), done `repeats` times.

    Attributes:
        rows: M.
        columns: N.
        inner: K.
        repeats: times, one a group of a grouped convolution.

    Example:
        >>> Product(8, 64, 9).macs
        4608
    """

    rows: int
    columns: int
    inner: int
    repeats: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.repeats * self.rows * self.columns * self.inner


@final
@dataclass(frozen=True)
class Tile:
    """m rows, n columns and k terms of the sums that are in fast memory at once.

    Attributes:
        rows: m.
        columns: n.
        inner: k.

    Example:
        >>> Tile(8, 16, 9).nbytes(4)
        1376
    """

    rows: int
    columns: int
    inner: int

    def nbytes(self, width: int) -> int:
        """Bytes of the three tiles, with operands of `width` bytes an entry: (m + n) k and m n."""
        operands = width * (self.rows + self.columns) * self.inner
        return operands + SUM_BYTES * self.rows * self.columns

    def traffic(self, product: Product) -> int:
        """Entries carried between slow and fast memory.

        The tile of C stays until its sums are done, so A comes once for every N / n, B once for
        every M / m, and C is read and written once:

            M K ceil(N / n) + K N ceil(M / m) + 2 M N
        """
        p = product
        a = p.rows * p.inner * -(-p.columns // self.columns)
        b = p.inner * p.columns * -(-p.rows // self.rows)
        return p.repeats * (a + b + 2 * p.rows * p.columns)


def choose_tile(product: Product, fast_bytes: int, width: int = 4) -> Tile:
    """The tile that fits and carries the fewest entries, with the longest sums among equals.

    All (m, n) that cut M and N evenly are tried; k is the longest that fits beside them.

    Args:
        product: what is to be done.
        fast_bytes: size of the fast memory.
        width: bytes of an entry of A and B.

    Raises:
        InvalidInput: not even one entry of each matrix fits.

    Example:
        >>> choose_tile(Product(64, 64, 64), 64 * 1024)
        Tile(rows=64, columns=64, inner=64)
        >>> choose_tile(Product(64, 64, 64), 8 * 1024)
        Tile(rows=32, columns=32, inner=16)
    """
    best: tuple[int, int, Tile] | None = None
    for rows in _cuts(product.rows):
        for columns in _cuts(product.columns):
            left = fast_bytes - SUM_BYTES * rows * columns
            inner = min(product.inner, left // (width * (rows + columns)))
            if inner < 1:
                continue
            tile = Tile(rows, columns, inner)
            found = (tile.traffic(product), -inner, tile)
            if best is None or found[:2] < best[:2]:
                best = found
    if best is None:
        raise InvalidInput(
            f"a fast memory of {fast_bytes} bytes holds no product: give at least "
            f"{SUM_BYTES + 2 * width}"
        )
    return best[2]


def _cuts(length: int) -> list[int]:
    """Lengths of a piece when `length` is cut into 1, 2, 3, ... pieces as evenly as can be."""
    return sorted({-(-length // pieces) for pieces in range(1, length + 1)}, reverse=True)
