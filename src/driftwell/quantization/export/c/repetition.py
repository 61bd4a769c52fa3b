"""Loops over a state: copies, and a body that runs a fixed number of times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.quantization.export.c.program import C_TYPES, Buffer, Constant, Operation

COPY_C = """\
static void dw_copy(const int8_t *in, int32_t size, int8_t *out)
{
    for (int32_t i = 0; i < size; i++)
        out[i] = in[i];
}
"""

FILL_C = """\
static void dw_fill(int8_t value, int32_t size, int8_t *out)
{
    for (int32_t i = 0; i < size; i++)
        out[i] = value;
}
"""


@final
@dataclass(frozen=True, eq=False)
class Copy(Operation):
    """The same 8-bit numbers in another buffer.

    Attributes:
        inputs: one buffer.
        output: another of the same size.
        size: entries.
    """

    inputs: tuple[str, ...]
    output: str
    size: int

    @property
    def macs(self) -> int:
        """None."""
        return 0

    @property
    def kernels(self) -> tuple[str, ...]:
        """One."""
        return (COPY_C,)

    def constants(self) -> tuple[Constant, ...]:
        """None."""
        return ()

    def run(self, values: dict[str, Tensor]) -> None:
        """The same tensor."""
        values[self.output] = values[self.inputs[0]]

    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """One call."""
        return (f"dw_copy({pointers[self.inputs[0]]}, {self.size}, {pointers[self.output]});",)


@final
@dataclass(frozen=True, eq=False)
class Repeat(Operation):
    """state = 0, then `times` runs of a body that rewrites it.

    Attributes:
        inputs: none of its own; the body reads what it needs.
        output: the state, an 8-bit buffer.
        state: that buffer.
        operations: the body; its last operation writes the state.
        times: how often it runs.
    """

    inputs: tuple[str, ...]
    output: str
    state: Buffer
    operations: tuple[Operation, ...]
    times: int

    @property
    def macs(self) -> int:
        """Those of the body, each time."""
        return self.times * sum(operation.macs for operation in self.operations)

    @property
    def kernels(self) -> tuple[str, ...]:
        """To begin with; the body names its own."""
        return (FILL_C,)

    def constants(self) -> tuple[Constant, ...]:
        """None of its own."""
        return ()

    def body(self) -> tuple[Operation, ...]:
        """What is repeated."""
        return self.operations

    def run(self, values: dict[str, Tensor]) -> None:
        """Run the body so many times."""
        batch = len(next(iter(values.values())))
        values[self.output] = torch.full((batch, self.state.size), self.state.zero)
        for _ in range(self.times):
            for operation in self.operations:
                operation.run(values)

    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """A loop."""
        inner = (line for operation in self.operations for line in operation.code(pointers))
        kind = C_TYPES[self.state.bits]
        return (
            f"dw_fill(({kind}){self.state.zero}, {self.state.size}, {pointers[self.output]});",
            f"for (int32_t k = 0; k < {self.times}; k++) {{",
            *(f"    {line}" for line in inner),
            "}",
        )
