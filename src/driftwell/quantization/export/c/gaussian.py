"""Normal numbers in integers: the house's keyed words and its Box-Muller, without a float."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from driftwell.core.philox import MASK, Four
from driftwell.quantization.export.c.arithmetic import shift_round

NORMAL_BITS = 16
"""A normal number n is the integer round(n 2^16)."""
PIECES = 16
"""Straight pieces of the radius in each octave of a probability."""
OCTAVES = 32
TURN_PIECES = 128
"""Straight pieces of the sine in a quarter turn."""
RADIUS_BITS = 13
TURN_BITS = 15


def radius_tables() -> tuple[Tensor, Tensor]:
    """sqrt(-2 ln u) below and above u = 1/2, at the ends of straight pieces, int64 (513,) each.

    The distance v of u to 0 (first table) or to 1 (second) is halved OCTAVES times; each octave
    is cut into PIECES equal pieces. Entry i = 16 z + k is the radius at
    v = 2^-(z+1) (1 + (16 - k) / 16) / 2, from v = 1/2 down, in units of 2^-13.

    Example:
        >>> low, high = radius_tables()
        >>> bool(low[0] == high[0]), round(int(low[-1]) / 2**13, 2), int(high[-1])
        (True, 6.76, 0)
    """
    i = torch.arange(OCTAVES * PIECES + 1, dtype=torch.float64)
    z = (i / PIECES).floor().clamp(max=OCTAVES - 1)
    v = torch.exp2(-z - 2.0) * (1.0 + (PIECES - (i - PIECES * z)) / PIECES)
    low, high = torch.sqrt(-2.0 * torch.log(v)), torch.sqrt(-2.0 * torch.log1p(-v))
    unit = 2.0**RADIUS_BITS
    return (low * unit).round().to(torch.int64), (high * unit).round().to(torch.int64)


def sine_table() -> Tensor:
    """sin over a quarter turn, in units of 2^-15, int64 (129,).

    Example:
        >>> sine_table()[[0, 64, 128]].tolist()
        [0, 23170, 32768]
    """
    angle = torch.arange(TURN_PIECES + 1, dtype=torch.float64) * (math.pi / 2 / TURN_PIECES)
    return (angle.sin() * 2.0**TURN_BITS).round().to(torch.int64)


LOW, HIGH = radius_tables()
SINE = sine_table()


def integer_radius(w: Tensor) -> Tensor:
    """sqrt(-2 ln((w + 1/2) 2^-32)) of words, in units of 2^-16."""
    above = w >= 2**31
    v = 2 * torch.where(above, MASK - w, w) + 1  # distance to 0 or 1 in units of 2^-33, odd
    z = 31 - torch.floor(torch.log2(v.double())).to(torch.int64)  # exact: v has 32 bits
    v = (v << z) & 0x7FFFFFFF
    i, part = PIECES * z + (PIECES - 1 - (v >> 27)), (v >> 11) & 0xFFFF
    near, far = (torch.where(above, HIGH[j], LOW[j]) for j in (i, i + 1))
    return shift_round((far << 16) + (near - far) * part, 16 + RADIUS_BITS - NORMAL_BITS)


def integer_turn(w: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi (w + 1/2) 2^-32, in units of 2^-15."""
    quarter, rest = w >> 30, w & 0x3FFFFFFF
    rise, fall = _quarter_sine(rest), _quarter_sine(0x3FFFFFFF - rest)
    odd = (quarter & 1) == 1
    c, s = torch.where(odd, rise, fall), torch.where(odd, fall, rise)
    return torch.where(((quarter + 1) & 2) == 2, -c, c), torch.where((quarter & 2) == 2, -s, s)


def _quarter_sine(rest: Tensor) -> Tensor:
    i, part = rest >> 23, (rest >> 7) & 0xFFFF
    return shift_round(SINE[i] * (65536 - part) + SINE[i + 1] * part, 16)


