"""Matrix times vector, with what follows it: a clamp, a table, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.quantization.export.c.arithmetic import (
    interpolate,
    requantize,
    saturate,
    shift_round,
)
from driftwell.quantization.export.c.program import Constant, Operation
from driftwell.quantization.export.c.weights import (
    MATRIX_C,
    IntegerWeights,
    matrix_constants,
    matrix_declaration,
)

OUTPUT_C = """\
/* what becomes of a sum in steps of the output: + zero and clamp, or a table for 16 bits of it */
typedef struct {
    const int16_t *table;
    int32_t zero, low, high;
} dw_ending;

static inline int8_t dw_end(const dw_ending *end, int32_t value)
{
    if (end->table)
        return dw_saturate8(dw_shift_round(dw_interpolate(end->table, dw_saturate16(value)), 8));
    return (int8_t)dw_clamp((int64_t)value + end->zero, end->low, end->high);
}
"""

SUM_C = """\
static inline int32_t dw_sum_of_bits(
    const dw_matrix *m, int32_t row, const int8_t *in, int32_t zero_in, int32_t bits)
{
    const uint8_t *codes = m->codes + row * m->stride;
    const int32_t zero = m->zeros ? m->zeros[row] : m->zero;
    int32_t sum = 0;
    for (int32_t i = 0; i < m->columns; i++)
        sum += ((dw_code(codes, i, bits) << m->fraction) - zero) * (in[i] - zero_in);
    return sum;
}

