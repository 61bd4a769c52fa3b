"""An elementwise function of 8-bit numbers, as a table of its 256 values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from driftwell.quantization.export.c.program import Constant, Operation

LOOKUP_C = """\
static void dw_lookup(const int8_t *table, const int8_t *in, int32_t size, int8_t *out)
{
    for (int32_t i = 0; i < size; i++)
        out[i] = table[in[i] + 128];
}
"""


@final
@dataclass(frozen=True, eq=False)
class Lookup(Operation):
    """out[i] = table[in[i] + 128].

    Attributes:
        name: of its table.
        inputs: one 8-bit buffer.
        output: 8-bit buffer of the same size.
        table: int64 (256,) within 8 bits.
        size: entries.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    table: Tensor
    size: int

    @property
    def macs(self) -> int:
        """None."""
        return 0

    @property
    def kernels(self) -> tuple[str, ...]:
        """One."""
        return (LOOKUP_C,)

    def constants(self) -> tuple[Constant, ...]:
        """The table."""
        return (Constant(f"{self.name}_lookup", self.table, "int8_t"),)

    def run(self, values: dict[str, Tensor]) -> None:
        """Look up."""
        values[self.output] = self.table[values[self.inputs[0]] + 128]

    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """One call."""
        return (
            f"dw_lookup({self.name}_lookup, {pointers[self.inputs[0]]}, {self.size}, "
            f"{pointers[self.output]});",
        )
