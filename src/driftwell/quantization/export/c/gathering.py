"""Embeddings: a row of 8-bit numbers for each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from driftwell.quantization.export.c.program import Constant, Operation

GATHER_C = """\
/* rows of a table; a token beyond the table takes its nearest row */
static void dw_gather(const int8_t *table, int32_t rows, int32_t columns, const int16_t *in,
                      int32_t count, int8_t *out)
{
    for (int32_t n = 0; n < count; n++) {
        const int32_t row = dw_clamp(in[n], 0, rows - 1);
        for (int32_t i = 0; i < columns; i++)
            *out++ = table[row * columns + i];
    }
}
"""


@final
@dataclass(frozen=True, eq=False)
class Gather(Operation):
    """out[n] = table[in[n]].

    Attributes:
        name: of its table.
        inputs: one 16-bit buffer of tokens.
        output: 8-bit buffer.
        table: int64 (rows, columns) within 8 bits.
        count: tokens.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    table: Tensor
    count: int

    @property
    def macs(self) -> int:
        """None."""
        return 0

    @property
    def kernels(self) -> tuple[str, ...]:
        """One."""
        return (GATHER_C,)

    def constants(self) -> tuple[Constant, ...]:
        """The table."""
        return (Constant(f"{self.name}_rows", self.table, "int8_t"),)

    def run(self, values: dict[str, Tensor]) -> None:
        """Rows, one after the other."""
        tokens = values[self.inputs[0]].clamp(0, len(self.table) - 1)
        values[self.output] = self.table[tokens].flatten(1)

    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """One call."""
        rows, columns = self.table.shape
        return (
            f"dw_gather({self.name}_rows, {rows}, {columns}, {pointers[self.inputs[0]]}, "
            f"{self.count}, {pointers[self.output]});",
        )
