"""The equilibrium transformer: limit of tied layers, causality, symmetry, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Implicit, Picard, Unrolled
from driftwell.models.equilibrium.transformer import DEQTransformerBlock

D, T, B = 8, 5, 3


def tokens(seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, D, generator=g, dtype=torch.float64)


def block(**settings: object) -> DEQTransformerBlock:
    exact = {"tol": 1e-13, "gradient": Implicit(tol=1e-13, max_steps=300), "max_steps": 300}
    return DEQTransformerBlock(D, 2, seed=1, dtype=torch.float64, **(exact | settings))


def test_it_is_the_limit_of_a_deep_stack_of_tied_layers() -> None:
    b, x = block(), tokens()
    z = torch.zeros_like(x)
    for _ in range(200):
        z = b.layer(z, {"tokens": x})
    found = b(x, throw=True)
    torch.testing.assert_close(found.z, z, rtol=1e-9, atol=1e-9)


def test_the_residual_is_that_of_what_is_returned() -> None:
    b, x = block(tol=1e-5), tokens()
    found = b(x, throw=True)
    value = b.layer(found.z, {"tokens": x})
    residual = (value - found.z).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)
    torch.testing.assert_close(residual, found.residual, rtol=1e-3, atol=0.0)


def test_gradients_are_those_of_unrolling() -> None:
    grads = []
    for how in ({}, {"gradient": Unrolled(), "solver": Picard(), "max_steps": 120, "tol": 0.0}):
        b, x = block(**how), tokens().requires_grad_(True)
        b(x).z.pow(3).sum().backward()
        grads.append([x.grad, *(p.grad for p in b.parameters())])
    for a, b in zip(*grads, strict=True):
        assert float((a - b).norm()) < 1e-8 * float(grads[1][0].norm())


def test_a_causal_token_knows_nothing_of_what_follows() -> None:
    """Its equilibrium is that of the prefix; without causality it is another."""
    x = tokens()
    for causal in (True, False):
        b = block(causal=causal)
        whole, prefix = b(x, throw=True).z[:, :3], b(x[:, :3], throw=True).z
        gap = float((whole - prefix).detach().abs().max())
        assert gap < 1e-10 if causal else gap > 1e-4


def test_without_positions_permuted_tokens_have_permuted_equilibria() -> None:
    b, x, order = block(), tokens(), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(b(x[:, order]).z, b(x).z[:, order], rtol=1e-9, atol=1e-9)


def test_padding_changes_nothing() -> None:
    b, x = block(), tokens()
    mask = torch.tensor([True, True, True, False, False]).expand(B, T)
    padded = torch.where(mask[..., None], x, 7.0)
    torch.testing.assert_close(b(padded, mask).z[:, :3], b(x[:, :3]).z, rtol=1e-9, atol=1e-9)


def test_double_backward_is_right() -> None:
    b = DEQTransformerBlock(2, 1, expansion=1, seed=3, dtype=torch.float64, tol=1e-14,
                            gradient=Implicit(tol=1e-13))  # fmt: skip
    x = tokens()[:1, :2, :2].contiguous().requires_grad_(True)
    assert torch.autograd.gradgradcheck(lambda x: b(x).z.pow(2), (x,), atol=1e-4)


def test_a_start_near_the_end_saves_steps() -> None:
    b, x = block(tol=1e-8), tokens()
    found = b(x)
    again = b(x + 1e-4, z0=found.z)
    assert int(again.steps.max()) < int(found.steps.min())


@pytest.mark.parametrize(("width", "heads"), [(8, 3), (0, 1), (8, 0)])
def test_bad_sizes_are_refused(width: int, heads: int) -> None:
    with pytest.raises(InvalidInput, match="heads divide width"):
        DEQTransformerBlock(width, heads)


def test_bad_tokens_and_masks_are_refused() -> None:
    b = block()
    with pytest.raises(InvalidInput, match=r"\(B, T, 8\)"):
        b(torch.zeros(2, 3, 4, dtype=torch.float64))
    with pytest.raises(InvalidInput, match="mask must be bool"):
        b(tokens(), torch.ones(B, T))
    with pytest.raises(InvalidInput, match="hides every token"):
        b(tokens(), torch.zeros(B, T, dtype=torch.bool))


def test_it_cites_its_paper() -> None:
    assert "1909.01377" in dw.cite(block())
