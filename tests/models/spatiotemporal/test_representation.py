"""Totals of the day and their inverse; stacks of past maps that know no future."""

from __future__ import annotations

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.models.spatiotemporal import PastMaps, counts_from_day_totals, day_totals


def counts(hours: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 9, (hours, 3, 3), generator=draw)


@pytest.mark.parametrize("hours", [1, 23, 24, 25, 100])
def test_the_inverse_is_exact(hours: int) -> None:
    x = counts(hours)
    assert torch.equal(counts_from_day_totals(day_totals(x)), x)
    assert torch.equal(counts_from_day_totals(day_totals(x.float())), x.float())


def test_totals_are_sums_since_midnight() -> None:
    x = counts(60)
    y = day_totals(x)
    for t in range(60):
        assert torch.equal(y[t], x[t - t % 24 : t + 1].sum(0))


def test_nothing_crosses_midnight_or_comes_from_the_future() -> None:
    x = counts(72)
    for t in (23, 24, 30, 47):
        changed = x.clone()
        changed[t] += 100
        moved = (day_totals(changed) != day_totals(x)).flatten(1).any(1).nonzero().flatten()
        end = (t // 24 + 1) * 24
        assert moved.tolist() == list(range(t, end))


def test_a_forecast_sees_the_named_hours_and_no_others() -> None:
    past = PastMaps(near=3, daily=2, weekly=1)
    maps = torch.arange(400.0)[:, None, None].expand(400, 2, 2)
    near, daily, weekly = past(maps, torch.tensor([168, 300]))
    assert near[:, :, 0, 0].tolist() == [[167, 166, 165], [299, 298, 297]]
    assert daily[:, :, 0, 0].tolist() == [[144, 120], [276, 252]]
    assert weekly[:, :, 0, 0].tolist() == [[0], [132]]


def test_a_forecast_does_not_see_its_own_hour_or_later() -> None:
    past = PastMaps()
    maps = torch.zeros(200, 2, 2)
    maps[180:] = 7.0
    assert all(float(stack.abs().max()) == 0 for stack in past(maps, torch.tensor([180])))
    assert float(past(maps, torch.tensor([181]))[0].abs().max()) == 7.0


def test_the_first_unknown_hour_can_be_forecast_and_no_later_one() -> None:
    past, maps = PastMaps(), torch.zeros(200, 2, 2)
    past(maps, torch.tensor([200]))
    for bad in (201, 167):
        with pytest.raises(InvalidInput, match=r"168 \.\. 200"):
            past(maps, torch.tensor([bad]))


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        PastMaps(near=0)
    with pytest.raises(InvalidInput, match="one hour"):
        day_totals(counts(3), day=0)
    with pytest.raises(InvalidInput, match="time axis"):
        counts_from_day_totals(torch.zeros(0, 2))
