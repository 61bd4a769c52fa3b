"""Interactions of inputs: their definition, what they are blind to, and learned contexts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.measures.interactions import contextual_effects, pairwise_interactions


def law(x: Tensor) -> Tensor:
    return x[:, 0] * x[:, 1] + x[:, 2] + torch.tanh(x[:, 3] * x[:, 4])


def points(n: int = 6) -> Tensor:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 5, generator=g, dtype=torch.float64) + 0.5
    return x * torch.where(torch.rand(n, 5, generator=g) < 0.5, -1.0, 1.0)


def test_interactions_are_the_second_difference() -> None:
    def curved(x: Tensor) -> Tensor:
        return torch.sin(x.sum(1)) + x.prod(1)

    x, base = points(), 0.3
    found = pairwise_interactions(curved, x, 1, baseline=base)
    for j in (0, 2, 3, 4):
        i_out, j_out, both = x.clone(), x.clone(), x.clone()
        i_out[:, 1] = j_out[:, j] = both[:, 1] = both[:, j] = base
        wanted = curved(x) - curved(i_out) - curved(j_out) + curved(both)
        torch.testing.assert_close(found[:, j], wanted)
    assert bool((found[:, 1] == 0).all())


def test_closed_forms() -> None:
    x = points()
    first, fourth = (pairwise_interactions(law, x, unit) for unit in (0, 3))
    torch.testing.assert_close(first[:, 1], x[:, 0] * x[:, 1])
    torch.testing.assert_close(fourth[:, 4], torch.tanh(x[:, 3] * x[:, 4]))


def test_units_that_add_do_not_interact_and_interaction_is_mutual() -> None:
    x = points()
    table = torch.stack([pairwise_interactions(law, x, unit) for unit in range(5)], dim=1)
    torch.testing.assert_close(table, table.mT)
    paired = torch.zeros(5, 5, dtype=torch.bool)
    for i, j in ((0, 1), (3, 4)):
        paired[i, j] = paired[j, i] = True
    assert float(table[:, ~paired].abs().max()) < 1e-12


@pytest.mark.parametrize(("unit", "partner"), [(0, 1), (1, 0), (2, -1), (3, 4), (4, 3)])
def test_the_context_is_the_partner_and_nobody_else(unit: int, partner: int) -> None:
    found = contextual_effects(law, points(), unit)
    assert found.partner.tolist() == [partner] * 6
    kept = (found.mask > 0.5).sum(dim=1) - 1
    assert kept.tolist() == [int(partner >= 0)] * 6


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    x = points()
    together, alone = contextual_effects(law, x, 0), contextual_effects(law, x[2:3], 0)
    torch.testing.assert_close(together.mask[2:3], alone.mask)


def test_the_units_of_the_model_do_not_matter() -> None:
    x = points()
    small = contextual_effects(lambda x: 1e-3 * law(x), x, 3)
    torch.testing.assert_close(small.mask, contextual_effects(law, x, 3).mask, rtol=0, atol=1e-3)


def test_bad_input_gets_one_sentence() -> None:
    with pytest.raises(InvalidInput, match="shape \\(B, n\\)"):
        contextual_effects(law, points()[0], 0)
    with pytest.raises(InvalidInput, match=r"unit must lie in 0\.\.4"):
        contextual_effects(law, points(), 5)
    with pytest.raises(InvalidInput, match="one number a row"):
        contextual_effects(lambda x: x, points(), 0)
    with pytest.raises(InvalidInput, match="must be positive"):
        contextual_effects(law, points(), 0, steps=0)
