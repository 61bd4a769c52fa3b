"""COMQ: coordinate descent in which every step is an exact minimum."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.quantization.post_training.layers import best_on_grid, errors, layer
from torch import Tensor

from driftwell.core import native
from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import (
    Binary,
    Codebook,
    Format,
    NormalFloat,
    PowerOfTwo,
    Quantized,
    Ternary,
    Uniform,
)
from driftwell.quantization.post_training import COMQ, GPTQ, RoundToNearest, column_kernel

FORMATS: tuple[Format, ...] = (
    Uniform(1),
    Uniform(2),
    Uniform(3, symmetric=True),
    Uniform(3, per="tensor"),
    Uniform(2, per="group", group_size=4),
    PowerOfTwo(3),
    NormalFloat(2, per="group", group_size=6),
    Codebook((-1.0, -0.2, 0.1, 1.0)),
    Binary(per="channel"),
    Ternary(),
)
each_format = pytest.mark.parametrize("format", FORMATS, ids=str)
each_fit = pytest.mark.parametrize("fit", ["nothing", "scale", "whole zero", "zero"])


def any_start(w: Tensor, format: Format, seed: int) -> Quantized:
    """Random codes on the format's grid."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(len(format.levels), w.shape, generator=draw, dtype=torch.uint8)
    return Quantized(codes, format.fit(w), tuple(w.shape), w.dtype)


@each_fit
@each_format
def test_the_error_never_rises_from_sweep_to_sweep(format: Format, fit: str) -> None:
    w, gram = layer(9, 12, 0)
    start = any_start(w, format, 0)
    per_row = start.grid.scale.shape[0] > 1
    last = errors(w, start, gram)
    for sweeps in (1, 2, 3, 6, 20):
        method = COMQ(sweeps=sweeps, fit=fit)  # type: ignore[arg-type]
        now = errors(w, method.refine(w, gram, start), gram)
        if per_row:
            assert bool((now <= last * (1 + 1e-9)).all())
        assert float(now.sum()) <= float(last.sum()) * (1 + 1e-9)
        last = now
    assert float(last.sum()) < 0.5 * float(errors(w, start, gram).sum())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 6),
    columns=st.sampled_from([1, 4, 12, 24]),
    samples=st.integers(1, 40),
    format=st.sampled_from([f for f in FORMATS if f.blocks[0] == "channel"]),
    fit=st.sampled_from(["nothing", "scale", "whole zero", "zero"]),
    order=st.sampled_from(["greedy", "cyclic"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_refining_never_makes_a_row_worse(
    seed: int, rows: int, columns: int, samples: int, format: Format, fit: str, order: str,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    w, gram = layer(rows, columns, seed, dtype, samples)
    for start in (GPTQ().quantize(w, gram, format), any_start(w, format, seed)):
        method = COMQ(fit=fit, order=order, pairs=seed % 2)  # type: ignore[arg-type]
        before, after = errors(w, start, gram), errors(w, method.refine(w, gram, start), gram)
        # what is left to rounding: E is a difference of terms as large as the output itself
        slack = 1e-10 if dtype == torch.float64 else 1e-5
        output = ((w.double() @ gram.double()) * w.double()).sum(dim=1)
        assert bool((after <= before + slack * (before + 1e-3 * output)).all())


@each_format
def test_where_it_ends_no_single_code_can_be_changed_for_the_better(format: Format) -> None:
    w, gram = layer(5, 12, 2)
    end = COMQ(sweeps=100, fit="nothing").quantize(w, gram, format)
    best = errors(w, end, gram)
    for column in range(12):
        for code in range(len(format.levels)):
            codes = end.codes.clone()
            codes[:, column] = code
            assert bool((errors(w, replace(end, codes=codes), gram) >= best * (1 - 2e-3)).all())


def test_where_pairs_end_no_two_codes_can_be_moved_for_the_better() -> None:
    w, gram = layer(4, 6, 12)
    end = COMQ(sweeps=3, pairs=40, fit="nothing").quantize(w, gram, Uniform(2))
    # pairs that gain less than a thousandth of one step's own cost are left alone
    slack = 2e-3 * float(end.grid.scale.max()) ** 2 * float(gram.diagonal().max())
    best = errors(w, end, gram)
    for i, j in itertools.combinations(range(6), 2):
        for a, b in itertools.product((-1, 0, 1), repeat=2):
            codes = end.codes.int()
            codes[:, i] += a
            codes[:, j] += b
            legal = (codes >= 0).all(dim=1) & (codes <= 3).all(dim=1)
            moved = replace(end, codes=codes.clamp(0, 3).to(torch.uint8))
            found = errors(w, moved, gram)
            assert bool((found >= best - slack)[legal].all())


@pytest.mark.parametrize("fit", ["scale", "zero"])
@pytest.mark.parametrize("format", [Uniform(2), Uniform(2, per="tensor"), PowerOfTwo(3)], ids=str)
def test_where_it_ends_the_scale_cannot_be_changed_for_the_better(format: Format, fit: str) -> None:
    w, gram = layer(5, 12, 3)
    end = COMQ(sweeps=100, fit=fit).quantize(w, gram, format)  # type: ignore[arg-type]
    best = float(errors(w, end, gram).sum())
    for change in (0.99, 1.01):
        grid = end.grid.replaced(scale=end.grid.scale * change)
        assert float(errors(w, replace(end, grid=grid), gram).sum()) > best
    if fit == "zero" and format == Uniform(2):
        for change in (-0.01, 0.01):
            grid = end.grid.replaced(zero=end.grid.zero + change)
            assert bool((errors(w, replace(end, grid=grid), gram) > 0).all())
            assert float(errors(w, replace(end, grid=grid), gram).sum()) > best


@pytest.mark.parametrize("bits", [1, 2])
def test_no_row_beats_the_best_of_all_codes_and_many_reach_it(bits: int) -> None:
    w, gram = layer(12, 6, 4)
    format = Uniform(bits)
    best = best_on_grid(w, gram, format.fit(w))
    found = errors(w, COMQ(sweeps=20, fit="nothing").quantize(w, gram, format), gram)
    assert bool((found >= best * (1 - 1e-9)).all())
    assert float(found.sum()) < 3 * float(best.sum())
    exact = RoundToNearest().quantize(w, torch.eye(6, dtype=w.dtype), format)
    alone = COMQ(fit="nothing").quantize(w, torch.eye(6, dtype=w.dtype), format)
    assert torch.equal(exact.codes, alone.codes)


def test_one_input_is_solved_exactly() -> None:
    """The step itself: with one column, the nearest level, and then its scale without error."""
    w, gram = torch.tensor([[0.7], [-2.0]]), torch.tensor([[2.0]])
    assert float(errors(w, COMQ(sweeps=2).quantize(w, gram, Uniform(2)), gram).max()) < 1e-12


def test_zeros_stay_whole_where_they_must_and_a_free_one_is_better() -> None:
    w, gram = layer(30, 16, 5)
    totals = {}
    for fit in ("scale", "whole zero", "zero"):
        found = COMQ(fit=fit).quantize(w, gram, Uniform(2))  # type: ignore[arg-type]
        totals[fit] = float(errors(w, found, gram).sum())
        if fit != "zero":
            assert torch.equal(found.grid.zero, found.grid.zero.round())
    assert totals["zero"] < totals["scale"]


@each_fit
def test_a_symmetric_grid_stays_symmetric(fit: str) -> None:
    w, gram = layer(5, 12, 6)
    found = COMQ(fit=fit).quantize(w, gram, Uniform(3, symmetric=True))  # type: ignore[arg-type]
    assert found.grid.is_symmetric


def test_scales_that_are_powers_of_two_stay_so() -> None:
    w, gram = layer(6, 8, 7)
    scale = COMQ().quantize(w, gram, Ternary(power_of_two=True)).grid.scale
    assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))


def test_one_scale_for_all_rows_stays_one() -> None:
    w, gram = layer(6, 8, 8)
    assert COMQ().quantize(w, gram, Uniform(3, per="tensor")).grid.scale.shape == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ["greedy", "cyclic"])