def integer_normals(four: Four) -> Tensor:
    """Four normals from four words, int64 (..., 4), in units of 2^-16.

    Box and Muller's transform (1958) as `driftwell.core.philox.to_normals` has it, from the same
    words, with the radius and the turn on straight lines between table entries. Against the exact
    transform each number is off by less than 4e-4 at most and 1e-4 in root mean square, so the
    integer chain sees the float chain's own noise. |n| <= 6.77.

    Args:
        four: words, as `driftwell.core.philox.philox` returns.

    Example:
        >>> w = torch.tensor([2**31])
        >>> [round(int(n) / 2**16, 3) for n in integer_normals((w, w, w, w))[0]]
        [-1.177, 0.0, -1.177, 0.0]
    """
    out = []
    for w, v in (four[:2], four[2:]):
        radius, (cosine, sine) = integer_radius(w), integer_turn(v)
        out += [shift_round(radius * cosine, TURN_BITS), shift_round(radius * sine, TURN_BITS)]
    return torch.stack(out, dim=-1)


GAUSSIAN_C = """\
/* Philox4x32-10 (Salmon et al., 2011): four words from a counter, in place, and a key */
static void dw_philox(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    int round;
    for (round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)c[0] * 0xD2511F53u, p2 = (uint64_t)c[2] * 0xCD9E8D57u;
        c[0] = (uint32_t)(p2 >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)p2;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* sqrt(-2 ln((w + 1/2) 2^-32)), times 2^16: straight pieces, 16 in each octave of u or 1 - u */
static int32_t dw_radius(uint32_t w)
{
    const uint16_t *table = w >> 31 ? dw_radius_high : dw_radius_low;
    uint32_t v = 2u * (w >> 31 ? ~w : w) + 1u, part;
    int32_t i = 15, near;
    while (!(v >> 31)) {
        v <<= 1;
        i += 16;
    }
    i -= (int32_t)((v >> 27) & 15u);
    part = (v >> 11) & 0xFFFFu;
    near = (int32_t)table[i] - table[i + 1];
    return (int32_t)dw_shift_round(((int64_t)table[i + 1] << 16) + (int64_t)near * part, 13);
}

/* sin over a quarter turn of 2^30, times 2^15 */
static int32_t dw_quarter_sine(uint32_t rest)
{
    const uint32_t i = rest >> 23, part = (rest >> 7) & 0xFFFFu;
    return (int32_t)dw_shift_round(
        (int64_t)dw_sine[i] * (65536u - part) + (int64_t)dw_sine[i + 1] * part, 16);
}

/* two normal numbers, times 2^16, from two words (Box and Muller, 1958) */
static void dw_normal_pair(uint32_t w, uint32_t v, int32_t out[2])
{
    const int64_t radius = dw_radius(w);
    const uint32_t quarter = v >> 30, rest = v & 0x3FFFFFFFu;
    const int32_t rise = dw_quarter_sine(rest), fall = dw_quarter_sine(0x3FFFFFFFu - rest);
    const int32_t c = quarter & 1u ? rise : fall, s = quarter & 1u ? fall : rise;
    out[0] = (int32_t)dw_shift_round(radius * ((quarter + 1u) & 2u ? -c : c), 15);
    out[1] = (int32_t)dw_shift_round(radius * (quarter & 2u ? -s : s), 15);
}

/* `count` normal numbers of one key, times 2^16: element e takes word e % 4 of counter e / 4 */
static void dw_normals(uint64_t seed, uint32_t chain, uint32_t step, uint32_t tag, int32_t count,
                       int32_t *out)
{
    int32_t at, i;
    for (at = 0; at < count; at += 4) {
        uint32_t c[4];
        int32_t four[4];
        c[0] = (uint32_t)at / 4u;
        c[1] = chain;
        c[2] = step;
        c[3] = tag;
        dw_philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
        dw_normal_pair(c[0], c[1], four);
        dw_normal_pair(c[2], c[3], four + 2);
        for (i = 0; i < 4 && at + i < count; i++) {
            out[at + i] = four[i];
        }
    }
}
"""
"""The same in C99, after the tables `dw_radius_low`, `dw_radius_high` and `dw_sine`."""
