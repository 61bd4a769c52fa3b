"""Matrices of integer weights: packed codes, the code that means zero, and a scale a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.arithmetic import quantize_multiplier
from driftwell.quantization.export.c.program import Constant
from driftwell.quantization.formats.quantized import Quantized

MATRIX_C = """\
/* a matrix of packed weights: weight = level[code] - zero, or code 2^fraction - zero */
typedef struct {
    const uint8_t *codes;      /* rows one after the other, each packed with its low bits first */
    const int16_t *levels;     /* value of each code, or NULL */
    const int16_t *zeros;      /* of each row, or NULL: `zero` for all */
    const int32_t *multiplier; /* of each row: its sum in steps of the output */
    const int8_t *shift;
    int32_t rows, columns, stride, bits, fraction, zero;
} dw_matrix;

static inline int32_t dw_code(const uint8_t *row, int32_t column, int32_t bits)
{
    const int32_t at = column * bits, part = at & 7;
    uint32_t word = row[at >> 3];
    if (part + bits > 8)
        word |= (uint32_t)row[(at >> 3) + 1] << 8;
    return (int32_t)((word >> part) & ((1u << bits) - 1u));
}

static inline int32_t dw_weight(const dw_matrix *m, int32_t row, int32_t column)
{
    const int32_t code = dw_code(m->codes + row * m->stride, column, m->bits);
    const int32_t level = m->levels ? m->levels[code] : code << m->fraction;
    return level - (m->zeros ? m->zeros[row] : m->zero);
}

static inline int32_t dw_rescale(const dw_matrix *m, int32_t row, int32_t sum)
{
    return dw_requantize(sum, m->multiplier[row], m->shift[row]);
}
"""


@final
@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """Weights w[r, c] = scale[r] * (level[code[r, c]] - zero[r]).

    Without levels of their own, level[code] = code 2^fraction: so zeros that are fractions of a
    code stay whole numbers.

    Attributes:
        codes: int64 (R, C), each below 2^bits.
        bits: of a code in memory, 1 to 8.
        scale: float64 (R,), not 0; a negative one turns a row's sign.
        zero: int64 (R,), within 16 bits.
        levels: int64 (2^bits,) within 16 bits, or None.
        fraction: 0 to 8.
    """

    codes: Tensor
    bits: int
    scale: Tensor
    zero: Tensor
    levels: Tensor | None = None
    fraction: int = 0

    @property
    def integers(self) -> Tensor:
        """level[code] - zero, int64 (R, C)."""
        value = self.codes << self.fraction if self.levels is None else self.levels[self.codes]
        return value - self.zero[:, None]

    def decode(self) -> Tensor:
        """The weights, float64 (R, C)."""
        return self.scale[:, None] * self.integers

    def scaled(self, gain: Tensor) -> IntegerWeights:
        """The rows times the gains (R,), of any sign."""
        return _filled(replace(self, scale=self.scale * gain))

    def coarsened(self, least: Tensor) -> IntegerWeights:
        """The same with no scale smaller than `least` (R,); for rows that hardly count.

        Raises:
            InvalidInput: such a row of weights with levels of their own.
        """
        fine = self.scale.abs() < least
        if not bool(fine.any()):
            return self
        if self.levels is not None:
            raise InvalidInput(
                f"row {int(fine.int().argmax())} has a bias too large for its weights: quantize "
                "it with a uniform format"
            )
        scale = torch.where(fine, least * self.scale.sign(), self.scale)
        shrunk = self.integers * (self.scale / scale)[:, None] + self.zero[:, None]
        codes = torch.round(shrunk / 2**self.fraction).to(torch.int64)
        return replace(self, codes=codes, scale=scale)

    def largest_sum(self, zero_in: int) -> Tensor:
        """Largest |sum_c w (q - zero_in)| that 8-bit numbers q can reach, int64 (R,)."""
        reach = max(127 - zero_in, 128 + zero_in)
        return self.integers.abs().sum(1) * reach

    def packed(self) -> Tensor:
        """Codes as bytes, int64 (R, ceil(C bits / 8)): a little-endian stream of bits a row."""
        rows, columns = self.codes.shape
        stream = (self.codes[:, :, None] >> torch.arange(self.bits)) & 1
        length = -(-columns * self.bits // 8)
        padded = torch.zeros(rows, 8 * length, dtype=torch.int64)
        padded[:, : columns * self.bits] = stream.reshape(rows, -1)
        return (padded.reshape(rows, length, 8) << torch.arange(8)).sum(2)


def multipliers(factors: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_multiplier` of the factors (R,) with their signs: int64 mantissas, shifts (R,)."""
    pairs = [quantize_multiplier(float(factor)) for factor in factors.abs()]
    mantissa, shift = zip(*pairs, strict=True)
    sign = torch.where(factors < 0, -1, 1)
    return sign * torch.tensor(mantissa), torch.tensor(shift)


