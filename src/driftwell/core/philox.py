"""Philox4x32-10 and Box-Muller as tensor operations: runs on every device, no compiler needed.

The reference for the compiled kernels (philox.h), which follow it operation by operation.
Words live in int64 tensors, since torch has no full set of unsigned 32-bit operations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Four = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Four, key: tuple[int, int]) -> Four:
    """Philox4x32-10 (Salmon et al., 2011): four random words from a counter and a key.

    Args:
        counter: four int64 tensors of values 0..2**32-1, broadcast against each other.
        key: two words.

    Example:
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> [hex(int(w)) for w in philox((zero, zero, zero, zero), (0, 0))]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        # the product wraps around 2**64: its bit pattern is right, its sign is masked away
        p0, p2 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p2 >> 32 & MASK) ^ c1 ^ k0,
            p2 & MASK,
            (p0 >> 32 & MASK) ^ c3 ^ k1,
            p0 & MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & MASK, (k1 + _WEYL[1]) & MASK
    return c0, c1, c2, c3


def box_muller(w: Tensor, v: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two standard normals from two words, by the transform of Box and Muller (1958).

    u = (w + 1/2) 2^-32,  a = 2 pi (v + 1/2) 2^-32,  n = sqrt(-2 ln u) (cos a, sin a).

    Example:
        >>> one = torch.tensor([2**31])
        >>> n = box_muller(one, one, torch.float64)
        >>> round(float(n[0]), 4), round(abs(float(n[1])), 4)
        (-1.1774, 0.0)
    """
    # near 1, ln u is taken from 1 - u, which float32 holds exactly where it would not hold u
    low = torch.log((w.to(dtype) + 0.5) * 2.0**-32)
    high = torch.log1p((MASK - w).to(dtype).add(0.5).mul(-(2.0**-32)))
    radius = torch.sqrt(-2 * torch.where(w >= 2**31, high, low))
    # the nearest quarter turn is split off in integers; what is left lies within +-pi/4
    quarter = (v + 2**29) >> 30
    angle = ((v - (quarter << 30)).to(dtype) + 0.5) * (2 * math.pi * 2.0**-32)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    odd = (quarter & 1) == 1
    c, s = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    c = torch.where(((quarter + 1) & 2) == 2, -c, c)
    s = torch.where((quarter & 2) == 2, -s, s)
    return radius * c, radius * s


def to_normals(four: Four, dtype: torch.dtype) -> Tensor:
    """Four normals from four words, (..., 4): two by `box_muller` from each pair.

    Example:
        >>> w = torch.tensor([1, 2, 3])
        >>> to_normals((w, w, w, w), torch.float32).shape
        torch.Size([3, 4])
    """
    pairs = box_muller(four[0], four[1], dtype) + box_muller(four[2], four[3], dtype)
    return torch.stack(pairs, dim=-1)


def to_uniforms(four: Four, dtype: torch.dtype) -> Tensor:
    """Four numbers in (0, 1) from four words, (..., 4), exact in float32 (23 bits) and float64.

    Example:
        >>> w = torch.tensor([0, 2**32 - 1])
        >>> to_uniforms((w, w, w, w), torch.float32)[1, 0].item() < 1
        True
    """
    w = torch.stack(four, dim=-1)
    if dtype == torch.float64:
        return (w.to(dtype) + 0.5) * 2.0**-32
    return ((w >> 9).to(dtype) + 0.5) * 2.0**-23
