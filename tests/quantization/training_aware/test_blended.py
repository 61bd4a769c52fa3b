"""The blend of float and quantized weights, by hand and at its limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.nn.drawn_layers import drawn_linear
from driftwell.quantization.formats import Binary, Ternary
from driftwell.quantization.training_aware.blended import BlendedCoarseGradient
from driftwell.quantization.training_aware.quantized_weights import (
    quantization_aware,
    seen_weights,
)

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01


def model_of(seed: int = 0) -> nn.Module:
    layer = drawn_linear(6, 3, torch.Generator().manual_seed(seed), dtype=torch.float64)
    return quantization_aware(layer, Ternary("tensor"))


def loss_of(model: nn.Module) -> Tensor:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return (model(x) - 1).square().mean()


def sgd_of(model: nn.Module, **settings: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=LR, **settings)


def steps(model: nn.Module, optimizer: object, count: int) -> Tensor:
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return seen_weights(model)[0].weight.detach().clone()


def test_no_blend_is_binary_connect_bit_for_bit() -> None:
    blended, plain = model_of(), model_of()
    wrapped = BlendedCoarseGradient(sgd_of(blended, momentum=MOMENTUM), blended, rho=0.0)
    found = steps(blended, wrapped, 20)
    assert torch.equal(found, steps(plain, sgd_of(plain, momentum=MOMENTUM), 20))


def test_the_step_is_the_formula_with_momentum_and_decay_on_the_blend() -> None:
    rho = 0.2
    model = model_of()
    seen = seen_weights(model)[0]
    wrapped = BlendedCoarseGradient(
        sgd_of(model, momentum=MOMENTUM, weight_decay=DECAY), model, rho
    )
    w, buffer = seen.weight.detach().clone(), torch.zeros_like(seen.weight)
    for _ in range(5):
        steps(model, wrapped, 1)
        gradient = seen.weight.grad
        blend = (1 - rho) * w + rho * Ternary("tensor").fake(w)
        buffer = MOMENTUM * buffer + gradient + DECAY * blend
        w = blend - LR * buffer
        torch.testing.assert_close(seen.weight.detach(), w, rtol=1e-12, atol=1e-12)


def test_a_full_blend_starts_every_step_on_the_quantized_set() -> None:
    model = model_of()
    seen = seen_weights(model)[0]
    on_grid = seen.value()
    steps(model, BlendedCoarseGradient(sgd_of(model), model, rho=1.0), 1)
    expected = on_grid - LR * seen.weight.grad
    torch.testing.assert_close(seen.weight.detach(), expected)


def test_a_closure_is_evaluated_before_the_blend() -> None:
    one, two = model_of(), model_of()
    first = BlendedCoarseGradient(sgd_of(one), one, 0.3)
    second = BlendedCoarseGradient(sgd_of(two), two, 0.3)
    steps(one, first, 1)

    def closure() -> Tensor:
        second.zero_grad()
        loss = loss_of(two)
        loss.backward()
        return loss

    assert second.step(closure) == loss_of(model_of())
    assert torch.equal(seen_weights(one)[0].weight, seen_weights(two)[0].weight)


def test_frozen_weights_and_those_of_no_gradient_do_not_leak() -> None:
    model = quantization_aware(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)), Binary())
    model[0].parametrizations.weight.original.requires_grad_(False)
    before = seen_weights(model)[0].weight.detach().clone()
    wrapped = BlendedCoarseGradient(sgd_of(model), model, rho=0.5)
    model(torch.ones(1, 3)).sum().backward()
    wrapped.step()
    assert torch.equal(seen_weights(model)[0].weight, before)


def test_training_goes_on_from_a_state() -> None:
    straight = model_of()
    expected = steps(
        straight,
        BlendedCoarseGradient(sgd_of(straight, momentum=MOMENTUM), straight, 0.01),
        10,
    )
    first = model_of()
    wrapped = BlendedCoarseGradient(sgd_of(first, momentum=MOMENTUM), first, 0.01)
    steps(first, wrapped, 5)
    second = model_of(seed=3)
    second.load_state_dict(first.state_dict())
    again = BlendedCoarseGradient(sgd_of(second, momentum=MOMENTUM), second, 0.01)
    again.load_state_dict(wrapped.state_dict())
    assert torch.equal(steps(second, again, 5), expected)


def test_mistakes_are_named() -> None:
    model = model_of()
    with pytest.raises(InvalidInput, match=r"in \[0, 1\]"):
        BlendedCoarseGradient(sgd_of(model), model, rho=1.5)
    with pytest.raises(InvalidInput, match="no quantized weight"):
        BlendedCoarseGradient(sgd_of(nn.Linear(2, 2)), model)
