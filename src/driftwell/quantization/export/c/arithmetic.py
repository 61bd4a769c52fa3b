"""The integer arithmetic of exported networks, in Python and, to the last bit, in C99."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar, overload

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput

WholeNumbers = TypeVar("WholeNumbers", int, Tensor)
"""A Python integer, or a tensor of int64."""

TABLE_KNOTS = 257
"""Entries of a table that 16-bit numbers are interpolated in: one every 256, ends included."""


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A positive factor as a mantissa of 31 bits and a power of two.

        real = multiplier * 2^(shift - 31) (1 + e),    2^30 <= multiplier < 2^31,  |e| <= 2^-31

    Args:
        real: the factor, in [0, 2^30). One below 2^-32 gives (0, 0): no 32-bit integer times it
            rounds to anything but 0.

    Returns:
        multiplier and shift, -31 <= shift <= 30.

    Raises:
        InvalidInput: a factor that is negative, not finite, or 2^30 and more.

    Example:
        >>> quantize_multiplier(0.75)
        (1610612736, 0)
    """
    if not (math.isfinite(real) and 0.0 <= real < 2.0**30):
        raise InvalidInput(
            f"a requantisation factor must lie in [0, 2^30), got {real}: the scales on both sides "
            "of it are too far apart; calibrate on data that excite every layer"
        )
    mantissa, shift = math.frexp(real)
    multiplier = round(mantissa * 2**31)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        return 2**31 - 1, 30
    return multiplier, shift


@overload
def shift_round(value: int, bits: int) -> int: ...
@overload
def shift_round(value: Tensor, bits: int | Tensor) -> Tensor: ...
def shift_round(value: int | Tensor, bits: int | Tensor) -> int | Tensor:
    """value / 2^bits to the nearest integer, halves away from zero.

    Args:
        value: integers below 2^62 in absolute value; tensors are int64.
        bits: 0 to 62, or a tensor of such that broadcasts with `value`.

    Example:
        >>> shift_round(5, 1), shift_round(-5, 1), shift_round(-1, 2)
        (3, -3, 0)
    """
    if isinstance(value, Tensor):
        bits = torch.as_tensor(bits, device=value.device)
        half = torch.where(bits > 0, torch.bitwise_left_shift(1, (bits - 1).clamp(min=0)), 0)
        size: Tensor = torch.bitwise_right_shift(value.abs() + half, bits)
        return torch.where(value < 0, -size, size)
    half_ = (1 << (int(bits) - 1)) if bits else 0
    size_ = (abs(value) + half_) >> int(bits)
    return -size_ if value < 0 else size_


@overload
def requantize(acc: int, multiplier: int, shift: int) -> int: ...
@overload
def requantize(acc: Tensor, multiplier: int | Tensor, shift: int | Tensor) -> Tensor: ...
def requantize(acc: int | Tensor, multiplier: int | Tensor, shift: int | Tensor) -> int | Tensor:
    """acc * multiplier * 2^(shift - 31), rounded once, halves away from zero, within 32 bits.

    Args:
        acc: 32-bit integers; tensors are int64.
        multiplier: of `quantize_multiplier`, or an int64 tensor of them that broadcasts.
        shift: likewise.

    Example:
        >>> requantize(10, *quantize_multiplier(0.25)), requantize(-10, *quantize_multiplier(0.25))
        (3, -3)
    """
    if isinstance(acc, Tensor):
        return saturate(shift_round(acc * multiplier, 31 - shift), 32)
    return saturate(shift_round(acc * int(multiplier), 31 - int(shift)), 32)


def saturate(value: WholeNumbers, bits: int) -> WholeNumbers:
    """`value` within the signed numbers of so many bits.

    Example:
        >>> saturate(200, 8), saturate(-200, 8)
        (127, -128)
    """
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if isinstance(value, Tensor):
        return value.clamp(low, high)
    return min(max(value, low), high)


