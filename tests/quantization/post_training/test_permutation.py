"""PermutedCOMQ: groups of columns of like size, and an order that costs nothing to undo."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tests.quantization.post_training.layers import layer
from torch import nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Format, PowerOfTwo, Uniform
from driftwell.quantization.post_training import (
    COMQ,
    PermutedCOMQ,
    column_order,
    fold_permutation,
    output_error,
)


def uneven(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer whose columns differ in size by two orders of magnitude, in no order."""
    w, gram = layer(16, 64, seed)
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.exp(1.5 * torch.randn(64, generator=draw, dtype=w.dtype))
    return w * sizes, gram / sizes[:, None] / sizes


def test_columns_are_ordered_by_falling_size() -> None:
    w = torch.tensor([[1.0, -3.0, 2.0], [1.0, 0.0, 2.5]])
    assert column_order(w).tolist() == [2, 1, 0]
    assert column_order(w, "largest").tolist() == [1, 2, 0]


@pytest.mark.parametrize("format", [Uniform(2), PowerOfTwo(3)], ids=str)
def test_columns_of_like_size_share_a_scale_at_a_smaller_error(format: Format) -> None:
    w, gram = uneven(0)
    plain = COMQ().quantize(w, gram, replace(format, per="group", group_size=16))  # type: ignore[call-arg]
    permuted = PermutedCOMQ(16).permute(w, gram, format)
    assert permuted.quantized.pack().nbytes == plain.pack().nbytes
    ours, theirs = (output_error(w, q.decode(), gram) for q in (permuted, plain))
    assert ours < 0.8 * theirs


def test_both_forms_are_the_same_weight() -> None:
    w, gram = uneven(1)
    method = PermutedCOMQ(8)
    compact, spread = (f(w, gram, Uniform(3)) for f in (method.permute, method.quantize))
    assert torch.equal(compact.decode(), spread.decode())  # type: ignore[attr-defined]


def test_the_index_puts_the_inputs_in_order() -> None:
    w, gram = uneven(2)
    permuted = PermutedCOMQ(8).permute(w, gram, Uniform(3))
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0), dtype=w.dtype)
    torch.testing.assert_close(permuted(x), x @ permuted.decode().T)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Identity()], ids=str)
def test_the_network_with_the_order_folded_in_is_the_permuted_network(
    activation: nn.Module,
) -> None:
    draw = torch.Generator().manual_seed(3)
    first, second = nn.Linear(10, 64), nn.Linear(64, 7)
    with torch.no_grad():
        for p in (*first.parameters(), *second.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, generator=draw))
    x = torch.randn(200, 10, generator=draw)
    hidden = activation(first(x)).detach()
    permuted = PermutedCOMQ(16).permute(second.weight, hidden.T @ hidden, Uniform(2))
    expected = permuted(activation(first(x))) + second.bias
    folded, last = fold_permutation(first, permuted.order), copy.deepcopy(second)
    with torch.no_grad():
        last.weight.copy_(permuted.quantized.decode())
    torch.testing.assert_close(last(activation(folded(x))), expected, rtol=1e-5, atol=1e-5)


def test_convolutions_fold_too() -> None:
    conv, order = nn.Conv2d(3, 6, 3, bias=False), torch.tensor([5, 3, 1, 0, 2, 4])
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(fold_permutation(conv, order)(x), conv(x)[:, order])


def test_what_cannot_be_is_said() -> None:
    w, gram = uneven(5)
    with pytest.raises(InvalidInput, match="at least one column"):
        PermutedCOMQ(0)
    with pytest.raises(InvalidInput, match="size is"):
        PermutedCOMQ(4, size="mean")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="do not divide"):
        PermutedCOMQ(7).permute(w, gram, Uniform(2))
    with pytest.raises(InvalidInput, match="permutation of the layer's 3 outputs"):
        fold_permutation(nn.Linear(2, 3), torch.tensor([0, 1, 1]))
    with pytest.raises(InvalidInput, match="grouped convolution"):
        fold_permutation(nn.Conv2d(2, 4, 1, groups=2), torch.arange(4))
