"""Integer arithmetic: against exact fractions, and C against Python to the last bit."""

from __future__ import annotations

import random
from fractions import Fraction
from math import floor
from pathlib import Path

import pytest
import torch
from tests.quantization.export.compiled import compile_and_run, needs_compiler

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c import (
    ARITHMETIC_C,
    interpolate,
    interpolated_table,
    lookup_table,
    quantize_multiplier,
    requantize,
    saturate,
    shift_round,
)

EDGES = [0, 1, -1, 2, -2, 127, -128, 2**15, 2**30, -(2**30), 2**31 - 1, -(2**31)]


def nearest(x: Fraction) -> int:
    """The nearest integer, halves away from zero."""
    return floor(x + Fraction(1, 2)) if x >= 0 else -floor(-x + Fraction(1, 2))


def factors(count: int) -> list[float]:
    draw = random.Random(0)
    return [2.0 ** draw.uniform(-33, 29) for _ in range(count)]


def test_a_factor_is_kept_to_31_bits() -> None:
    for real in [*factors(500), 0.5, 1.0, 1 - 2**-40, 2.0**-31]:
        multiplier, shift = quantize_multiplier(real)
        if real < 2.0**-32:
            assert (multiplier, shift) == (0, 0)
            continue
        assert 2**30 <= multiplier < 2**31
        assert abs(Fraction(multiplier) * Fraction(2) ** (shift - 31) / Fraction(real) - 1) <= (
            Fraction(1, 2**31)
        )


@pytest.mark.parametrize("real", [-0.5, float("nan"), float("inf"), 2.0**30])
def test_a_factor_that_cannot_be_is_refused(real: float) -> None:
    with pytest.raises(InvalidInput, match=r"in \[0, 2\^30\)"):
        quantize_multiplier(real)


def test_requantising_rounds_once_halves_away_from_zero_and_saturates() -> None:
    draw = random.Random(1)
    for real in [*factors(300), 0.5, 0.25, 2.0**-31]:
        multiplier, shift = quantize_multiplier(real)
        for acc in [*EDGES, *(draw.randrange(-(2**31), 2**31) for _ in range(20))]:
            exact = nearest(Fraction(acc) * multiplier * Fraction(2) ** (shift - 31))
            wanted = min(max(exact, -(2**31)), 2**31 - 1)
            assert requantize(acc, multiplier, shift) == wanted


def test_tensors_and_integers_of_python_give_the_same() -> None:
    pairs = [quantize_multiplier(real) for real in factors(100)]
    multiplier, shift = (torch.tensor(part) for part in zip(*pairs, strict=True))
    acc = torch.tensor(EDGES)[:, None]
    found = requantize(acc, multiplier, shift)
    wanted = [[requantize(a, m, s) for m, s in pairs] for a in EDGES]
    assert found.tolist() == wanted
    assert shift_round(torch.tensor([5, -5, 4]), 1).tolist() == [3, -3, 2]
    assert saturate(torch.tensor([300, -300]), 8).tolist() == [127, -128]


def test_a_table_holds_the_nearest_number_of_every_input() -> None:
    table = lookup_table(torch.sigmoid, 0.05, -3, 1 / 256, -128)
    for q in range(-128, 128):
        exact = float(torch.sigmoid(torch.tensor(0.05 * (q + 3), dtype=torch.float64))) * 256 - 128
        assert abs(int(table[q + 128]) - min(exact, 127)) <= 0.5 + 1e-9


def test_interpolation_of_tanh_is_right_to_a_16_bit_step_or_two() -> None:
    """Linear interpolation errs by h^2/8 max|f''| = (1/16)^2/8 * .77 = 3.8e-4, or 12.3 steps."""
    table = interpolated_table(torch.tanh, 2.0**-12, 2.0**-15)
    x = torch.arange(-32768, 32768)
    exact = (torch.tanh(x.double() * 2.0**-12) * 2.0**15).clamp(max=32767)
    assert (interpolate(table, x) - exact).abs().max() <= 12.4 + 1.0
    knots = torch.arange(-32768, 32768, 256)
    assert (interpolate(table, knots) - exact[::256]).abs().max() <= 0.5 + 1e-9


@needs_compiler
def test_c_does_the_same_arithmetic(tmp_path: Path) -> None:
    """Sums over all pairs of edges and factors, weighted by their places, printed by C."""
    pairs = [quantize_multiplier(real) for real in factors(200)]
    table = interpolated_table(torch.tanh, 2.0**-12, 2.0**-15)
    numbers = ", ".join(str(v) for v in table.tolist())
    accs = ", ".join("INT32_MIN" if a == -(2**31) else str(a) for a in EDGES)
    (tmp_path / "sum.c").write_text(
        f"""#include <stdint.h>
#include <stdio.h>
{ARITHMETIC_C}
static const int32_t acc[] = {{{accs}}};
static const int32_t multiplier[] = {{{", ".join(str(m) for m, _ in pairs)}}};
static const int shift[] = {{{", ".join(str(s) for _, s in pairs)}}};
static const int16_t table[257] = {{{numbers}}};
int main(void)
{{
    for (int i = 0; i < {len(EDGES)}; i++)
        for (int j = 0; j < {len(pairs)}; j++)
            printf("%ld\\n", (long)dw_requantize(acc[i], multiplier[j], shift[j]));
    for (int x = -32768; x < 32768; x += 7)
        printf("%d\\n", dw_interpolate(table, (int16_t)x));
    printf("%d %d %d\\n", dw_saturate8(200), dw_saturate16(-70000), dw_saturate32(1LL << 40));
    return 0;
}}
"""
    )
    said = compile_and_run(tmp_path, "sum.c").split()
    wanted = [requantize(a, m, s) for a in EDGES for m, s in pairs]
    wanted += interpolate(table, torch.arange(-32768, 32768, 7)).tolist()
    assert [int(word) for word in said] == [*wanted, 127, -32768, 2**31 - 1]
