"""MagR: smaller weights with the same outputs."""

from __future__ import annotations

import pytest
import torch
from tests.quantization.post_training.layers import errors, layer
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Ternary, Uniform
from driftwell.quantization.post_training import COMQ, GPTQ, MagR, RoundToNearest, prox_largest


def rank_deficient(seed: int) -> tuple[Tensor, Tensor]:
    """A weight of 32 columns whose inputs span 12 dimensions."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 12, generator=draw, dtype=torch.float64)
    x = x @ torch.randn(12, 32, generator=draw, dtype=torch.float64)
    return torch.randn(10, 32, generator=draw, dtype=torch.float64), x.T @ x


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0, 50.0])
def test_the_proximal_map_is_the_minimum_over_all_clips(weight: float) -> None:
    """argmin 1/2 |v - x|^2 + a |v|_inf is x clipped at some c: all c are tried."""
    x, _ = layer(20, 9, 0)
    c = torch.linspace(0, 6, 6001, dtype=x.dtype)
    clipped = x[:, None].clamp(min=-c[:, None], max=c[:, None])
    cost = 0.5 * (clipped - x[:, None]).square().sum(dim=2) + weight * c
    expected = clipped[torch.arange(20), cost.argmin(dim=1)]
    found = prox_largest(x, torch.full((20, 1), weight, dtype=x.dtype))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_the_proximal_map_is_dual_to_the_projection_on_the_l1_ball() -> None:
    """Moreau: x - prox(x) lies in the ball, on its edge where x is outside, and is optimal there:
    no other point of the ball is nearer to x."""
    x, _ = layer(50, 9, 1)
    weight = torch.linspace(0.1, 20, 50, dtype=x.dtype)[:, None]
    y = x - prox_largest(x, weight)
    size = y.abs().sum(dim=1, keepdim=True)
    torch.testing.assert_close(size, torch.minimum(weight, x.abs().sum(dim=1, keepdim=True)))
    # <x - y, u - y> <= 0 at every corner u of the ball is what makes y the projection
    corners = torch.cat([torch.eye(9, dtype=x.dtype), -torch.eye(9, dtype=x.dtype)])
    for corner in corners:
        assert float(((x - y) * (weight * corner - y)).sum(dim=1).max()) < 1e-9


def test_largest_weights_shrink_and_the_output_stays_where_inputs_are_dependent() -> None:
    w, gram = rank_deficient(2)
    v = MagR(alpha=1e-2, steps=500).reduce(w, gram)
    change = ((v - w) @ gram * (v - w)).sum() / ((w @ gram) * w).sum()
    assert float((v.abs().amax(dim=1) / w.abs().amax(dim=1)).median()) < 0.7
    assert float(change.sqrt()) < 3e-2


def test_it_minimises_what_it_says() -> None:
    """A + 0-subgradient: at the minimum, |(v - w) A|_1 = a, where a column is not at its clip
    the gradient is zero."""
    w, gram = layer(6, 8, 3)
    method = MagR(alpha=0.02, steps=20000)
    v, A = method.reduce(w, gram), gram / torch.linalg.eigvalsh(gram)[-1]
    slope, a = (v - w) @ A, 0.02 * w.abs().amax(dim=1)
    torch.testing.assert_close(slope.abs().sum(dim=1), a, rtol=1e-4, atol=0)
    inside = v.abs() < v.abs().amax(dim=1, keepdim=True) * (1 - 1e-6)
    assert float((slope.abs() * inside).max() / a.min()) < 1e-3


def test_units_of_weights_and_inputs_do_not_matter() -> None:
    w, gram = rank_deficient(4)
    v = MagR().reduce(w, gram)
    torch.testing.assert_close(MagR().reduce(50 * w, 1e4 * gram), 50 * v)


@pytest.mark.parametrize("then", [RoundToNearest(), GPTQ(), COMQ()], ids=lambda m: type(m).__name__)
def test_it_helps_what_follows_where_inputs_are_dependent(
    then: RoundToNearest | GPTQ | COMQ,
) -> None:
    w, gram = rank_deficient(5)
    alone = errors(w, then.quantize(w, gram, Uniform(2)), gram).sum()
    found = MagR(then=then).quantize(w, gram, Uniform(2))
    assert float(errors(w, found, gram).sum()) < float(alone)


def test_the_refinement_is_towards_the_weight_itself() -> None:
    w, gram = rank_deficient(6)
    rough = MagR(refine=None).quantize(w, gram, Uniform(2))
    fine = MagR().quantize(w, gram, Uniform(2))
    assert bool((errors(w, fine, gram) <= errors(w, rough, gram) * (1 + 1e-9)).all())


def test_dead_layers_and_bound_scales() -> None:
    w, gram = rank_deficient(7)
    nothing = torch.zeros_like(gram)
    assert torch.equal(MagR().reduce(w, nothing), w)
    scale = MagR().quantize(w, gram, Ternary(power_of_two=True)).grid.scale
    assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))


def test_what_cannot_be_is_said() -> None:
    for wrong in ({"alpha": 0.0}, {"steps": 0}, {"shrink": 3.0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            MagR(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="not of 1 axes"):
        MagR().reduce(torch.ones(3), torch.eye(3))
