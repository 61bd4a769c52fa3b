"""One matrix of small integers that serves both products, W q and W^T q."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.arithmetic import quantize_multiplier, requantize, shift_round
from driftwell.quantization.export.c.program import Constant
from driftwell.quantization.formats import Quantized, pack_codes

RATIO_BITS = 30
LARGEST_SCALE = 64.0  # its shift and that of a grid then stay within what `requantize` takes
HALF_STEPS = 2  # a zero between two codes (one bit) makes the weights odd integers


@final
@dataclass(frozen=True, eq=False)
class Coupling:
    """Weights W[r, c] = scale[r] w[r, c] with w = step * code - offset[r] a small integer.

    Attributes:
        name: prefix of its arrays in C.
        codes: uint8 (R, C).
        bits: bits a code, 1 to 8.
        step: 1, or 2 where the format's zero lies between two codes.
        offset: w of code 0, negated, int64 (R,).
        hollow: w[i, i] = 0 whatever the codes say.
        multiplier: of each row's sum of products, int64 (R,); with `shift` it is scale * unit.
        shift: int64 (R,).
        ratio: scale / largest scale of each row, int64 (R,) in units of 2^-30.
        back: multiplier and shift of the largest scale, for the transposed product.
    """

    name: str
    codes: Tensor
    bits: int
    step: int
    offset: Tensor
    hollow: bool
    multiplier: Tensor
    shift: Tensor
    ratio: Tensor
    back: tuple[int, int]

    @property
    def rows(self) -> int:
        """R."""
        return self.codes.shape[0]

    @property
    def columns(self) -> int:
        """C."""
        return self.codes.shape[1]

    @property
    def integers(self) -> Tensor:
        """w, int64 (R, C)."""
        w = self.step * self.codes.to(torch.int64) - self.offset[:, None]
        return w.fill_diagonal_(0) if self.hollow else w

    @cached_property
    def _matrix(self) -> Tensor:
        return self.integers.double()

    def onward(self, q: Tensor, shift: Tensor | int = 0) -> Tensor:
        """W q in the unit of the output: q (B, C) small integers times 2^shift, shift (B, 1)."""
        total = _product(q, self._matrix.T)
        return requantize(total, self.multiplier, self.shift + shift)

    def backward(self, v: Tensor, top: int) -> Tensor:
        """W^T v for 32-bit numbers v (B, R), in v's own unit: (B, C).

        v is weighted by the ratio of the rows' scales, brought to -top .. top by a power of two,
        multiplied in small integers and scaled back.
        """
        q, shift = to_grid(shift_round(v * self.ratio, RATIO_BITS), top)
        multiplier, s = self.back
        return requantize(_product(q, self._matrix), multiplier, s + shift)

    def check_sums(self, top: int) -> None:
        """Raise where a sum of products may leave 32 bits."""
        size = self.integers.abs()
        largest = max(int(size.sum(0).max()), int(size.sum(1).max())) * top
        if largest >= 2**31:
            raise InvalidInput(
                f"sums over {self.name} ({self.rows} x {self.columns}) may reach {largest}, more "
                "than 32 bits hold: choose fewer activation_bits"
            )

    def constants(self, both: bool = True) -> tuple[Constant, ...]:
        """Read-only arrays; `both` for a matrix whose transpose is multiplied, too."""
        arrays = [
            Constant(f"{self.name}_codes", pack_codes(self.codes, self.bits).long(), "uint8_t"),
            Constant(f"{self.name}_multiplier", self.multiplier, "int32_t"),
            Constant(f"{self.name}_shift", self.shift, "int8_t"),
            Constant(f"{self.name}_offset", self.offset, "int16_t"),
        ]
        if both:
            arrays.append(Constant(f"{self.name}_ratio", self.ratio, "int32_t"))
        return tuple(arrays)

    def declaration(self, both: bool = True) -> str:
        """The `dw_coupling` that points at the arrays."""
        stride = -(-self.columns * self.bits // 8)
        n, ratio = self.name, f"{self.name}_ratio" if both else "0"
        return (
            f"static const dw_coupling {n} = {{\n"
            f"    {n}_codes, {n}_multiplier, {n}_shift, {n}_offset, {ratio},\n"
            f"    {self.rows}, {self.columns}, {stride}, {self.bits}, {self.step}, "
            f"{int(self.hollow)}, {self.back[0]}, {self.back[1]}\n}};\n"
        )


def coupling(
    name: str, quantized: Quantized, unit: float = 1.0, *, hollow: bool = False
) -> Coupling:
    """The integers of a quantized matrix.

    Args:
        name: prefix in C.
        quantized: on evenly spaced levels with one scale for the matrix or for each row.
        unit: units of the output in a unit of the input.
        hollow: the diagonal is zero whatever the codes say.

    Raises:
        InvalidInput: scales by groups, levels that are not evenly spaced, or a zero that is no
            code and does not lie halfway between two.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> w = torch.tensor([[0.5, -1.0], [2.0, 1.0]])
        >>> coupling("w", Uniform(3, symmetric=True).encode(w)).integers.tolist()
        [[2, -3], [3, 2]]
    """
    grid, codes = quantized.grid, quantized.codes
    if grid.scale.shape[1] != 1:
        raise InvalidInput(
            f"{name} has {grid.scale.shape[1]} scales a row, and both products of one integer "
            "matrix need one: quantize it per='tensor' or per='channel'"
        )
    levels = grid.levels.double()
    spacing = levels[1] - levels[0]
    if not torch.allclose(levels.diff(), spacing):
        raise InvalidInput(
            f"{name} must have evenly spaced levels to be multiplied both ways in integers: "
            f"use Uniform(bits={grid.bits}, symmetric=True)"
        )
    halves = HALF_STEPS * (grid.zero.double() - levels[0]) / spacing
    if bool((halves - halves.round()).abs().max() > 1e-6):
        raise InvalidInput(f"{name}: a zero must be a code or lie halfway between two codes")
    step = HALF_STEPS if bool((halves.round() % HALF_STEPS).any()) else 1
    offset = (halves.round() * step / HALF_STEPS).long().expand(len(codes), 1)[:, 0].clone()
    used = (step * codes.long() - offset[:, None]).any(dim=1)  # a row of zeros has no scale
    scale = (grid.scale.double() * spacing / step).expand(len(codes), 1)[:, 0] * used
    largest = float(scale.max()) or 1.0
    if largest >= LARGEST_SCALE:
        raise InvalidInput(f"{name} has weights of scale {largest:g}: these do not fit 32 bits")
    pairs = torch.tensor([quantize_multiplier(float(s) * unit) for s in scale])
    return Coupling(
        name, codes, grid.bits, step, offset, hollow, pairs[:, 0], pairs[:, 1],
        (scale / largest * 2.0**RATIO_BITS).round().long(), quantize_multiplier(largest),
    )  # fmt: skip


def to_grid(v: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Integers (B, n) as small ones -top .. top and the power of two they were divided by, (B, 1).

    Example:
        >>> q, shift = to_grid(torch.tensor([[1000, -300]]), 127)
        >>> q.tolist(), shift.tolist()
        ([[125, -38]], [[3]])
    """
    largest = v.abs().amax(dim=1, keepdim=True)
    shift = torch.zeros_like(largest)
    for _ in range(32):
        shift = shift + (shift_round(largest, shift) > top).long()
    return shift_round(v, shift), shift


