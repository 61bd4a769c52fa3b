"""Adaptive steps: at the start the learned step, then published derivatives through s and beta."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Uniform
from driftwell.quantization.training_aware.adaptive_step import AdaptiveStepQuantizer, StepAdapter
from driftwell.quantization.training_aware.learned_step import LearnedStepQuantizer
from driftwell.quantization.training_aware.quantized_weights import (
    quantization_aware,
    seen_weights,
)


class Given(nn.Module):
    """An adapter whose beta is a parameter."""

    def __init__(self, beta: Tensor) -> None:
        super().__init__()
        self.beta = nn.Parameter(beta)

    def forward(self, x: Tensor) -> Tensor:
        return self.beta


def gaussian(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


signs = pytest.mark.parametrize("signed", [True, False])
ways = pytest.mark.parametrize("dequantize", ["adapted", "learned"])


@signs
@ways
def test_before_training_it_is_the_learned_step_bit_for_bit(signed: bool, dequantize: str) -> None:
    x = gaussian(0, 6, 4, 5, 5).float()
    plain = LearnedStepQuantizer(4, signed)
    adaptive = AdaptiveStepQuantizer(4, 4, signed, dequantize=dequantize)  # type: ignore[arg-type]
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    ys = [q(each) for q, each in zip((plain, adaptive), inputs, strict=True)]
    assert torch.equal(ys[0], ys[1])
    out = gaussian(1, 6, 4, 5, 5).float()
    for y in ys:
        (y * out).sum().backward()
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(plain.step.s.grad, adaptive.step.s.grad)


@signs
def test_derivatives_in_step_and_beta_are_the_published_ones(signed: bool) -> None:
    """dxhat/ds = beta d and dxhat/dbeta = s d; that of s is slowed by 1 / sqrt(N p)."""
    x, beta = gaussian(2, 5, 12), torch.tensor([[0.5], [0.8], [1.0], [1.4], [1.9]]).double()
    quantizer = AdaptiveStepQuantizer(3, 12, signed, step=0.4, adapter=Given(beta)).double()
    n, p = quantizer.lowest, quantizer.highest
    s = quantizer.step.s.detach()
    v = x / (s * beta)
    inside = (v > n) & (v < p)
    d = torch.where(inside, v.round() - v, v.round().clamp(n, p))
    held, out = x.clone().requires_grad_(), gaussian(3, 5, 12)
    y = quantizer(held)
    torch.testing.assert_close(y.detach(), s * beta * v.round().clamp(n, p))
    (y * out).sum().backward()
    torch.testing.assert_close(held.grad, out * inside)
    torch.testing.assert_close(quantizer.adapter.beta.grad, (s * d * out).sum(1, keepdim=True))
    rate = (12 * p) ** -0.5
    torch.testing.assert_close(quantizer.step.s.grad, rate * (beta * d * out).sum())


@ways
def test_derivatives_are_those_of_the_surrogate_by_differences(dequantize: str) -> None:
    x, beta = gaussian(4, 3, 10), torch.tensor([[0.6], [1.0], [1.7]]).double()
    quantizer = AdaptiveStepQuantizer(
        3, 10, step=0.3, signed=True, dequantize=dequantize, adapter=Given(beta)  # type: ignore[arg-type]
    ).double()  # fmt: skip
    s, out = quantizer.step.s.detach().clone(), gaussian(5, 3, 10)
    v = (x / beta / s).clamp(-4, 3)
    error = v.round() - v

    def surrogate(s: Tensor, beta: Tensor) -> Tensor:
        y = s * ((x / beta / s).clamp(-4, 3) + error)
        return (y * (beta if dequantize == "adapted" else 1.0) * out).sum()

    (quantizer(x) * out).sum().backward()
    h = 1e-6
    in_s = (surrogate(s + h, beta) - surrogate(s - h, beta)) / (2 * h)
    torch.testing.assert_close(quantizer.step.s.grad, in_s / (10 * 3) ** 0.5, rtol=1e-6, atol=1e-8)
    for i in range(3):
        e = torch.zeros_like(beta)
        e[i] = h
        found = (surrogate(s, beta + e) - surrogate(s, beta - e)) / (2 * h)
        torch.testing.assert_close(quantizer.adapter.beta.grad[i, 0], found, rtol=1e-6, atol=1e-8)


def test_a_beta_that_grows_with_the_sample_makes_it_blind_to_contrast() -> None:
    """If beta scales as x does, so does xhat; with a fixed step it does not."""
    x = gaussian(6, 4, 8).relu()
    fixed = LearnedStepQuantizer(3, step=0.2).double()
    exact = [
        AdaptiveStepQuantizer(3, 8, step=0.2, adapter=Given(torch.full((4, 1), c).double()))
        for c in (1.0, 2.0)
    ]
    torch.testing.assert_close(exact[1](2 * x), 2 * exact[0](x))
    assert not torch.allclose(fixed(2 * x), 2 * fixed(x))
    learned = AdaptiveStepQuantizer(
        3, 8, step=0.2, dequantize="learned", adapter=Given(torch.full((4, 1), 2.0).double())
    )
    torch.testing.assert_close(learned(2 * x), exact[0](x))


def test_samples_do_not_see_each_other() -> None:
    quantizer, x = trained(), gaussian(7, 5, 4, 3, 3).float()
    together = quantizer(x)
    alone = torch.cat([quantizer(each[None]) for each in x])
    torch.testing.assert_close(together, alone)


def test_beta_is_bounded_and_differs_between_samples_after_training() -> None:
    quantizer = trained()
    x = gaussian(8, 50, 4, 3, 3).float() * torch.logspace(-3, 6, 50)[:, None, None, None]
    beta = quantizer.adapter(x).detach()
    assert beta.shape == (50, 1)
    assert bool((beta > 0).all() and (beta <= 2).all())
    assert float(beta.std()) > 0.1
    with torch.no_grad():
        quantizer.adapter.a.fill_(-1e6)
    assert quantizer(x).isfinite().all()


def trained() -> AdaptiveStepQuantizer:
    """Fitted, in squared error, to samples whose sizes differ thirtyfold."""
    quantizer = AdaptiveStepQuantizer(3, 4, signed=True)
    x = gaussian(9, 64, 4, 3, 3).float() * torch.logspace(-1, 0.5, 64)[:, None, None, None]
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    return quantizer


def test_the_adapter_lowers_the_error_on_samples_of_many_sizes() -> None:
    """Squared error, after the same training, at most 0.9 of the learned step's."""
    adaptive, plain = trained(), LearnedStepQuantizer(3, signed=True)
    x = gaussian(9, 64, 4, 3, 3).float() * torch.logspace(-1, 0.5, 64)[:, None, None, None]
    optimizer = torch.optim.Adam(plain.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (plain(x) - x).square().mean().backward()
        optimizer.step()
    errors = [float((q(x) - x).square().mean().detach()) for q in (adaptive, plain)]
    assert errors[0] < 0.9 * errors[1]


def test_quantizing_a_models_layers_leaves_its_adapters_alone() -> None:
    hidden = StepAdapter(4, 8, torch.Generator().manual_seed(0))
    model = nn.Sequential(
        nn.Linear(3, 4), AdaptiveStepQuantizer(4, 4), nn.Linear(4, 4),
        AdaptiveStepQuantizer(4, 4, adapter=hidden),
    )  # fmt: skip
    aware = quantization_aware(model, Uniform(4))
    assert [seen.name for seen in seen_weights(aware)] == ["0", "2"]
    aware(gaussian(10, 5, 3).float()).sum().backward()
    assert hidden(gaussian(11, 2, 4).float()).tolist() == [[1.0], [1.0]]


def test_mistakes_are_told() -> None:
    with pytest.raises(InvalidInput, match="dequantize"):
        AdaptiveStepQuantizer(4, 3, dequantize="s")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="channels"):
        StepAdapter(0)
    with pytest.raises(InvalidInput, match="draw"):
        StepAdapter(3, hidden=4)
    with pytest.raises(InvalidInput, match="reads 3 channels"):
        AdaptiveStepQuantizer(4, 3)(torch.ones(2, 4))
