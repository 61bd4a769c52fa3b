"""Formats: what each grid is, that rounding is to the nearest level, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import optimize

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import (
    Binary,
    Codebook,
    Format,
    Grid,
    NormalFloat,
    PowerOfSqrtTwo,
    PowerOfTwo,
    Ternary,
    Uniform,
)

FORMATS: list[Format] = [
    *(Uniform(bits) for bits in range(1, 9)),
    *(Uniform(bits, symmetric=True, per="tensor") for bits in range(1, 9)),
    Uniform(3, per="group", group_size=8),
    Uniform(4, symmetric=True, per="group", group_size=4),
    Binary(),
    Binary(per="tensor"),
    Ternary(),
    Ternary(per="group", group_size=8),
    Ternary(per="tensor", power_of_two=True),
    PowerOfTwo(3),
    PowerOfSqrtTwo(4),
    PowerOfSqrtTwo(4, per="group", group_size=8),
    NormalFloat(4, group_size=8),
    NormalFloat(3, per="channel", group_size=None),
    Codebook((-1.0, -0.2, 0.4, 1.5, 2.0)),
]
each_format = pytest.mark.parametrize("format", FORMATS, ids=str)


def gaussian(rows: int, columns: int, seed: int = 0, **kind: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), **kind)


@each_format
def test_every_weight_goes_to_the_nearest_level(format: Format) -> None:
    w = gaussian(6, 24, dtype=torch.float64)
    quantized = format.encode(w)
    grid = quantized.grid
    every = torch.stack(
        [grid.values(torch.full((6, 24), k, dtype=torch.uint8)) for k in range(len(grid.levels))]
    )
    nearest = (every - w).abs().amin(dim=0)
    torch.testing.assert_close((quantized.decode() - w).abs(), nearest, rtol=1e-9, atol=1e-12)


@each_format
def test_rounding_twice_is_rounding_once(format: Format) -> None:
    w = gaussian(6, 24)
    quantized = format.encode(w)
    again = format.encode(quantized.decode(), quantized.grid)
    assert torch.equal(again.codes, quantized.codes)


@each_format
def test_packed_is_the_same_in_its_bits(format: Format) -> None:
    w = gaussian(6, 24, 1)
    quantized = format.encode(w)
    packed = quantized.pack()
    assert torch.equal(packed.decode(), quantized.decode())
    assert packed.data.numel() == 6 * math.ceil(24 * format.bits / 8)


@each_format
def test_zeros_stay_zeros_unless_there_is_no_such_level(format: Format) -> None:
    got = format.fake(torch.zeros(2, 24))
    assert torch.isfinite(got).all()
    has_zero = bool((format.levels == 0).any()) or isinstance(format, Uniform)
    if has_zero and not (isinstance(format, Uniform) and format.symmetric and format.bits == 1):
        assert (got == 0).all()


@each_format
def test_the_column_view_of_a_grid_is_the_matrix_view(format: Format) -> None:
    w = gaussian(6, 24, 2)
    quantized = format.encode(w)
    grid = quantized.grid
    for column in (0, 7, 23):
        codes = grid.nearest_in_column(w[:, column], column)
        assert torch.equal(codes, quantized.codes[:, column])
        assert torch.equal(
            grid.values_in_column(codes, column).expand(6), quantized.matrix[:, column]
        )


@each_format
def test_columns_in_another_order_keep_their_levels(format: Format) -> None:
    w = gaussian(6, 24, 3)
    quantized = format.encode(w)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    moved = quantized.grid.columns(order)
    assert torch.equal(moved.values(quantized.codes[:, order]), quantized.matrix[:, order])


def test_affine_covers_the_range_and_keeps_zero_exact() -> None:
    w = gaussian(5, 64, dtype=torch.float64)
    for bits in range(1, 9):
        grid = Uniform(bits).fit(w)
        low, high = grid.bounds()
        step = grid.scale
        assert (low <= w.amin(1, keepdim=True) + step / 2).all()
        assert (high >= w.amax(1, keepdim=True) - step / 2).all()
        assert torch.equal(grid.zero, grid.zero.round())
        error = (Uniform(bits).fake(w) - w).abs()
        assert (error <= step * (0.5 + 0.5) + 1e-12).all()


def test_symmetric_codes_are_signed_integers() -> None:
    w = gaussian(4, 32)
    quantized = Uniform(8, symmetric=True).encode(w)
    signed = quantized.codes.int() - 128
    torch.testing.assert_close(quantized.decode(), signed * quantized.grid.scale)
    assert int(signed.abs().max()) == 127
    assert quantized.grid.is_symmetric


def brute_force_ternary(w: torch.Tensor, scales: torch.Tensor | None) -> float:
    best = math.inf
    for signs in itertools.product((-1.0, 0.0, 1.0), repeat=len(w)):
        t = torch.tensor(signs, dtype=torch.float64)
        if scales is not None:
            costs = ((w - scales[:, None] * t) ** 2).sum(dim=1)
            best = min(best, float(costs.min()))
        elif t.any():
            a = (w @ t) / (t @ t)
            best = min(best, float(((w - a * t) ** 2).sum()))
    return best


@pytest.mark.parametrize("power_of_two", [False, True])
def test_ternary_is_the_best_of_all(power_of_two: bool) -> None:
    scales = torch.exp2(torch.arange(-12.0, 6.0, dtype=torch.float64)) if power_of_two else None
    for seed in range(25):
        w = gaussian(1, 6, seed, dtype=torch.float64) * 10 ** (seed % 3 - 1)
        format = Ternary(per="tensor", power_of_two=power_of_two)
        got = float((format.fake(w) - w).square().sum())
        assert got == pytest.approx(brute_force_ternary(w[0], scales), rel=1e-9)
        if power_of_two:
            assert float(torch.log2(format.fit(w).scale)) % 1 == 0


def test_binary_scale_is_the_least_squares_one() -> None:
    w = gaussian(1, 40, dtype=torch.float64)
    found = optimize.minimize_scalar(
        lambda a: float((w - a * torch.where(w >= 0, 1.0, -1.0)).square().sum())
    )
    assert float(Binary().fit(w).scale) == pytest.approx(found.x, rel=1e-6)


def test_lookup_scales_are_near_the_best_of_a_fine_search() -> None:
    for format in (PowerOfTwo(3), PowerOfSqrtTwo(3), PowerOfSqrtTwo(4), Codebook((-1.0, 0.3, 2.0))):
        w = gaussian(8, 200, 5, dtype=torch.float64)
        got = (format.fake(w) - w).square().sum(dim=1)
        top = w.abs().amax(dim=1, keepdim=True)
        best = torch.full((8,), math.inf, dtype=torch.float64)
        for factor in torch.linspace(0.05, 2.5, 400).tolist():
            grid = format.fit(w).replaced(scale=top * factor)
            best = torch.minimum(best, (format.fake(w, grid) - w).square().sum(dim=1))
        assert (got <= 1.02 * best).all()


def test_normal_float_has_the_published_levels() -> None:
    published = [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]  # fmt: skip
    torch.testing.assert_close(
        NormalFloat(4).levels, torch.tensor(published, dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_roots_of_two_fit_a_gaussian_better_than_powers_of_two_from_four_bits_on() -> None:
    # with three bits {0, .5, .71, 1} leaves the small weights alone: there powers of two win
    w = gaussian(1, 20_000, dtype=torch.float64)
    error = {
        (format, bits): float((format(bits).fake(w) - w).square().mean())
        for format in (PowerOfTwo, PowerOfSqrtTwo)
        for bits in (3, 4, 5)
    }
    assert error[PowerOfSqrtTwo, 4] < 0.5 * error[PowerOfTwo, 4]
    assert error[PowerOfSqrtTwo, 5] < 0.5 * error[PowerOfTwo, 5]
    assert error[PowerOfSqrtTwo, 3] > error[PowerOfTwo, 3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_weight_keeps_its_dtype_and_shape(dtype: torch.dtype) -> None:
    w = gaussian(4, 18).reshape(4, 2, 3, 3).to(dtype)
    decoded = Uniform(8).fake(w)
    assert decoded.dtype == dtype
    assert decoded.shape == w.shape
    assert float((decoded - w).abs().max()) < 0.03


def test_packed_size_is_bits_times_weights_plus_scales() -> None:
    w = gaussian(512, 1024)
    for bits in range(1, 9):
        packed = Uniform(bits, symmetric=True).encode(w).pack()
        ideal = 512 * 1024 * bits / 8 + 512 * 4
        assert packed.nbytes <= 1.03 * ideal


MISTAKES = [
    (lambda: Uniform(0), "1 to 8 bits"),
    (lambda: Uniform(9), "1 to 8 bits"),
    (lambda: Uniform(2.5), "1 to 8 bits"),  # type: ignore[arg-type]
    (lambda: PowerOfTwo(1), "at least 2 bits"),
    (lambda: Uniform(4, per="row"), "'tensor', 'channel' or 'group'"),  # type: ignore[arg-type]
    (lambda: Uniform(4, per="group"), "group_size"),
    (lambda: Uniform(4, group_size=8), "group_size"),
    (lambda: Uniform(4, per="group", group_size=7).fit(torch.ones(2, 24)), "do not divide the 24"),
    (lambda: Uniform(4).fit(torch.ones(2, 2).int()), "floating"),
    (lambda: Uniform(4).fit(torch.ones(0, 2)), "nothing to quantize"),
    (lambda: Uniform(4).fit(torch.tensor([[1.0, float("nan")]])), "1 of 2 weights are NaN"),
    (lambda: Codebook((1.0, 0.0)), "ascending"),
    (lambda: Codebook((1.0,)), "2 to 256"),
    (lambda: Grid(torch.arange(3.0), torch.ones(1, 1), torch.ones(1, 1), 4, 1), "2 to 2 levels"),
]


@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES, ids=[m[1] for m in MISTAKES])
def test_mistakes_are_told(mistake: object, sentence: str) -> None:
    assert callable(mistake)
    with pytest.raises(InvalidInput, match=sentence):
        mistake()