def _product(q: Tensor, w: Tensor) -> Tensor:
    """q w in int64; through float64, whose products below 2^53 are exact and much faster."""
    return (q.double() @ w).long()


COUPLING_C = """\
/* weights scale[r] * (step * code - offset[r]): one array for W q and for W^T q */
typedef struct {
    const uint8_t *codes;      /* rows one after the other, each packed with its low bits first */
    const int32_t *multiplier; /* of each row's sum of products */
    const int8_t *shift;
    const int16_t *offset;
    const int32_t *ratio; /* scale of each row over the largest one, times 2^30 */
    int32_t rows, columns, stride, bits, step;
    int32_t hollow; /* whether the diagonal is zero whatever the codes say */
    int32_t back_multiplier, back_shift;
} dw_coupling;

static inline int32_t dw_coupling_weight(const dw_coupling *w, int32_t r, int32_t column)
{
    const uint8_t *row = w->codes + r * w->stride;
    const int32_t at = column * w->bits, part = at & 7;
    uint32_t word = row[at >> 3];
    if (part + w->bits > 8) {
        word |= (uint32_t)row[(at >> 3) + 1] << 8;
    }
    return w->step * (int32_t)((word >> part) & ((1u << w->bits) - 1u)) - w->offset[r];
}

/* row r of W q, q small integers times 2^shift */
static int32_t dw_onward(const dw_coupling *w, int32_t r, const int16_t *q, int shift)
{
    int32_t c, sum = 0;
    for (c = 0; c < w->columns; c++) {
        sum += dw_coupling_weight(w, r, c) * q[c];
    }
    if (w->hollow) {
        sum -= dw_coupling_weight(w, r, r) * q[r];
    }
    return dw_requantize(sum, w->multiplier[r], w->shift[r] + shift);
}

/* v as integers -top .. top times 2^shift, the shift returned */
static int dw_to_grid(const int32_t *v, int32_t n, int32_t top, int16_t *q)
{
    int64_t largest = 0;
    int32_t i;
    int shift = 0;
    for (i = 0; i < n; i++) {
        const int64_t size = v[i] < 0 ? -(int64_t)v[i] : v[i];
        largest = size > largest ? size : largest;
    }
    while (dw_shift_round(largest, shift) > top) {
        shift++;
    }
    for (i = 0; i < n; i++) {
        q[i] = (int16_t)dw_shift_round(v[i], shift);
    }
    return shift;
}

/* out = W^T v; v is overwritten, q is room for as many numbers */
static void dw_backward(const dw_coupling *w, int32_t *v, int32_t top, int16_t *q, int32_t *out)
{
    int32_t r, c;
    int shift;
    for (r = 0; r < w->rows; r++) {
        v[r] = dw_saturate32(dw_shift_round((int64_t)v[r] * w->ratio[r], 30));
    }
    shift = dw_to_grid(v, w->rows, top, q) + w->back_shift;
    for (c = 0; c < w->columns; c++) {
        out[c] = 0;
    }
    for (r = 0; r < w->rows; r++) {
        for (c = 0; c < w->columns; c++) {
            out[c] += dw_coupling_weight(w, r, c) * q[r];
        }
        if (w->hollow) {
            out[r] -= dw_coupling_weight(w, r, r) * q[r];
        }
    }
    for (c = 0; c < w->columns; c++) {
        out[c] = dw_requantize(out[c], w->back_multiplier, shift);
    }
}
"""
"""The same in C99, after the arithmetic."""
