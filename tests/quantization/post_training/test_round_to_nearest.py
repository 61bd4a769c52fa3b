"""RoundToNearest: nearest levels, and ranges searched row by row."""

from __future__ import annotations

import pytest
import torch
from tests.quantization.post_training.layers import errors, layer

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Format, NormalFloat, Ternary, Uniform
from driftwell.quantization.post_training import RoundToNearest, output_error, row_errors

FORMATS: tuple[Format, ...] = (
    Uniform(2),
    Uniform(3, symmetric=True),
    Uniform(2, per="tensor"),
    Uniform(2, per="group", group_size=4),
    NormalFloat(3, per="channel", group_size=None),
)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_without_a_clip_it_is_the_formats_own_rounding(format: Format) -> None:
    w, gram = layer(5, 12, 0)
    found = RoundToNearest().quantize(w, gram, format)
    assert torch.equal(found.decode(), format.fake(w))


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_search_on_the_output_finds_each_rows_best_factor(format: Format) -> None:
    w, gram = layer(5, 12, 1)
    method = RoundToNearest("output")
    found = errors(w, method.quantize(w, gram, format), gram)
    grid = format.fit(w)
    tried = [errors(w, format.encode(w, grid.shrunk(f)), gram) for f in method.factors]
    if grid.scale.shape[0] == 1:  # one range for all rows
        best = torch.stack(tried).sum(dim=1).min()
        torch.testing.assert_close(found.sum(), best)
    else:
        torch.testing.assert_close(found, torch.stack(tried).amin(dim=0))


def test_the_search_on_the_weight_finds_each_groups_best_factor() -> None:
    w, gram = layer(5, 12, 2)
    format, method = Uniform(2, per="group", group_size=4), RoundToNearest("weight")
    found = method.quantize(w, gram, format).decode()
    tried = [w - format.fake(w, format.fit(w).shrunk(f)) for f in method.factors]
    best = torch.stack([e.square().reshape(5, 3, 4).sum(dim=2) for e in tried]).amin(dim=0)
    torch.testing.assert_close((w - found).square().reshape(5, 3, 4).sum(dim=2), best)


def test_a_longer_search_never_loses() -> None:
    w, gram = layer(20, 12, 3)
    errors_ = [
        output_error(w, RoundToNearest(clip).quantize(w, gram, Uniform(2)).decode(), gram)
        for clip in ("none", "output")
    ]
    assert errors_[1] < 0.8 * errors_[0]


def test_scales_that_are_powers_of_two_stay_so() -> None:
    w, gram = layer(6, 8, 4)
    scale = RoundToNearest("output").quantize(w, gram, Ternary(power_of_two=True)).grid.scale
    assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))


def test_what_cannot_be_is_said() -> None:
    w, gram = layer(3, 4, 5)
    with pytest.raises(InvalidInput, match="clip is"):
        RoundToNearest("row")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="positive"):
        RoundToNearest("output", factors=(1.0, 0.0))
    with pytest.raises(InvalidInput, match=r"\(4, 4\), not \(3, 3\)"):
        RoundToNearest().quantize(w, torch.eye(3), Uniform(2))
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        RoundToNearest().quantize(w, gram * float("nan"), Uniform(2))
    with pytest.raises(InvalidInput, match="symmetric"):
        RoundToNearest().quantize(w, gram.triu() + gram.mean(), Uniform(2))
    with pytest.raises(InvalidInput, match="NaN or infinite"):
        RoundToNearest().quantize(w / 0.0, gram, Uniform(2))
    with pytest.raises(InvalidInput, match="differ"):
        row_errors(w, w[:2], gram)
