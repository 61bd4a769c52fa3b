"""GPTQ: the published recursion, without an inverse."""

from __future__ import annotations

import pytest
import torch
from tests.quantization.post_training.layers import best_on_grid, errors, layer
from torch import Tensor

from driftwell.core import native
from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Codebook, Format, Grid, NormalFloat, PowerOfTwo, Uniform
from driftwell.quantization.post_training import GPTQ, RoundToNearest, column_kernel
from driftwell.quantization.post_training.gptq import round_in_turn

FORMATS: tuple[Format, ...] = (
    Uniform(2),
    Uniform(3, symmetric=True),
    Uniform(4, per="tensor"),
    Uniform(2, per="group", group_size=5),
    PowerOfTwo(3),
    NormalFloat(2, per="group", group_size=10),
    Codebook((-1.0, -0.2, 0.1, 1.0)),
)
each_format = pytest.mark.parametrize("format", FORMATS, ids=str)


def textbook(w: Tensor, gram: Tensor, grid: Grid, order: Tensor, damp: float) -> Tensor:
    """Optimal brain quantization in a fixed order, with the inverse of what is left each time."""
    left, w = order.tolist(), w.clone()
    H = gram + damp * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    codes = torch.empty_like(w, dtype=torch.uint8)
    while left:
        inverse = torch.linalg.inv(H[left][:, left])
        column = left[0]
        codes[:, column] = grid.nearest_in_column(w[:, column], column)
        q = grid.values_in_column(codes[:, column], column)
        w[:, left] -= ((w[:, column] - q) / inverse[0, 0])[:, None] * inverse[0]
        left = left[1:]
    return codes


@each_format
@pytest.mark.parametrize("act_order", [False, True])
def test_it_is_the_textbooks_recursion_with_explicit_inverses(
    format: Format, act_order: bool
) -> None:
    w, gram = layer(7, 20, 0)
    method = GPTQ(act_order=act_order, damp=0.02)
    order = gram.diagonal().argsort(descending=True) if act_order else torch.arange(20)
    expected = textbook(w, gram, format.fit(w), order, 0.02)
    assert torch.equal(method.quantize(w, gram, format).codes, expected)


@each_format
def test_with_independent_inputs_it_is_rounding_to_nearest(format: Format) -> None:
    w, _ = layer(7, 20, 1)
    scales = torch.diag(torch.linspace(0.1, 3.0, 20, dtype=w.dtype))
    assert torch.equal(
        GPTQ().quantize(w, scales, format).codes, RoundToNearest().quantize(w, scales, format).codes
    )


@each_format
def test_its_loss_is_the_error_of_the_damped_objective(format: Format) -> None:
    w, gram = layer(7, 20, 2)
    damp, grid = 0.05, format.fit(w)
    codes, loss = round_in_turn(w, GPTQ(damp=damp).feedback(gram), grid)
    damped = gram + damp * gram.diagonal().mean() * torch.eye(20, dtype=w.dtype)
    v = w - grid.values(codes)
    torch.testing.assert_close(loss, ((v @ damped) * v).sum(dim=1))


@pytest.mark.parametrize("bits", [1, 2])
def test_no_row_beats_the_best_of_all_codes(bits: int) -> None:
    w, gram = layer(6, 6, 3)
    format = Uniform(bits)
    best = best_on_grid(w, gram, format.fit(w))
    found = errors(w, GPTQ(damp=0.0).quantize(w, gram, format), gram)
    rounded = errors(w, RoundToNearest().quantize(w, gram, format), gram)
    assert bool((found >= best * (1 - 1e-9)).all())
    assert float(found.sum()) < float(rounded.sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_format
def test_the_compiled_loop_does_what_the_plain_one_does(
    format: Format, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, gram = layer(70, 150 if format.blocks[0] != "group" else 160, 4, dtype)
    if native.load(column_kernel.KERNEL) is None:
        pytest.skip("no compiler here")
    compiled = GPTQ().quantize(w, gram, format)
    monkeypatch.setenv("DRIFTWELL_NATIVE", "0")
    plain = GPTQ().quantize(w, gram, format)
    if dtype == torch.float64:
        assert torch.equal(compiled.codes, plain.codes)
    # a code that rounding errors turn over changes all later ones of its row, but not their quality
    torch.testing.assert_close(
        errors(w, compiled, gram).sum(), errors(w, plain, gram).sum(), rtol=0.02, atol=0
    )


def test_inputs_that_are_always_zero_are_rounded_to_nearest() -> None:
    w, gram = layer(5, 8, 5)
    gram[3], gram[:, 3] = 0, 0
    for damp in (0.0, 0.01):
        found = GPTQ(damp=damp).quantize(w, gram, Uniform(3))
        assert torch.equal(found.codes[:, 3], Uniform(3).fit(w).nearest(w)[:, 3])
    nothing = GPTQ().quantize(w, torch.zeros_like(gram), Uniform(3))
    assert torch.equal(nothing.decode(), Uniform(3).fake(w))


def test_few_samples_and_no_damping_still_factorise() -> None:
    w, gram = layer(5, 16, 6, samples=4)
    found = errors(w, GPTQ(damp=0.0).quantize(w, gram, Uniform(3)), gram)
    assert bool((found < errors(w, RoundToNearest().quantize(w, gram, Uniform(3)), gram)).all())


def test_shape_and_dtype_of_the_weight_are_kept() -> None:
    w, gram = layer(4, 18, 7, torch.float32)
    kernels = w.reshape(4, 2, 3, 3).to(torch.bfloat16)
    found = GPTQ().quantize(kernels, gram, Uniform(4))
    assert found.decode().shape == kernels.shape
    assert found.decode().dtype == torch.bfloat16


def test_what_cannot_be_is_said() -> None:
    w, gram = layer(3, 4, 8)
    with pytest.raises(InvalidInput, match="damp"):
        GPTQ(damp=-1.0)
    with pytest.raises(InvalidInput, match="shrink"):
        GPTQ(shrink=0.0)
    with pytest.raises(InvalidInput, match="positive semidefinite"):
        GPTQ().quantize(w, gram - 1e6 * (torch.ones_like(gram) - torch.eye(4)), Uniform(2))
    with pytest.raises(InvalidInput, match="symmetric"):
        GPTQ().quantize(w, gram.triu(), Uniform(2))
