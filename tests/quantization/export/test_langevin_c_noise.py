"""Normal numbers in integers are the house's own: same words, same transform, to 4e-4."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest
import torch
from tests.quantization.export.langevin_c import compiled
from torch import Tensor

from driftwell.core.noise import Purpose, normal, words
from driftwell.core.philox import MASK, to_normals
from driftwell.quantization.export.c.arithmetic import ARITHMETIC_C
from driftwell.quantization.export.c.gaussian import (
    GAUSSIAN_C,
    HIGH,
    LOW,
    SINE,
    integer_normals,
    integer_turn,
)
from driftwell.quantization.export.c.program import Constant
from driftwell.quantization.export.c.source import array_text

KEYS = [(0, 0, 0, 0), (7, 3, 12, 256), (2**63 + 5, 2**32 - 1, 99, 65536)]
COUNT = 37  # not a multiple of four: the last block is cut


def keyed_words(count: int) -> Tensor:
    return words((count // 256, 256), seed=11, purpose=Purpose.USER, chains=count // 256, step=0)


def integer_keyed(count: int) -> Tensor:
    w = keyed_words(count)
    return integer_normals((w[:, 0::4], w[:, 1::4], w[:, 2::4], w[:, 3::4])).flatten()


def test_each_number_is_the_float_generators_own() -> None:
    exact = normal(
        (4000, 256), seed=11, purpose=Purpose.USER, chains=4000, step=0, dtype=torch.float64
    )
    difference = integer_keyed(4000 * 256).double() / 2**16 - exact.flatten()
    assert float(difference.abs().max()) < 4e-4
    assert float(difference.square().mean().sqrt()) < 1e-4


def test_moments_and_distribution_are_normal() -> None:
    n = integer_keyed(2_000_000).double() / 2**16
    count = len(n)
    assert abs(float(n.mean())) < 4 / math.sqrt(count)
    assert abs(float(n.square().mean()) - 1) < 4 * math.sqrt(2 / count)
    assert abs(float(n.pow(4).mean()) - 3) < 4 * math.sqrt(96 / count)
    place = torch.arange(1, count + 1, dtype=torch.float64) / count
    gap = (torch.special.ndtr(n.sort().values) - place).abs().max()
    assert float(gap) < 1.95 / math.sqrt(count)  # exceeded once in a thousand when right
    beyond = (n.abs() > 4).double().mean()
    assert abs(float(beyond) - 6.334e-5) < 4 * math.sqrt(6.334e-5 / count)


def test_extreme_words_stay_finite_and_in_order() -> None:
    w = torch.tensor([0, 1, 2, 3, 2**31 - 1, 2**31, 2**31 + 1, MASK - 1, MASK])
    v = torch.zeros_like(w)
    found = integer_normals((w, v, w, v))[:, 0]
    exact = to_normals((w, v, w, v), torch.float64)[:, 0]
    assert bool((found.diff() <= 0).all())
    assert torch.allclose(found.double() / 2**16, exact, atol=4e-4)
    assert int(found[0]) == round(math.sqrt(66 * math.log(2)) * 2**13) * 8  # 6.76


def test_turns_lie_on_the_circle() -> None:
    cosine, sine = integer_turn(keyed_words(256 * 64).flatten())
    radius = (cosine.double() ** 2 + sine.double() ** 2).sqrt() / 2**15
    assert float((radius - 1).abs().max()) < 1e-4


@pytest.fixture(scope="module")
def c_numbers(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """Words and normals of `KEYS` as C prints them."""
    folder = tmp_path_factory.mktemp("noise")
    tables = (("dw_radius_low", LOW), ("dw_radius_high", HIGH), ("dw_sine", SINE))
    lines = "\n".join(
        f"    print({seed}u, {chain}u, {step}u, {tag}u);" for seed, chain, step, tag in KEYS
    )
    (folder / "noise.c").write_text(
        "#include <stdint.h>\n#include <stdio.h>\n"
        + ARITHMETIC_C
        + "".join(array_text(Constant(name, table, "uint16_t")) for name, table in tables)
        + GAUSSIAN_C
        + f"""
static void print(uint64_t seed, uint32_t chain, uint32_t step, uint32_t tag)
{{
    uint32_t c[4];
    int32_t out[{COUNT}], i;
    c[0] = 1; c[1] = chain; c[2] = step; c[3] = tag;
    dw_philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
    for (i = 0; i < 4; i++) printf("%lu ", (unsigned long)c[i]);
    dw_normals(seed, chain, step, tag, {COUNT}, out);
    for (i = 0; i < {COUNT}; i++) printf("%ld ", (long)out[i]);
    printf("\\n");
}}
int main(void)
{{
{lines}
    return 0;
}}
"""
    )
    said = subprocess.run(
        [compiled(folder, Path("noise.c"))], capture_output=True, text=True, check=True
    )
    return [[int(number) for number in line.split()] for line in said.stdout.splitlines()]


@pytest.mark.parametrize("i", range(len(KEYS)))
def test_c_has_the_same_words_and_normals(i: int, c_numbers: list[list[int]]) -> None:
    seed, chain, step, tag = KEYS[i]
    purpose, leaf = tag >> 8 & 0xFF, tag >> 16
    w = words((1, 40), seed=seed, purpose=purpose, chains=torch.tensor([chain]), step=step,
              leaf=leaf)  # fmt: skip
    assert c_numbers[i][:4] == w[0, 4:8].tolist()
    four = (w[:, 0::4], w[:, 1::4], w[:, 2::4], w[:, 3::4])
    assert c_numbers[i][4:] == integer_normals(four).flatten()[:COUNT].tolist()
