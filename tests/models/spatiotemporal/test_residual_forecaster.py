"""ST-ResNet: its fusion by hand, its range, what each branch is given, what of it is quantized."""

from __future__ import annotations

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.models.spatiotemporal import PastMaps, STResNet
from driftwell.quantization.formats import Ternary
from driftwell.quantization.training_aware.quantized_weights import (
    quantization_aware,
    seen_weights,
)


def inputs(side: int = 6) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(1)
    shapes = ((2, 3, side, side), (2, 2, side, side), (2, 1, side, side), (2, 4))
    return tuple(torch.randn(shape, generator=draw) for shape in shapes)


def model(seed: int = 0) -> STResNet:
    return STResNet(6, PastMaps(), external=4, width=5, depth=2, seed=seed)


def test_branches_are_fused_cell_by_cell_under_a_tanh() -> None:
    net = model()
    with torch.no_grad():
        net.fusion.copy_(torch.randn(net.fusion.shape, generator=torch.Generator().manual_seed(2)))
    near, daily, weekly, external = inputs()
    parts = [net.near(near), net.daily(daily), net.weekly(weekly)]
    fused = sum(w * part[:, 0] for w, part in zip(net.fusion, parts, strict=True))
    expected = torch.tanh(fused + net.features(external).reshape(2, 6, 6))
    torch.testing.assert_close(net(*inputs()), expected)


def test_a_residual_unit_without_weights_passes_its_input() -> None:
    unit = model().near[1]
    for parameter in unit.parameters():
        parameter.data.zero_()
    x = torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(unit(x), x)


def test_a_cell_sees_as_far_as_its_convolutions_reach() -> None:
    """1 + 2 depth + 1 layers of 3 x 3: five cells at depth 2 minus one, none beyond six."""
    net = STResNet(16, PastMaps(), width=3, depth=2)
    near = torch.zeros(1, 3, 16, 16, requires_grad=True)
    rest = (torch.zeros(1, 2, 16, 16), torch.zeros(1, 1, 16, 16), torch.zeros(1, 1))
    for parameter in net.parameters():  # no ReLU may hide a path
        parameter.data.abs_().add_(0.01)
    net(near + 0.01, *rest)[0, 0, 0].backward()
    reached = (near.grad[0].abs().sum(0) > 0).nonzero().max()
    assert int(reached) == 6


def test_start_weights_are_the_seed_s() -> None:
    x = inputs()
    assert torch.equal(model(5)(*x), model(5)(*x))
    assert not torch.equal(model(5)(*x), model(6)(*x))


def test_all_but_the_fusion_is_quantized() -> None:
    net = quantization_aware(model(), Ternary("tensor"))
    seen = seen_weights(net)
    assert len(seen) == 3 * (2 + 2 * 2) + 2
    rest = {name for name, p in net.named_parameters() if "original" not in name and p.ndim > 1}
    assert rest == {"fusion"}
    assert all(len(each.value().unique()) <= 3 for each in seen)


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        STResNet(0)
    near, daily, weekly, external = inputs(side=7)
    with pytest.raises(InvalidInput, match="6 x 6"):
        model()(near, daily, weekly, external)
