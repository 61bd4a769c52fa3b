"""Claims on LBW-Net: the least-squares weights are exact, products are shifts, fitting is fast."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.quantization.formats import Format, PowerOfTwo, Ternary
from driftwell.quantization.formats.ternary import LBW_NET
from driftwell.quantization.training_aware.lbw import LowBitWidth, shift_product

_DRAWS, _WEIGHTS = 50, 5
_MILLION = 1_000_000


def _least(w: Tensor, powers: int) -> float:
    """Least square error over every assignment and every power-of-two scale that could win."""
    sides = torch.exp2(-torch.arange(powers, dtype=torch.float64))
    levels = torch.cat([-sides, torch.zeros(1, dtype=torch.float64), sides])
    every = torch.cartesian_prod(*[levels] * len(w))
    top = math.floor(math.log2(float(w.abs().max())))
    errors = [(every * 2.0**s - w).square().sum(dim=1).min() for s in range(top - 12, top + 4)]
    return float(torch.stack(errors).min())


def _judge_exactness(formats: tuple[tuple[int, Format], ...], seed: int) -> Outcome:
    draw = torch.Generator().manual_seed(seed)
    measured: dict[str, float] = {}
    for bits, format in formats:
        excess = 0.0
        for _ in range(_DRAWS):
            w = torch.randn(1, _WEIGHTS, generator=draw, dtype=torch.float64) ** 3
            least = _least(w[0], 1 << (bits - 2))
            found = float((format.fake(w) - w).square().sum())
            excess = max(excess, (found - least) / float(w.square().sum()))
        measured[f"largest excess error, {bits} bits"] = excess
    return Outcome(
        holds=max(measured.values()) <= 1e-12,
        measured=measured,
        bound="on 50 draws of 5 heavy-tailed weights for 2, 3 and 4 bits: square error at most "
        "1e-12 |w|^2 above the least of all assignments and scales",
    )


@claim(
    id="lbw-exactness",
    paper=LBW_NET,
    states="ternary, three- and four-bit weights with a power-of-two scale are the least-squares "
    "ones",
    stated="card: optimality against brute force",
    cpu_minutes=0.05,
    control=lambda seed: _judge_exactness(
        tuple((b, LowBitWidth(b, "tensor", threshold=0.75)) for b in (2, 3, 4)), seed
    ),
    control_is="the paper's threshold rule in place of the exact pair",
    fast=True,
)
def exactness(seed: int) -> Outcome:
    """Against brute force."""
    exact = ((2, Ternary("tensor", power_of_two=True)), (2, LowBitWidth(2, "tensor")))
    return _judge_exactness((*exact, *((b, LowBitWidth(b, "tensor")) for b in (3, 4))), seed)


def _judge_shifts(seed: int, rounded_from: Format | None = None) -> Outcome:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(-128, 128, (16, 96), generator=draw)
    wrong = 0
    for bits in range(2, 7):
        w = torch.randn(24, 96, generator=draw)
        codes = LowBitWidth(bits).encode(w)
        shifted = shift_product(x, codes)
        dequantized = codes.decode() if rounded_from is None else rounded_from.fake(w)
        wrong += int((shifted != x.double() @ dequantized.double().T).sum())
    return Outcome(
        holds=wrong == 0,
        measured={"unequal sums of 1920": float(wrong)},
        bound="for 2 to 6 bits: shifts and int32 sums equal the float64 product of the "
        "dequantized weights with 8-bit integers, every entry exactly",
    )


@claim(
    id="lbw-shifts",
    paper=LBW_NET,
    states="a product with low bit-width weights needs no multiplier",
    stated="card: int32 shifts equal the float product of dequantized weights on integers",
    cpu_minutes=0.05,
    control=lambda seed: _judge_shifts(seed, PowerOfTwo(4)),
    control_is="powers of two whose scale is free, a float number that no shift makes",
    fast=True,
)
def shifts(seed: int) -> Outcome:
    """Shifts against products."""
    return _judge_shifts(seed)


def _judge_speed(format: Format, seed: int) -> Outcome:
    w = torch.randn(1000, _MILLION // 1000, generator=torch.Generator().manual_seed(seed))
    took = []
    for _ in range(3):
        began = time.thread_time()
        format.encode(w)
        took.append(time.thread_time() - began)
    return Outcome(
        holds=min(took) < 0.5,
        measured={"seconds, best of 3": min(took)},
        bound="a million weights in less than 0.5 s of processor time",
    )


@claim(
    id="lbw-speed",
    paper=LBW_NET,
    states="six-bit weights are found by sorting, a million in less than half a second",
    stated="card: N = 1e6 in less than 0.5 s",
    cpu_minutes=0.1,
    control=lambda seed: _judge_speed(PowerOfTwo(6, "tensor"), seed),
    control_is="the ladder of trial scales that a free scale needs",
)
def speed(seed: int) -> Outcome:
    """Seconds for a million weights."""
    return _judge_speed(LowBitWidth(6, "tensor"), seed)
