"""Routed tokens: sparse equals dense, the budget's slope, tokens that stop at rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.models.equilibrium.transformer import DEQTransformerBlock
from driftwell.models.vision.routed_classifier import RoutedClassifier
from driftwell.models.vision.token_routing import (
    AttentionBlock,
    Routed,
    TokenRouter,
    budget_loss,
)
from driftwell.models.vision.token_settling import settle_tokens

WIDTH, T, B = 16, 12, 5


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(B, T, WIDTH, generator=torch.Generator().manual_seed(seed))


def router(bias: float = 0.0) -> TokenRouter:
    draw = torch.Generator().manual_seed(3)
    return TokenRouter(AttentionBlock(WIDTH, 4, draw), WIDTH, draw, bias=bias)


@pytest.mark.parametrize("bias", [-0.5, 0.0, 0.5, 5.0, -9.0])
def test_gathered_inference_equals_masked_dense(bias: float) -> None:
    r, t = router(bias), tokens()
    dense, sparse = r(t), r(t, sparse=True)
    assert float((dense.tokens - sparse.tokens).detach().abs().max()) < 1e-5
    assert torch.equal(dense.open, sparse.open)
    if bias == -0.5:
        assert 0.0 < float(dense.open.double().mean()) < 0.7


def test_a_token_with_both_gates_closed_is_passed_on_untouched() -> None:
    r, t = router(-9.0), tokens()
    assert torch.equal(r(t).tokens, t)


def test_a_token_sees_those_that_are_skipped() -> None:
    """Changing a token whose gate is closed changes what an open one becomes."""
    r, t = router(-0.5), tokens()
    before = r(t, sparse=True)
    b, closed = (int(i) for i in (~before.open).nonzero()[0])
    moved = t.clone()
    # Small, so that no gate switches; uneven, so that the layer norm lets it through.
    moved[b, closed] += 0.02 * tokens(7)[b, closed]
    after = r(moved, sparse=True)
    assert torch.equal(after.open, before.open)
    change = (after.tokens - before.tokens)[b][before.open[b]]
    assert float(change.detach().abs().max()) > 1e-6


def test_the_mixture_is_that_of_the_gates() -> None:
    r, t = router(0.3), tokens()
    g = torch.relu(torch.tanh(r.gates(t)))
    total = g.sum(2, keepdim=True)
    wanted = torch.where(total > 0, (g[..., :1] * r.block(t) + g[..., 1:] * t) / total, t)
    torch.testing.assert_close(r(t).tokens, wanted)


@pytest.mark.parametrize(("bias", "budget", "sign"), [(-2.0, 0.5, -1.0), (2.0, 0.5, 1.0)])
def test_the_budget_opens_closed_gates_and_closes_open_ones(
    bias: float, budget: float, sign: float
) -> None:
    r = router(bias)
    budget_loss([r(tokens())], budget).backward()
    assert sign * float(r.gates.bias.grad[0]) > 0
    assert float(r.gates.bias.grad[1]) == 0.0


def test_the_share_counts_open_gates() -> None:
    routed = router(0.0)(tokens())
    torch.testing.assert_close(routed.share.detach(), routed.open.float().mean())


def test_multiplications_are_counted() -> None:
    """Against torch's own counter (which counts two operations for a multiplication)."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    block, t = router().block, tokens()
    for some in (None, (torch.arange(T) < 7).expand(B, -1)):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            block(t, some)
        asked = torch.full((B,), T if some is None else 7)
        assert counter.get_total_flops() == 2 * int(block.flops(T, asked).sum())


def test_a_routed_classifier_is_the_same_sparse_and_dense() -> None:
    model = RoutedClassifier(8, 2, 10, width=16, depth=3, seed=1)
    with torch.no_grad():
        for each in model.routers:
            each.gates.bias.zero_()
        x = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
        (a, done), (b, _) = model(x), model(x, sparse=True)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert 0.0 < model.spent(done) < 1.0


def test_settled_tokens_are_the_equilibrium() -> None:
    block = DEQTransformerBlock(8, 2, seed=2, dtype=torch.float64, tol=1e-12)
    x = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x * torch.linspace(0.3, 4.0, 6)[:, None]
    settled = settle_tokens(block, x, tol=1e-8)
    torch.testing.assert_close(settled.found.z, block(x, throw=True).z, rtol=1e-6, atol=1e-6)
    assert float(settled.found.residual.max()) <= 1e-8
    plain = dw.fixed_point(block.layer, torch.zeros_like(x), {"tokens": x}, tol=1e-8,
                           solver=dw.Picard(), max_steps=300)  # fmt: skip
    assert bool((settled.updates < plain.steps * 6).all())


def test_settling_says_when_its_budget_is_spent() -> None:
    block = DEQTransformerBlock(8, 2, seed=2)
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    found = settle_tokens(block, x, tol=1e-6, max_sweeps=3).found
    assert "used up its steps" in found.explain(0)
    assert int(found.steps.max()) == 3


def test_evaluating_some_tokens_is_evaluating_all_and_taking_some() -> None:
    for causal in (False, True):
        layer = DEQTransformerBlock(8, 2, seed=2, causal=causal).layer
        z, x = tokens()[..., :8], {"tokens": tokens(1)[..., 8:]}
        index = torch.tensor([[3, 0, 7]]).expand(B, -1)
        torch.testing.assert_close(layer.at(z, x, index), layer(z, x)[:, [3, 0, 7]])


def test_bad_settings_get_one_sentence() -> None:
    with pytest.raises(InvalidInput, match="divide width"):
        AttentionBlock(16, 3, torch.Generator())
    with pytest.raises(InvalidInput, match="patch must divide side"):
        RoutedClassifier(8, 3, 10)
    with pytest.raises(InvalidInput, match="at least one router"):
        budget_loss([], 0.5)
    with pytest.raises(InvalidInput, match="budget in"):
        budget_loss([Routed(tokens(), tokens()[..., 0] > 0, torch.tensor(0.5))], 1.5)
    with pytest.raises(InvalidInput, match="must be positive"):
        settle_tokens(DEQTransformerBlock(8, 2), torch.zeros(1, 2, 8), tol=0.0)


def test_it_cites_its_paper() -> None:
    assert "2308.03409" in dw.cite(router())
