"""Gram: the second moments of inputs that are never kept."""

from __future__ import annotations

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.quantization.post_training import Gram


def inputs(rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_it_is_x_transposed_x_whatever_the_batches() -> None:
    x = inputs(1000, 7, 0, torch.float64)
    whole, parts = Gram(7), Gram(7)
    whole.update(x)
    for part in x.reshape(10, 5, 20, 7).unbind(0):
        parts.update(part)
    torch.testing.assert_close(whole.matrix, x.T @ x)
    torch.testing.assert_close(parts.matrix, x.T @ x)
    assert whole.count == parts.count == 1000


def test_float32_inputs_lose_no_digits_over_many_batches() -> None:
    """Summed in float32, 2000 equal batches would drift by far more than one product's rounding."""
    x, gram = inputs(64, 3, 1) + 10.0, Gram(3)
    for _ in range(2000):
        gram.update(x)
    exact = 2000 * (x.double().T @ x.double())
    assert gram.matrix.dtype == torch.float64
    assert float(((gram.matrix - exact) / exact).abs().max()) < 1e-6


def test_short_floats_are_widened_before_they_are_multiplied() -> None:
    gram = Gram(1)
    gram.update(torch.full((3, 1), 300.0, dtype=torch.float16))  # the square overflows float16
    assert gram.matrix.item() == 3 * 300.0**2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_input_that_is_not_finite_is_named_and_not_added(bad: float) -> None:
    gram = Gram(2)
    gram.update(torch.ones(4, 2))
    with pytest.raises(InvalidInput, match="1 of 4 inputs are NaN or infinite"):
        gram.update(torch.tensor([[1.0, 2.0], [bad, 1.0]]))
    assert gram.count == 4
    assert gram.matrix.tolist() == [[4.0, 4.0], [4.0, 4.0]]


def test_a_square_that_overflows_is_named() -> None:
    with pytest.raises(InvalidInput, match="overflow"):
        Gram(1).update(torch.full((1, 1), 1e30))


def test_it_asks_for_inputs_before_it_answers() -> None:
    gram = Gram(2)
    with pytest.raises(InvalidInput, match="no input has reached"):
        _ = gram.matrix
    gram.update(torch.ones(0, 2))
    with pytest.raises(InvalidInput, match="no input has reached"):
        _ = gram.matrix


def test_inputs_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidInput, match="last axis must be 3"):
        Gram(3).update(torch.ones(5, 2))
    with pytest.raises(InvalidInput, match="at least one input"):
        Gram(0)
