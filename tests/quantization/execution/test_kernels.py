"""Every kernel against the exact product in float64, with bounds from theory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from driftwell.quantization.execution.kernel import Kernel
from driftwell.quantization.execution.rounding import round_rows, rounded
from driftwell.quantization.execution.self_test import examine, share_of_error
from driftwell.quantization.formats import (
    Binary,
    Codebook,
    Format,
    Grid,
    NormalFloat,
    Packed,
    PowerOfSqrtTwo,
    PowerOfTwo,
    Ternary,
    Uniform,
    pack_codes,
)

# noise of float32 sums of some thousand random numbers; worst cases are the self-test's business
FLOAT32 = 2e-6
FORMATS: tuple[Format, ...] = (
    *(Uniform(bits) for bits in range(1, 9)),
    *(Uniform(bits, symmetric=True, per="tensor") for bits in (1, 4, 8)),
    Ternary(), Ternary(power_of_two=True), Binary(), PowerOfTwo(4), PowerOfTwo(5),
    PowerOfSqrtTwo(4), Codebook((-3.0, -0.7, 0.1, 0.2, 5.0)),
)  # fmt: skip
GROUPED: tuple[Format, ...] = (
    *(Uniform(bits, per="group", group_size=size) for bits in (2, 3, 4, 8) for size in (32, 96)),
    Uniform(4, per="group", group_size=24), Uniform(4, per="group", group_size=4),
    NormalFloat(4, group_size=96), NormalFloat(4, group_size=48),
)  # fmt: skip
SHAPES = ((1, 1), (3, 7), (17, 33), (70, 96), (5, 4097))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed_of(format: Format, rows: int, columns: int) -> Packed:
    return format.encode(random(rows, columns, seed=rows + columns)).pack()


def error_of(kernel: Kernel, packed: Packed, x: Tensor, layout: Any = None) -> float:
    """As a share of max|W| sum|x|; for int8 activations against the rounded x."""
    y = kernel.run(x, kernel.prepare(packed) if layout is None else layout)
    assert y.shape == (x.shape[0], packed.shape[0])
    assert y.dtype == x.dtype
    given = rounded(x.float()) if kernel.activations == "int8" else x
    return share_of_error(y, given, packed.unpack().matrix)


@pytest.mark.parametrize("format", [*FORMATS, *GROUPED], ids=str)
def test_products_are_those_of_the_decoded_weight(kernel: Kernel, format: Format) -> None:
    shapes = [(70, 96), (16, 192)] if format in GROUPED else SHAPES
    for rows, columns in shapes:
        packed = packed_of(format, rows, columns)
        if kernel.refuses(packed):
            continue
        layout = kernel.prepare(packed)
        for batch in (1, 2, 3, 7, 8, 25):
            error = error_of(kernel, packed, random(batch, columns, seed=batch), layout)
            assert error <= (FLOAT32 if kernel.error < 1e-3 else kernel.error), (rows, columns)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_of_x_is_kept_and_rounded_to_once(kernel: Kernel, dtype: torch.dtype) -> None:
    packed = packed_of(Uniform(4, symmetric=True), 32, 64)
    rounding = max(torch.finfo(dtype).eps, kernel.error)
    assert error_of(kernel, packed, random(5, 64).to(dtype)) <= rounding


def test_a_row_that_is_not_finite_spoils_no_other(kernel: Kernel) -> None:
    packed = packed_of(Uniform(4, symmetric=True), 32, 64)
    layout = kernel.prepare(packed)
    for batch in (4, 24):
        x = random(batch, 64)
        clean = kernel.run(x, layout)
        x[1, 5], x[3, 7] = torch.nan, torch.inf
        y = kernel.run(x, layout)
        finite = y.isfinite().all(dim=1)
        assert finite.tolist() == [row not in (1, 3) for row in range(batch)]
        assert y[1].isnan().all()
        assert torch.equal(y[finite], clean[finite])


def test_rows_of_zeros_give_zeros(kernel: Kernel) -> None:
    packed = packed_of(Uniform(4, symmetric=True), 32, 64)
    x = torch.stack([torch.zeros(64), torch.full((64,), 1e-44), random(64)])
    y = kernel.run(x, kernel.prepare(packed))
    assert y[0].abs().max() == 0
    assert y[1].abs().max() < 1e-30
    assert y[2].abs().max() > 0


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("batch", [1, 6, 31])
def test_integer_sums_are_exact_to_the_last_bit(int_kernel: Kernel, bits: int, batch: int) -> None:
    """Scales and steps of 1: the outcome is the integer sum, rounded once to float32."""
    rows, columns = 33, 4096
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 1 << bits, (rows, columns), generator=generator)
    q = torch.randint(-127, 128, (batch, columns), generator=generator)
    codes[0], codes[1], q[0] = (1 << bits) - 1, 0, -127  # the largest sum there is
    q[:, 0] = 127  # so that steps are 1
    zero = torch.randint(0, 1 << bits, (rows, 1), generator=generator)
    grid = Grid(torch.arange(float(1 << bits)), torch.ones(rows, 1), zero.float(), columns, bits)
    data = pack_codes(codes.to(torch.uint8), bits)
    packed = Packed(data, grid, columns, (rows, columns), torch.float32)
    expected = (q @ (codes - zero).T).float()
    assert torch.equal(int_kernel.run(q.float(), int_kernel.prepare(packed)), expected)


def test_compiled_rounding_is_that_of_round_rows() -> None:
    from driftwell.quantization.execution.compiled import CompiledIntegers

    kernel = CompiledIntegers()
    if kernel.missing():
        pytest.skip(kernel.missing())
    x = random(40, 57) * torch.logspace(-30, 30, 40)[:, None]
    identity = Grid(torch.arange(2.0), torch.ones(1, 1), torch.zeros(1, 1), 57, 1)
    data = pack_codes(torch.eye(57, dtype=torch.uint8), 1)
    packed = Packed(data, identity, 57, (57, 57), torch.float32)
    q, step = round_rows(x)
    assert torch.equal(kernel.run(x, kernel.prepare(packed)), q * step)


def test_every_kernel_passes_its_self_test(kernel: Kernel) -> None:
    assert examine(kernel).available


def test_bits_in_memory_are_those_of_the_format() -> None:
    from driftwell.quantization.execution.panels import for_floats, for_integers

    for bits in range(1, 9):
        packed = packed_of(Uniform(bits), 64, 256)
        for panels in (for_floats(packed), for_integers(packed)):
            assert panels.codes.numel() == 64 * 256 * bits // 8