def lookup_table(
    function: Callable[[Tensor], Tensor],
    scale_in: float,
    zero_in: int,
    scale_out: float,
    zero_out: int,
) -> Tensor:
    """An elementwise function between 8-bit numbers, as its 256 values.

        table[q + 128] = sat8(round(function(scale_in (q - zero_in)) / scale_out) + zero_out)

    Args:
        function: maps a float64 tensor elementwise.
        scale_in: units of a step of the input.
        zero_in: the 8-bit number that means 0.
        scale_out: units of a step of the output.
        zero_out: the 8-bit number of the output that means 0.

    Returns:
        int64 (256,), within 8 bits.

    Example:
        >>> lookup_table(torch.tanh, 1 / 32, 0, 1 / 127, 0)[[0, 128, 160, 255]]
        tensor([-127,    0,   97,  127])
    """
    q = torch.arange(-128, 128, dtype=torch.float64)
    return saturate(_levels(function((q - zero_in) * scale_in) / scale_out) + zero_out, 8)


def interpolated_table(
    function: Callable[[Tensor], Tensor], scale_in: float, scale_out: float
) -> Tensor:
    """An elementwise function between 16-bit numbers, as the values `interpolate` runs between.

        table[i] = sat16(round(function(scale_in (256 i - 32768)) / scale_out)),   i = 0 .. 256

    Args:
        function: maps a float64 tensor elementwise.
        scale_in: units of a step of the input; its zero is 0.
        scale_out: units of a step of the output; its zero is 0.

    Returns:
        int64 (257,), within 16 bits.

    Example:
        >>> interpolated_table(torch.tanh, 2.0**-12, 2.0**-15)[[0, 128, 144, 256]]
        tensor([-32768,      0,  24956,  32767])
    """
    x = 256.0 * torch.arange(TABLE_KNOTS, dtype=torch.float64) - 32768.0
    return saturate(_levels(function(x * scale_in) / scale_out), 16)


def interpolate(table: Tensor, x: Tensor) -> Tensor:
    """Values of 16-bit numbers x, int64, on straight lines between the knots of `table`.

    Example:
        >>> square = interpolated_table(torch.square, 2.0**-15, 2.0**-15)
        >>> interpolate(square, torch.tensor([16384, 16448]))
        tensor([8192, 8257])
    """
    place = x + 32768
    i, part = place >> 8, place & 255
    return shift_round(table[i] * (256 - part) + table[i + 1] * part, 8)


def _levels(x: Tensor) -> Tensor:
    """Nearest integers, halves away from zero, of values cut to what 32 bits hold."""
    x = x.clamp(-(2.0**30), 2.0**30)
    return (x.sign() * (x.abs() + 0.5).floor()).to(torch.int64)


ARITHMETIC_C = """\
/* value / 2^bits to the nearest integer, halves away from zero; 0 <= bits <= 62 */
static inline int64_t dw_shift_round(int64_t value, int bits)
{
    const int64_t half = bits > 0 ? (int64_t)1 << (bits - 1) : 0;
    return value < 0 ? -((-value + half) >> bits) : (value + half) >> bits;
}

static inline int32_t dw_clamp(int64_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : (int32_t)value;
}

static inline int32_t dw_saturate32(int64_t value)
{
    return dw_clamp(value, INT32_MIN, INT32_MAX);
}

static inline int16_t dw_saturate16(int64_t value)
{
    return (int16_t)dw_clamp(value, INT16_MIN, INT16_MAX);
}

static inline int8_t dw_saturate8(int64_t value)
{
    return (int8_t)dw_clamp(value, INT8_MIN, INT8_MAX);
}

/* acc * multiplier * 2^(shift - 31), rounded once, halves away from zero */
static inline int32_t dw_requantize(int32_t acc, int32_t multiplier, int shift)
{
    return dw_saturate32(dw_shift_round((int64_t)acc * multiplier, 31 - shift));
}

/* x between the 257 knots of a table, which lie 256 apart */
static inline int16_t dw_interpolate(const int16_t *table, int16_t x)
{
    const int32_t place = (int32_t)x + 32768;
    const int32_t i = place >> 8, part = place & 255;
    const int32_t sum = table[i] * (256 - part) + table[i + 1] * part;
    return (int16_t)dw_shift_round(sum, 8);
}
"""
"""The functions above in C99, needing <stdint.h> only; no shift of a negative number among them."""