/* sum over the columns of weight * (in - zero_in): loops of their own for the usual widths */
static int32_t dw_sum(const dw_matrix *m, int32_t row, const int8_t *in, int32_t zero_in)
{
    int32_t sum = 0;
    if (m->levels) {
        for (int32_t i = 0; i < m->columns; i++)
            sum += dw_weight(m, row, i) * (in[i] - zero_in);
        return sum;
    }
    switch (m->bits) {
    case 8: return dw_sum_of_bits(m, row, in, zero_in, 8);
    case 4: return dw_sum_of_bits(m, row, in, zero_in, 4);
    case 2: return dw_sum_of_bits(m, row, in, zero_in, 2);
    default: return dw_sum_of_bits(m, row, in, zero_in, m->bits);
    }
}
"""

DENSE8_C = """\
static void dw_dense8(const dw_matrix *m, const int32_t *start, const int8_t *in, int32_t zero_in,
                      int32_t count, const dw_ending *end, int8_t *out)
{
    for (int32_t n = 0; n < count; n++, in += m->columns)
        for (int32_t r = 0; r < m->rows; r++)
            *out++ = dw_end(end, dw_rescale(m, r, start[r] + dw_sum(m, r, in, zero_in)));
}
"""

DENSE16_C = """\
static void dw_dense16(
    const dw_matrix *m, const int32_t *start, const int8_t *in, int32_t zero_in, int16_t *out)
{
    for (int32_t r = 0; r < m->rows; r++)
        out[r] = dw_saturate16(dw_rescale(m, r, start[r] + dw_sum(m, r, in, zero_in)));
}
"""

DENSE32_C = """\
static void dw_dense32(const dw_matrix *m, const int32_t *start, const int8_t *in, int32_t zero_in,
                       int32_t limit, int32_t *out)
{
    for (int32_t r = 0; r < m->rows; r++)
        out[r] = dw_clamp(
            dw_rescale(m, r, start[r] + dw_sum(m, r, in, zero_in)), -limit, limit);
}
"""


@final
@dataclass(frozen=True, eq=False)
class Ending:
    """What becomes of a sum in steps of the output: v + zero within [low, high], or a table.

    Attributes:
        zero: the 8-bit number that means 0.
        low: least result; `zero` for a rectifier.
        high: largest result.
        table: int64 (257,) over 16-bit numbers, results in 256ths of a step, or None.
    """

    zero: int = 0
    low: int = -128
    high: int = 127
    table: Tensor | None = None

    def apply(self, value: Tensor) -> Tensor:
        """8-bit results of 32-bit sums, int64."""
        if self.table is None:
            return (value + self.zero).clamp(self.low, self.high)
        return saturate(shift_round(interpolate(self.table, saturate(value, 16)), 8), 8)

    def constants(self, name: str) -> tuple[Constant, ...]:
        """Its table, if any."""
        if self.table is None:
            return ()
        return (Constant(f"{name}_table", self.table, "int16_t"),)

    def declaration(self, name: str) -> str:
        """The `dw_ending`."""
        table = "NULL" if self.table is None else f"{name}_table"
        return (
            f"static const dw_ending {name}_end = {{{table}, {self.zero}, {self.low}, "
            f"{self.high}}};"
        )


@final
@dataclass(frozen=True, eq=False)
class Dense(Operation):
    """out = end(rescale_r(start[r] + sum_c w[r, c] (in[c] - zero_in))), for `count` vectors.

    Attributes:
        name: of its arrays.
        inputs: buffer of the vector, and buffer of the start of the sums, if `bias` is None.
        output: 8, 16 or 32-bit buffer.
        weights: the matrix.
        multiplier: int64 (R,), with `shift`: from sums to steps of the output.
        shift: int64 (R,).
        zero_in: the 8-bit number of the input that means 0.
        bias: start of the sums, int64 (R,) within 32 bits, or None.
        ending: what makes 8 bits of it.
        bits: of the output.
        limit: largest result of 32 bits.
        count: vectors one after the other.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    weights: IntegerWeights
    multiplier: Tensor
    shift: Tensor
    zero_in: int
    bias: Tensor | None = None
    ending: Ending = Ending()
    bits: int = 8
    limit: int = 2**31 - 1
    count: int = 1

    @property
    def macs(self) -> int:
        """R C count."""
        return self.weights.codes.numel() * self.count

    @property
    def kernels(self) -> tuple[str, ...]:
        """Of its width."""
        if self.bits == 8:
            return (MATRIX_C, OUTPUT_C, SUM_C, DENSE8_C)
        return (MATRIX_C, SUM_C, DENSE16_C if self.bits == 16 else DENSE32_C)

    def constants(self) -> tuple[Constant, ...]:
        """Matrix, bias and table."""
        found = matrix_constants(self.name, self.weights, self.multiplier, self.shift)
        if self.bias is not None:
            found += (Constant(f"{self.name}_bias", self.bias, "int32_t"),)
        return found + (self.ending.constants(self.name) if self.bits == 8 else ())

    def declarations(self) -> tuple[str, ...]:
        """The matrix and the ending."""
        found = (matrix_declaration(self.name, self.weights),)
        return found + ((self.ending.declaration(self.name),) if self.bits == 8 else ())

    def run(self, values: dict[str, Tensor]) -> None:
        """The product in float64, where sums below 2^53 are exact."""
        x = values[self.inputs[0]]
        rows, columns = self.weights.codes.shape
        flat = (x.reshape(len(x), self.count, columns) - self.zero_in).double()
        start = values[self.inputs[1]].reshape(len(x), 1, rows) if self.bias is None else self.bias
        sums = (flat @ self.weights.integers.double().T).to(torch.int64) + start
        value = requantize(sums, self.multiplier, self.shift)
        if self.bits == 8:
            value = self.ending.apply(value)
        elif self.bits == 16:
            value = saturate(value, 16)
        else:
            value = value.clamp(-self.limit, self.limit)
        values[self.output] = value.reshape(len(x), -1)

    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """One call."""
        start = f"{self.name}_bias" if self.bias is not None else pointers[self.inputs[1]]
        call = f"dw_dense{self.bits}(&{self.name}, {start}, {pointers[self.inputs[0]]}"
        call += f", {self.zero_in}, "
        if self.bits == 8:
            call += f"{self.count}, &{self.name}_end, "
        elif self.bits == 32:
            call += f"{self.limit}, "
        return (f"{call}{pointers[self.output]});",)
