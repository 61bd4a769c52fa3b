"""Low bit-width weights: exact against brute force, the threshold rule, products by shifts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import PowerOfTwo, Ternary, Uniform
from driftwell.quantization.training_aware import lbw
from driftwell.quantization.training_aware.lbw import LowBitWidth, shift_product


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def least_error(w: Tensor, format: LowBitWidth) -> float:
    """Over every assignment of every weight and every scale near the largest weight."""
    every = torch.cartesian_prod(*[format.levels] * len(w))
    top = math.floor(math.log2(float(w.abs().max())))
    scales = [2.0**s for s in range(top - 12, top + 4)]
    return min(float((every * s - w).square().sum(1).min()) for s in scales)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_assignment_and_no_scale_is_better(bits: int) -> None:
    format = LowBitWidth(bits, "tensor")
    for seed in range(25):
        w = drawn(seed, 1, 5) ** (1 + 2 * (seed % 2)) * 10.0 ** (seed % 7 - 3)
        found = float((format.fake(w) - w).square().sum())
        assert found == pytest.approx(least_error(w[0], format), rel=1e-9, abs=1e-30)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_the_prefix_sums_give_the_error_of_the_nearest_levels(bits: int) -> None:
    """|w|^2 - R(s) = |w - what|^2 at every scale, the best one and others."""
    format = LowBitWidth(bits, "tensor")
    w = drawn(7, 1, 400)
    ordered = w.abs().sort().values
    prefix = torch.cat([torch.zeros(1, 1), ordered.cumsum(1)], dim=1)
    for s in range(-6, 4):
        scale = torch.tensor([2.0**s], dtype=torch.float64)
        grid = format.fit(w).replaced(scale=scale[:, None])
        error = (format.fake(w, grid) - w).square().sum()
        saved = lbw._saved(ordered, prefix.double(), scale, format.powers)[0]
        torch.testing.assert_close(w.square().sum() - saved, error)


def test_two_bits_are_ternary() -> None:
    w = drawn(0, 6, 40)
    assert torch.equal(LowBitWidth(2).fake(w), Ternary(power_of_two=True).fake(w))


def test_an_outlier_can_be_worth_giving_up() -> None:
    """A thousand equal weights and one ten times as large: the best scale is far below it."""
    w = torch.cat([torch.full((1000,), 1.0), torch.tensor([10.0])])[None]
    grid = LowBitWidth(2, "tensor").fit(w)
    assert float(grid.scale) == 1.0


def test_scales_are_powers_of_two_and_blocks_are_independent() -> None:
    w = drawn(1, 4, 32) * torch.tensor([1.0, 7.0, 0.01, 300.0], dtype=torch.float64)[:, None]
    for format in (LowBitWidth(4), LowBitWidth(4, "group", 8), LowBitWidth(4, threshold=0.75)):
        exponent = format.fit(w).scale.log2()
        assert torch.equal(exponent, exponent.round())
        alone = torch.cat([format.fake(row[None]) for row in w])
        assert torch.equal(format.fake(w), alone)


def test_zeros_stay_zero() -> None:
    for format in (LowBitWidth(3), LowBitWidth(3, threshold=0.75)):
        assert torch.equal(format.fake(torch.zeros(2, 5)), torch.zeros(2, 5))


def test_the_threshold_rule_by_hand() -> None:
    """mu = 3: magnitudes [3, 4], [1.5, 3), [0.75, 1.5), [0.375, 0.75), below."""
    w = torch.tensor([[4.0, -2.9, 1.5, 1.4, -0.7, 0.3]])
    codes = LowBitWidth(4, "tensor", threshold=0.75).encode(w)
    t = codes.matrix / codes.grid.scale
    assert t.tolist() == [[1.0, -0.5, 0.5, 0.25, -0.125, 0.0]]
    assert float(codes.grid.scale) == 4.0  # <w, t> / |t|^2 = 4.61, below 1.5 * 4


def test_the_threshold_of_a_tensor_is_that_of_its_largest_weight() -> None:
    w = torch.tensor([[8.0, -8.0], [0.1, 0.2]])
    found = LowBitWidth(4, "tensor", threshold=0.75).fake(w)
    assert found.tolist() == [[8.0, -8.0], [0.0, 0.0]]


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_the_threshold_rule_is_never_better_than_the_exact_pair(per: str) -> None:
    for seed in range(10):
        w = drawn(seed, 3, 50)
        exact, rule = (
            (LowBitWidth(5, per, threshold=gamma).fake(w) - w).square().sum()
            for gamma in (None, 0.75)
        )
        assert exact <= rule


def test_it_packs() -> None:
    codes = LowBitWidth(5).encode(drawn(2, 7, 13, dtype=torch.float32))
    assert torch.equal(codes.pack().decode(), codes.decode())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_shifts_and_sums_are_the_product(bits: int, per: str) -> None:
    x = torch.randint(-128, 128, (5, 33), generator=torch.Generator().manual_seed(3))
    codes = LowBitWidth(bits, per).encode(drawn(4, 6, 33, dtype=torch.float32))
    expected = x.double() @ codes.decode().double().T
    assert torch.equal(shift_product(x, codes), expected)


def test_mistakes_are_named() -> None:
    x = torch.ones(1, 4, dtype=torch.int64)
    w = torch.ones(2, 4)
    with pytest.raises(InvalidInput, match="2 to 8"):
        LowBitWidth(1)
    with pytest.raises(InvalidInput, match=r"\(0, 1\]"):
        LowBitWidth(4, threshold=1.5)
    with pytest.raises(InvalidInput, match="integers"):
        shift_product(x.float(), LowBitWidth(4).encode(w))
    for other in (Uniform(4), PowerOfTwo(3)):
        with pytest.raises(InvalidInput, match="LowBitWidth"):
            shift_product(x, other.encode(w * 1.3))
    with pytest.raises(InvalidInput, match="int32"):
        shift_product(x, LowBitWidth(8).encode(w))
