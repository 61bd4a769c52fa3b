"""Sums and products of two results, and results that begin the sums of a matrix product."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.arithmetic import (
    quantize_multiplier,
    requantize,
    saturate,
    shift_round,
)
from driftwell.quantization.export.c.program import C_TYPES, Buffer, Constant, Operation

ADD_C = """\
/* a_factor (a - a_zero) + b_factor (b - b_zero), factors in units of 2^-bits */
static void dw_add(const int8_t *a, int32_t a_zero, int32_t a_factor, const int8_t *b,
                   int32_t b_zero, int32_t b_factor, int bits, int32_t zero, int32_t size,
                   int8_t *out)
{
    for (int32_t i = 0; i < size; i++) {
        const int64_t from_a = (int64_t)a_factor * (a[i] - a_zero);
        const int64_t from_b = (int64_t)b_factor * (b[i] - b_zero);
        out[i] = dw_saturate8(dw_shift_round(from_a + from_b, bits) + zero);
    }
}
"""

MULTIPLY_C = """\
static void dw_multiply(const int8_t *a, int32_t a_zero, const int8_t *b, int32_t b_zero,
                        int32_t multiplier, int shift, int32_t zero, int32_t size, int8_t *out)
{
    for (int32_t i = 0; i < size; i++) {
        const int32_t product = (a[i] - a_zero) * (b[i] - b_zero);
        out[i] = dw_saturate8((int64_t)dw_requantize(product, multiplier, shift) + zero);
    }
}
"""

ALIGN_C = """\
/* what the sums of a matrix product begin with: a result in steps of its rows, and the bias */
static void dw_align{bits}(const {type} *in, int32_t zero, const int32_t *multiplier,
                      const int8_t *shift, const int32_t *bias, int32_t limit, int32_t size,
                      int32_t *out)
{{
    for (int32_t i = 0; i < size; i++) {{
        const int32_t value = dw_requantize(in[i] - zero, multiplier[i], shift[i]);
        out[i] = dw_clamp((int64_t)value + bias[i], -limit, limit);
    }}
}}
"""


@final
@dataclass(frozen=True, eq=False)
class Combine(Operation):
    """a + b, a - b or a b of two 8-bit results of one shape.

    Attributes:
        inputs: the two buffers.
        output: 8-bit buffer.
        a: buffer of the first.
        b: buffer of the second.
        out: buffer of the result.
        kind: which of them.
    """

    inputs: tuple[str, ...]
    output: str
    a: Buffer
    b: Buffer
    out: Buffer
    kind: Literal["add", "subtract", "multiply"]

    @property
    def macs(self) -> int:
        """One an entry for a product."""
        return self.out.size if self.kind == "multiply" else 0

    @property
    def kernels(self) -> tuple[str, ...]:
        """One."""
        return (MULTIPLY_C if self.kind == "multiply" else ADD_C,)

    def constants(self) -> tuple[Constant, ...]:
        """None."""
        return ()

    def factors(self) -> tuple[int, int, int]:
        """Factors of a sum's two terms within 31 bits, and the bits they are counted in."""
        ratios = self.a.scale / self.out.scale, self.b.scale / self.out.scale
        bits = 30 - math.frexp(max(ratios))[1]
        if not 0 <= bits <= 61:
            raise InvalidInput(
                f"the two terms of {self.output} and their sum have scales too far apart: "
                "calibrate on data that excite all of them"
            )
        first, second = (round(ratio * 2.0**bits) for ratio in ratios)
        return first, -second if self.kind == "subtract" else second, bits

    def product_factor(self) -> tuple[int, int]:
        """Steps of a product in steps of the output."""
        return quantize_multiplier(self.a.scale * self.b.scale / self.out.scale)

    def run(self, values: dict[str, Tensor]) -> None:
        """Entry by entry."""
        a = values[self.inputs[0]] - self.a.zero
        b = values[self.inputs[1]] - self.b.zero
        if self.kind == "multiply":
            found = requantize(a * b, *self.product_factor())
        else:
            first, second, bits = self.factors()
            found = shift_round(first * a + second * b, bits)
        values[self.output] = saturate(found + self.out.zero, 8)

    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """One call."""
        a, b = (pointers[name] for name in self.inputs)
        tail = f"{self.out.zero}, {self.out.size}, {pointers[self.output]});"
        if self.kind == "multiply":
            multiplier, shift = self.product_factor()
            return (
                f"dw_multiply({a}, {self.a.zero}, {b}, {self.b.zero}, {multiplier}, {shift}, "
                + tail,
            )
        first, second, bits = self.factors()
        return (
            f"dw_add({a}, {self.a.zero}, {first}, {b}, {self.b.zero}, {second}, {bits}, " + tail,
        )


@final
@dataclass(frozen=True, eq=False)
class Align(Operation):
    """start[r] = bias[r] + rescale_r(in[r] - zero): a result that a matrix product is added to.

    Attributes:
        name: of its arrays.
        inputs: one buffer of 8 or 16 bits.
        output: 32-bit buffer.
        into: the buffer.
        multiplier: int64 (R,), with `shift`: from its steps to those of the rows' sums.
        shift: int64 (R,).
        bias: int64 (R,).
        limit: largest start, so that no sum leaves 32 bits.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    into: Buffer
    multiplier: Tensor
    shift: Tensor
    bias: Tensor
    limit: int

    @property
    def macs(self) -> int:
        """None."""
        return 0

    @property
    def kernels(self) -> tuple[str, ...]:
        """One for its width."""
        return (ALIGN_C.format(bits=self.into.bits, type=C_TYPES[self.into.bits]),)

    def constants(self) -> tuple[Constant, ...]:
        """Factors and bias."""
        return (
            Constant(f"{self.name}_align_multiplier", self.multiplier, "int32_t"),
            Constant(f"{self.name}_align_shift", self.shift, "int8_t"),
            Constant(f"{self.name}_align_bias", self.bias, "int32_t"),
        )

    def run(self, values: dict[str, Tensor]) -> None:
        """Entry by entry."""
        value = requantize(values[self.inputs[0]] - self.into.zero, self.multiplier, self.shift)
        values[self.output] = torch.clamp(value + self.bias, -self.limit, self.limit)

    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """One call."""
        n = self.name
        return (
            f"dw_align{self.into.bits}({pointers[self.inputs[0]]}, {self.into.zero}, "
            f"{n}_align_multiplier, {n}_align_shift, {n}_align_bias, {self.limit}, "
            f"{len(self.bias)}, {pointers[self.output]});",
        )
