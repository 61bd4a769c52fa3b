"""Every product of a weight with a state is seen, with the inputs as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.quantization.post_training.products import Product, WatchedProducts, patches


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def watched(W: Tensor, run: Callable[[], object]) -> tuple[list[Product], WatchedProducts]:
    seen: list[Product] = []
    watch = WatchedProducts({"W": W}, seen.append)
    with torch.no_grad(), watch:
        run()
    return seen, watch


def inputs(product: Product) -> Tensor:
    return torch.cat([rows for _, rows in product.rows()])


W, x = drawn(5, 3), drawn(4, 3, seed=1)
wide = drawn(2, 4, 3, seed=2)


@pytest.mark.parametrize(
    ("run", "seen"),
    [
        (lambda: functional.linear(x, W), x),
        (lambda: x @ W.T, x),
        (lambda: W @ x.T, x),
        (lambda: torch.addmm(torch.ones(5), x, W.t()), x),
        (lambda: functional.linear(wide, W, torch.ones(5)), wide.flatten(0, 1)),
        (lambda: wide @ W.mT, wide.flatten(0, 1)),
        (lambda: torch.einsum("bni,oi->bno", wide, W), wide.flatten(0, 1)),
        (lambda: W @ x[0], x[:1]),
        (lambda: x @ (0.3 * W / W.norm()).T, x),
        (lambda: x @ W.bfloat16().float().T, x),
        (lambda: torch.func.jvp(lambda v: v @ W.T, (x,), (x,)), x),
    ],
)
def test_inputs_that_meet_the_columns(run: Callable[[], object], seen: Tensor) -> None:
    products, _ = watched(W, run)
    assert products
    assert not products[0].transposed
    assert torch.equal(inputs(products[0]), seen)


def test_inputs_that_meet_the_rows_are_told_apart_even_in_a_square() -> None:
    S, v = drawn(3, 3), drawn(4, 3, seed=1)
    (product,), _ = watched(S, lambda: v @ S)
    assert product.transposed
    (product,), _ = watched(S, lambda: v @ S.T)
    assert not product.transposed


@pytest.mark.parametrize(
    "run",
    [
        lambda: x @ functional.softplus(W).T,
        lambda: x @ (W + 1.0).T,
        lambda: x @ (W.T @ W),
        lambda: W.sum() * x,
        lambda: x @ drawn(5, 3).T,
    ],
)
def test_what_is_no_multiple_of_the_weight_is_not_taken_for_it(run: Callable[[], object]) -> None:
    products, watch = watched(W, run)
    assert not products
    assert watch.altered <= {"W"}


def test_a_later_tensor_at_the_address_of_a_dead_one_is_not_the_weight() -> None:
    def run() -> None:
        for _ in range(50):
            scaled = 2.0 * W
            del scaled
            fresh = drawn(5, 3, seed=3)
            _ = x @ fresh.T

    assert watched(W, run)[0] == []


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2),
        nn.Conv2d(4, 4, (2, 3), dilation=2, bias=False),
        nn.Conv1d(4, 6, 3, padding=2),
    ],
    ids=str,
)
def test_a_convolution_is_a_product_with_its_patches(layer: nn.Conv1d | nn.Conv2d) -> None:
    image = drawn(2, 4, 9, 8) if isinstance(layer, nn.Conv2d) else drawn(2, 4, 9)
    seen: list[Product] = []
    with torch.no_grad(), WatchedProducts({"W": layer.weight}, seen.append):
        y = layer(image)
    rows: dict[int, Tensor] = dict(seen[0].rows())
    kernels = layer.weight.detach().flatten(1).chunk(layer.groups)
    made = torch.cat([rows[group] @ kernel.T for group, kernel in enumerate(kernels)], dim=1)
    bias = 0 if layer.bias is None else layer.bias.detach()
    expected = y.movedim(1, -1).reshape(-1, layer.out_channels)
    torch.testing.assert_close(made + bias, expected)


def test_patches_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    image = drawn(5, 2, 6, 6)
    whole = torch.cat([rows for _, rows in patches(image, (3, 3), [1, 1], [0, 0], [1, 1], 1)])
    monkeypatch.setattr("driftwell.quantization.post_training.products._PATCHES", 40)
    parts = list(patches(image, (3, 3), [1, 1], [0, 0], [1, 1], 1))
    assert len(parts) == 5
    assert torch.equal(torch.cat([rows for _, rows in parts]), whole)


def test_fused_attention_shows_its_products() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    seen: list[str] = []
    weights = {name: p for name, p in layer.named_parameters() if p.ndim == 2}
    with torch.no_grad(), WatchedProducts(weights, lambda product: seen.append(product.weight)):
        layer(drawn(2, 3, 8))
    assert seen == [
        "self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight",
    ]  # fmt: skip
