"""Reversible columns: exact inverse, gradients of autograd, memory, random numbers drawn again."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.models.vision.column_levels import ConvLevel, DenseLevel
from driftwell.models.vision.reversible_columns import (
    SMALLEST_SCALE,
    ReversibleColumn,
    ReversibleColumns,
)

WIDTHS = (6, 5, 4)


def dense_levels(column: int, *, dropout: float = 0.0, dtype=torch.float64) -> list[nn.Module]:
    draw = torch.Generator().manual_seed(column)
    sizes = zip((7, 6, 5), WIDTHS, (5, 4, None), strict=True)
    return [DenseLevel(*each, draw, dropout=dropout, dtype=dtype) for each in sizes]


def conv_levels(column: int, dtype=torch.float64) -> list[nn.Module]:
    draw = torch.Generator().manual_seed(column)
    return [
        ConvLevel(2, 3, 4, draw, keep_size=True, layer_scale=0.5, dtype=dtype),
        ConvLevel(3, 4, None, draw, layer_scale=0.5, dtype=dtype),
    ]


def inputs(dtype=torch.float64, start: float = 1.0) -> tuple[Tensor, tuple[Tensor, ...]]:
    g = torch.Generator().manual_seed(9)
    x = torch.randn(3, 7, generator=g, dtype=dtype)
    return x, tuple(start * torch.randn(3, w, generator=g, dtype=dtype) for w in WIDTHS)


def gradients(net: ReversibleColumns, x: Tensor, c0: tuple[Tensor, ...]) -> list[Tensor]:
    x = x.clone().requires_grad_(True)
    c0 = tuple(c.clone().requires_grad_(True) for c in c0)
    net.zero_grad()
    # An uneven loss over all levels; one of them enters twice.
    last = net(x, c0)
    (sum(c.pow(2).sum() * (k + 1) for k, c in enumerate(last)) + last[0].sum()).backward()
    return [x.grad, *(c.grad for c in c0), *(p.grad for p in net.parameters())]


def worst(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((p - q).norm() / (q.norm() + 1e-30)) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_gradients_are_those_of_autograd(kind: str) -> None:
    x, c0 = inputs()
    factory, widths = dense_levels, WIDTHS
    if kind == "images":
        g = torch.Generator().manual_seed(4)
        x = torch.randn(2, 2, 8, 8, generator=g, dtype=torch.float64)
        shapes = ((2, 3, 8, 8), (2, 4, 4, 4))
        c0 = tuple(torch.randn(s, generator=g, dtype=torch.float64) for s in shapes)
        factory, widths = conv_levels, (3, 4)
    net = ReversibleColumns(factory, widths, 5, dtype=torch.float64)
    mine = gradients(net, x, c0)
    net.reversible = False
    assert worst(mine, gradients(net, x, c0)) < 1e-10


def test_single_precision_gradients_agree_too() -> None:
    x, c0 = inputs(torch.float32)
    net = ReversibleColumns(partial(dense_levels, dtype=torch.float32), WIDTHS, 4)
    mine = gradients(net, x, c0)
    net.reversible = False
    assert worst(mine, gradients(net, x, c0)) < 1e-4


def test_the_inverse_returns_to_column_zero() -> None:
    x, c0 = inputs()
    net = ReversibleColumns(dense_levels, WIDTHS, 6, dtype=torch.float64)
    back = net.inverse(x, net(x, c0))
    for a, b in zip(back, c0, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_rounding_grows_like_one_over_the_scale() -> None:
    """With constant levels, c <- a c + 1: each column back multiplies the error by 1/a."""
    x, c0 = inputs(torch.float32)
    net = ReversibleColumns(partial(dense_levels, dtype=torch.float32), WIDTHS, 16, scale=0.3)
    with torch.no_grad():
        for column in net.columns:
            for level in column.levels:
                level.W_2.weight.zero_()
                level.W_2.bias.fill_(1.0)
    errors = net.reconstruction_error(x, c0).log2()
    slope = float((errors[1] - errors[11]) / 10)
    assert slope == pytest.approx(-math.log2(0.3), rel=0.15)


def test_dropout_is_drawn_again_and_the_global_stream_moves_as_it_does_without() -> None:
    x, c0 = inputs()
    factory = partial(dense_levels, dropout=0.4)
    net = ReversibleColumns(factory, WIDTHS, 4, dtype=torch.float64)
    found, ends = [], []
    before = torch.get_rng_state()
    for reversible in (True, False):
        torch.set_rng_state(before)
        net.reversible = reversible
        found.append(gradients(net, x, c0))
        ends.append(torch.get_rng_state())
    torch.set_rng_state(before)
    assert worst(*found) < 1e-10
    assert torch.equal(*ends)


def test_saved_memory_is_constant_in_the_columns() -> None:
    def saved(columns: int, reversible: bool) -> int:
        held: dict[int, int] = {}
        net = ReversibleColumns(dense_levels, WIDTHS, columns, reversible=reversible,
                                dtype=torch.float64)  # fmt: skip
        own = {p.data_ptr() for p in net.parameters()}

        def pack(t: Tensor) -> Tensor:
            if t.untyped_storage().data_ptr() not in own:
                held[t.data_ptr()] = t.nbytes
            return t

        x, c0 = inputs()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            last = net(x.requires_grad_(True), c0)
        assert last[0].requires_grad
        return sum(held.values())

    assert saved(4, True) == saved(16, True)
    assert saved(16, False) > 3.5 * saved(4, False)


def test_a_scale_near_zero_is_clamped_where_it_is_used_and_not_overwritten() -> None:
    column = ReversibleColumn(dense_levels(0), WIDTHS, dtype=torch.float64)
    with torch.no_grad():
        column.scales[0].copy_(torch.tensor([1e-9, -1e-9, 0.0, 0.2, -0.3, 1.0]))
    like = torch.zeros(1, 6, dtype=torch.float64)
    wanted = [SMALLEST_SCALE, -SMALLEST_SCALE, SMALLEST_SCALE, 0.2, -0.3, 1.0]
    torch.testing.assert_close(column.scale(0, like)[0].detach(), torch.tensor(wanted).double())
    assert float(column.scales[0].detach()[0]) == pytest.approx(1e-9)


def test_columns_may_share_their_levels() -> None:
    shared = dense_levels(0)
    net = ReversibleColumns(lambda i: shared, WIDTHS, 3, dtype=torch.float64)
    mine = gradients(net, *inputs())
    net.reversible = False
    assert worst(mine, gradients(net, *inputs())) < 1e-10


def test_frozen_weights_stay_without_gradient() -> None:
    net = ReversibleColumns(dense_levels, WIDTHS, 2, dtype=torch.float64)
    net.columns[0].requires_grad_(False)
    x, c0 = inputs()
    sum(c.sum() for c in net(x, c0)).backward()
    assert all(p.grad is None for p in net.columns[0].parameters())
    assert all(p.grad is not None for p in net.columns[1].parameters())


@pytest.mark.parametrize("settings", [{"n_columns": 0}, {"n_columns": 2, "scale": 0.0}])
def test_bad_settings_get_one_sentence(settings: dict) -> None:
    with pytest.raises(InvalidInput, match="n_columns >= 1"):
        ReversibleColumns(dense_levels, WIDTHS, **settings)


def test_a_mismatch_of_levels_is_refused() -> None:
    with pytest.raises(InvalidInput, match="made 3 levels for 2"):
        ReversibleColumns(dense_levels, (6, 5), 2)
    net = ReversibleColumns(dense_levels, WIDTHS, 2, dtype=torch.float64)
    with pytest.raises(InvalidInput, match="3 levels, got 1"):
        net(inputs()[0], inputs()[1][:1])


def test_it_cites_its_paper() -> None:
    assert "2212.11696" in dw.cite(ReversibleColumns)