def matrix_constants(
    name: str, weights: IntegerWeights, multiplier: Tensor, shift: Tensor
) -> tuple[Constant, ...]:
    """Read-only arrays of a `dw_matrix`."""
    found = [
        Constant(f"{name}_codes", weights.packed(), "uint8_t"),
        Constant(f"{name}_multiplier", multiplier, "int32_t"),
        Constant(f"{name}_shift", shift, "int8_t"),
    ]
    if weights.levels is not None:
        found.append(Constant(f"{name}_levels", weights.levels, "int16_t"))
    if _zeros_differ(weights):
        found.append(Constant(f"{name}_zeros", weights.zero, "int16_t"))
    return tuple(found)


def matrix_declaration(name: str, weights: IntegerWeights) -> str:
    """The `dw_matrix` that points at the arrays of `matrix_constants`."""
    rows, columns = weights.codes.shape
    levels = "NULL" if weights.levels is None else f"{name}_levels"
    zeros = f"{name}_zeros" if _zeros_differ(weights) else "NULL"
    stride = -(-columns * weights.bits // 8)
    return (
        f"static const dw_matrix {name} = {{\n"
        f"    {name}_codes, {levels}, {zeros}, {name}_multiplier, {name}_shift,\n"
        f"    {rows}, {columns}, {stride}, {weights.bits}, {weights.fraction}, "
        f"{int(weights.zero[0])}\n}};"
    )


def integer_weights(quantized: Quantized) -> IntegerWeights:
    """A quantized matrix as integers and a scale a row.

    A uniform grid is taken code for code; zeros that are no whole codes are rounded to at best a
    256th of one. Levels that are whole multiples of their smallest step (binary, ternary, powers
    of two) become those multiples; others, such as normal-float levels, are rounded to a 2047th of
    the largest.

    Raises:
        InvalidInput: a scale for each group of columns, or zeros no integer can be.
    """
    grid, (rows, _) = quantized.grid, quantized.codes.shape
    if grid.scale.shape[1] > 1:
        raise InvalidInput(
            f"C carries one scale a row and not {grid.scale.shape[1]} groups of "
            f'{grid.group_size} columns: quantize with per="channel"'
        )
    scale = grid.scale.double().expand(rows, 1)[:, 0]
    zero = grid.zero.double().expand(rows, 1)[:, 0]
    codes = quantized.codes.to(torch.int64)
    good = torch.isfinite(scale) & (scale >= 0) & torch.isfinite(zero) & (zero.abs() <= 2**14)
    if not bool(good.all()):
        raise InvalidInput("scales and zeros of a quantized matrix must be finite and not huge")
    if grid.is_uniform:
        fraction = _fraction(codes, zero)
        found = torch.round(zero * 2**fraction).to(torch.int64)
        return _filled(IntegerWeights(codes, grid.bits, scale / 2**fraction, found, None, fraction))
    if bool((zero != zero[0]).any()):
        raise InvalidInput(
            "C carries zeros that differ by row only on a uniform grid: quantize with Uniform(bits)"
        )
    values = grid.levels.double() - zero[0]
    unit = _unit(values)
    levels = torch.zeros(1 << grid.bits, dtype=torch.int64)
    levels[: len(values)] = torch.round(values / unit).to(torch.int64)
    none = torch.zeros(rows, dtype=torch.int64)
    return _filled(IntegerWeights(codes, grid.bits, scale * unit, none, levels))


def _fraction(codes: Tensor, zero: Tensor) -> int:
    """Bits after the point of zeros: none for whole ones, else as many as sums leave room for."""
    if bool((zero == zero.round()).all()):
        return 0
    largest = float(((codes - zero[:, None]).abs().sum(1) * 255).max())
    for fraction in range(8, 0, -1):
        if largest * 2**fraction < 2**30 and float(zero.abs().max()) * 2**fraction < 2**15 - 1:
            return fraction
    return 0


def _unit(values: Tensor) -> float:
    """The smallest value if all are whole multiples of it, else a 2047th of the largest."""
    size = values.abs()
    least, most = float(size[size > 0].min()), float(size.max())
    ratio = values / least
    whole = bool(((ratio - ratio.round()).abs() < 1e-6).all())
    return least if whole and most / least <= 2047 else most / 2047


def _filled(weights: IntegerWeights) -> IntegerWeights:
    """The largest scale for rows that are all zero, whose own says nothing and may be 0."""
    empty = (weights.integers == 0).all(1) | (weights.scale == 0)
    if not bool(empty.any()):
        return weights
    most = float(weights.scale.abs().max()) or 1e-4
    scale = torch.where(empty, most, weights.scale)
    if weights.levels is not None:
        blank = torch.argmin(weights.levels.abs())
        codes = torch.where(empty[:, None], blank, weights.codes)
        return replace(weights, codes=codes, scale=scale)
    own = (weights.zero >> weights.fraction).clamp(0, 2**weights.bits - 1)
    codes = torch.where(empty[:, None], own[:, None], weights.codes)
    zero = torch.where(empty, own << weights.fraction, weights.zero)
    return replace(weights, codes=codes, scale=scale, zero=zero)


def _zeros_differ(weights: IntegerWeights) -> bool:
    return bool((weights.zero != weights.zero[0]).any())
