"""Generated self-exciting counts: their law, their rhythm, their keys."""

from __future__ import annotations

import math

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.data.event_counts import event_counts


def test_counts_are_poisson_at_their_rate() -> None:
    """Given the past, mean and variance of (X - rate) / sqrt(rate) are 0 and 1."""
    made = event_counts(1000, seed=0, side=8)
    rate = made.rate.double()
    score = (made.counts - rate) / rate.sqrt()
    n = score.numel()
    assert abs(float(score.mean())) < 4 / math.sqrt(n)
    # var of score^2 is 2 + 1/rate
    spread = math.sqrt(float((2 + 1 / rate).mean()) / n)
    assert abs(float(score.square().mean()) - 1) < 4 * spread
    zeros = (made.counts == 0).double() - torch.exp(-rate)
    assert abs(float(zeros.mean())) < 4 * 0.5 / math.sqrt(n)


def test_an_event_raises_the_rate_near_it_and_nowhere_else() -> None:
    made = event_counts(3, seed=1, side=9, memory=2.0, branching=0.4)
    still = event_counts(3, seed=1, side=9, memory=2.0, branching=0.0)
    decay = math.exp(-1 / 2)
    before = made.rate[0].double()
    background = still.rate[0].double() * 0.6  # (1 - branching) mean bumps, at the same hour
    excited = before - background
    x = made.counts[0].double()
    kernel = torch.full((1, 1, 3, 3), 0.5 / 8, dtype=torch.float64)
    kernel[0, 0, 1, 1] = 0.5
    spread = torch.nn.functional.conv2d(x[None, None], kernel, padding=1)[0, 0]
    expected = still.rate[1] * 0.6 + decay * excited + 0.4 * (1 - decay) * spread
    torch.testing.assert_close(made.rate[1].double(), expected.double(), rtol=1e-5, atol=1e-6)


def test_evenings_and_weekends_are_busier() -> None:
    """The background alone: its rate is a rhythm times a map."""
    rate = event_counts(336, seed=0, side=4, branching=0.0).rate.sum((1, 2))
    assert torch.allclose(rate[:168], rate[168:])
    assert float(rate[19]) == pytest.approx(9 * float(rate[7]), rel=1e-4)
    assert float(rate[5 * 24 + 3]) == pytest.approx(1.6 * float(rate[3]), rel=1e-4)
    assert float(rate[:168].mean()) == pytest.approx(0.5 * 16, rel=1e-4)


def test_an_hour_does_not_depend_on_how_many_are_made() -> None:
    short, long = (event_counts(n, seed=3, side=5) for n in (40, 90))
    assert torch.equal(short.counts, long.counts[:40])
    assert not torch.equal(short.counts, event_counts(40, seed=4, side=5).counts)


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidInput, match="branching"):
        event_counts(5, 0, branching=1.0)
