"""Variational dropout: one mask for a whole solve."""

from __future__ import annotations

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.nn.variational_dropout import VariationalDropout


def drawn(p=0.5, layer=0, **how) -> torch.Tensor:
    drop = VariationalDropout(p, layer)
    drop.draw((8, 500), **{"seed": 0, "step": 0, **how})
    return drop(torch.ones(8, 500))


def test_the_share_and_the_scale_are_right():
    """4000 entries: five standard errors of a share of p; the mean is kept."""
    for p in (0.1, 0.5, 0.8):
        z = drawn(p)
        share = float((z == 0).float().mean())
        assert abs(share - p) < 5 * (p * (1 - p) / z.numel()) ** 0.5
        torch.testing.assert_close(z[z > 0], torch.full_like(z[z > 0], 1 / (1 - p)))


def test_the_mask_is_frozen_so_that_a_solve_converges():
    drop = VariationalDropout(0.3)
    x = torch.linspace(-1, 1, 40).reshape(4, 10)
    drop.draw(x.shape, seed=1, step=0)
    found = dw.fixed_point(lambda z, x: torch.tanh(0.8 * drop(z) + x), torch.zeros_like(x), x)
    assert found.status.tolist() == [dw.Status.CONVERGED] * 4
    torch.testing.assert_close(torch.tanh(0.8 * drop(found.z) + x), found.z, rtol=0, atol=1e-3)


def test_masks_are_functions_of_seed_step_sample_and_layer():
    one = drawn()
    assert torch.equal(one, drawn())
    for other in (drawn(seed=1), drawn(step=1), drawn(layer=1)):
        assert not torch.equal(one, other)
    drop = VariationalDropout(0.5)
    drop.draw((2, 500), seed=0, step=0, samples=torch.tensor([5, 3]))
    assert torch.equal(drop(torch.ones(2, 500)), one[[5, 3]])


def test_evaluation_is_the_identity_and_nothing_is_saved():
    drop = VariationalDropout(0.5).eval()
    z = torch.ones(2, 3)
    assert drop(z) is z
    drop.draw((2, 3), seed=0, step=0)
    assert not drop.state_dict()


def test_a_mask_of_channels_broadcasts():
    drop = VariationalDropout(0.5)
    drop.draw((2, 3, 1, 1), seed=0, step=0)
    z = drop(torch.ones(2, 3, 4, 4))
    assert torch.equal(z, z[:, :, :1, :1].expand_as(z))


def test_bad_use_is_refused():
    with pytest.raises(InvalidInput, match="has no mask yet; call draw"):
        VariationalDropout(0.5)(torch.ones(2, 3))
    drop = VariationalDropout(0.5)
    drop.draw((4, 3), seed=0, step=0)
    with pytest.raises(InvalidInput, match="does not fit a state of shape"):
        drop(torch.ones(2, 3))
    for p in (-0.1, 1.0):
        with pytest.raises(InvalidInput, match=r"must be in \[0, 1\)"):
            VariationalDropout(p)
    with pytest.raises(InvalidInput, match="must not be negative"):
        VariationalDropout(0.5, layer=-1)
