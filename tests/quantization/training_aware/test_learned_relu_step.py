"""The staircase ReLU with a learned step: values, both derivatives, the best start."""

from __future__ import annotations

import math

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.quantization.training_aware.activations import QuantizedReLU
from driftwell.quantization.training_aware.learned_relu_step import (
    ExactStep,
    LearnedStepReLU,
    SaturatedStep,
    StepDerivative,
    ThreeValuedStep,
    half_normal_step,
)


def inputs() -> torch.Tensor:
    x = 3 * torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([x, torch.tensor([0.0, 0.4, 2.8, 2.8000001, 9.0], dtype=torch.float64)])


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_it_computes_the_staircase_of_a_fixed_step(bits: int) -> None:
    x = inputs().float()
    assert torch.equal(LearnedStepReLU(bits, 0.4)(x), QuantizedReLU(bits, 0.4)(x))


def test_the_exact_derivative_in_the_step_is_that_of_the_staircase() -> None:
    """By central differences away from the edges of the stairs."""
    relu = LearnedStepReLU(3, 0.4, ExactStep(), rate=1.0).double()
    x = inputs()
    ratio = x / 0.4
    x = x[(ratio - ratio.round()).abs() > 1e-3]
    slopes = []
    for each in x:
        relu.step.grad = None
        relu(each).backward()
        slopes.append(relu.step.grad.clone())
    up, down = (LearnedStepReLU(3, 0.4 + h).double()(x) for h in (1e-6, -1e-6))
    numeric = ((up - down) / 2e-6).detach()
    expected = numeric.clamp(max=1.0)  # one input at a time, clamped at the rate's limit
    torch.testing.assert_close(torch.stack(slopes), expected, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("derivative", "expected"),
    [
        (ExactStep(), 0 + 1 + 7 + 7),
        (SaturatedStep(), 0 + 0 + 0 + 7),
        (ThreeValuedStep(), 0 + 4 + 4 + 7),
    ],
    ids=str,
)
def test_the_three_derivatives_of_the_paper(derivative: StepDerivative, expected: float) -> None:
    relu = LearnedStepReLU(3, 0.5, derivative, rate=0.01)
    relu(torch.tensor([-1.0, 0.2, 3.4, 4.0])).sum().backward()
    assert float(relu.step.grad) == pytest.approx(0.01 * expected)


def test_the_input_s_gradient_is_that_of_the_clipped_relu() -> None:
    x = torch.tensor([-1.0, 0.0, 0.1, 3.4, 3.6], requires_grad=True)
    LearnedStepReLU(3, 0.5)(x).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 1.0, 1.0, 0.0]


def test_the_step_s_gradient_is_clamped() -> None:
    relu = LearnedStepReLU(4, 0.1, rate=0.01)
    (1e4 * relu(torch.full((100,), 5.0))).sum().backward()
    assert float(relu.step.grad) == 1.0


def test_the_step_stays_in_its_range() -> None:
    relu = LearnedStepReLU(2, 0.5)
    relu.step.data.fill_(-3.0)
    relu(torch.ones(1))
    assert relu.step.item() == pytest.approx(1e-3)


def test_infinities_saturate_and_a_nan_stays_one() -> None:
    relu = LearnedStepReLU(2, 0.5)
    found = relu(torch.tensor([math.inf, -math.inf, math.nan]))
    assert found[:2].tolist() == [1.5, 0.0]
    assert found[2].isnan()


def test_the_start_is_the_least_square_error_of_the_staircase() -> None:
    """One bit: E[x | x > 0]. Two bits: no neighbour is better on a half-normal sample's grid."""
    assert half_normal_step(1) == pytest.approx(math.sqrt(2 / math.pi), abs=1e-4)
    quantile = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    x = math.sqrt(2) * torch.erfinv(quantile)

    def cost(step: float) -> float:
        return float((QuantizedReLU(2, step)(x) - x).square().mean())

    best = half_normal_step(2)
    assert all(cost(best) <= cost(best * factor) for factor in (0.9, 0.97, 1.03, 1.1))


def test_the_paper_s_start_belongs_to_rounding_to_the_nearest_stair() -> None:
    """1.2221, 0.6511, 0.1946: the optimum of `round`, whereas the staircase takes `ceil`."""
    quantile = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    x = math.sqrt(2) * torch.erfinv(quantile)
    for bits, published in ((1, 1.2221), (2, 0.6511), (4, 0.1946)):
        top = 2**bits - 1

        def cost(step: float, top: int = top) -> float:
            return float((step * (x / step).round().clamp(max=top) - x).square().mean())

        best = min((published * (0.9 + 0.002 * i) for i in range(101)), key=cost)
        assert best == pytest.approx(published, rel=0.03)


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidInput, match="1 to 8"):
        LearnedStepReLU(9)
    with pytest.raises(InvalidInput, match="batch norm"):
        LearnedStepReLU(2, 50.0)
    with pytest.raises(InvalidInput, match="rate"):
        LearnedStepReLU(2, rate=0.0)