@each_fit
@each_format
def test_the_compiled_loop_does_what_the_plain_one_does(
    format: Format, fit: str, order: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, gram = layer(7, 24, 9, dtype)
    if native.load(column_kernel.KERNEL) is None:
        pytest.skip("no compiler here")
    pairs = 1 if order == "cyclic" else 0
    method = COMQ(fit=fit, order=order, pairs=pairs)  # type: ignore[arg-type]
    compiled = method.quantize(w, gram, format)
    monkeypatch.setenv("DRIFTWELL_NATIVE", "0")
    plain = method.quantize(w, gram, format)
    if dtype == torch.float64:
        assert torch.equal(compiled.codes, plain.codes)
        torch.testing.assert_close(compiled.decode(), plain.decode(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        errors(w, compiled, gram).sum(), errors(w, plain, gram).sum(), rtol=0.05, atol=0
    )


def test_inputs_that_are_always_zero_are_rounded_to_nearest() -> None:
    w, gram = layer(5, 8, 10)
    gram[3], gram[:, 3] = 0, 0
    found = COMQ(fit="nothing").quantize(w, gram, Uniform(3))
    assert torch.equal(found.codes[:, 3], Uniform(3).fit(w).nearest(w)[:, 3])


def test_what_cannot_be_is_said() -> None:
    w, gram = layer(3, 4, 11)
    for wrong in ({"sweeps": 0}, {"order": "random"}, {"fit": "all"}, {"shrink": 0.0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            COMQ(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="start is for a weight"):
        COMQ().refine(w[:2], gram, Uniform(2).encode(w))
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        COMQ().refine(w * float("nan"), gram, Uniform(2).encode(w))
