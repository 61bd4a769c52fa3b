"""Keeping the best iterate, counting visits, averaging the tail."""

from __future__ import annotations

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.quantization.training_aware.recurrence import (
    BestIterate,
    TailAverage,
    VisitCounter,
)


def test_the_best_of_an_orbit_is_kept_with_its_weights() -> None:
    keeper = BestIterate()
    best = keeper.init()
    w = torch.zeros(2)
    for step, loss in enumerate([0.5, 0.1, 0.7, 0.3]):
        w.fill_(loss)  # in place: what is kept must be a copy
        best = keeper.step(best, step, loss, {"w": w})
    assert (best.step, best.score) == (1, 0.1)
    assert best.weights["w"].tolist() == pytest.approx([0.1, 0.1])


def test_an_accuracy_is_best_when_high() -> None:
    keeper = BestIterate(lower_is_better=False)
    best = keeper.init()
    for step, score in enumerate([0.5, 0.9, 0.7]):
        best = keeper.step(best, step, score, {})
    assert (best.step, best.score) == (1, 0.9)


def test_a_nan_never_wins_not_even_first() -> None:
    keeper = BestIterate()
    best = keeper.step(keeper.init(), 0, float("nan"), {})
    assert best.step == -1
    assert keeper.step(best, 1, 3.0, {}).step == 1


def test_what_is_kept_has_no_graph() -> None:
    w = torch.ones(1, requires_grad=True)
    keeper = BestIterate()
    assert not keeper.step(keeper.init(), 0, 1.0, {"w": w}).weights["w"].requires_grad


def test_visits_of_two_runs_are_counted_by_hand() -> None:
    target = torch.tensor([1.0, -1.0])
    there, away = target, -target
    counter = VisitCounter()
    visits = counter.init(2)
    for first, second in [(there, away), (there, away), (away, there), (there, away)]:
        visits = counter.step(visits, torch.stack([first, second]), target)
    assert visits.steps == 4
    assert visits.at_target.tolist() == [3, 1]
    assert visits.arrivals.tolist() == [2, 1]
    assert visits.departures.tolist() == [1, 1]
    assert visits.returns.tolist() == [1, 0]
    assert visits.inside.tolist() == [True, False]
    assert visits.first.tolist() == [0, 2]


def test_arrivals_and_departures_of_any_orbit_balance() -> None:
    orbit = torch.randint(0, 2, (200, 7), generator=torch.Generator().manual_seed(0))
    counter = VisitCounter()
    visits = counter.init(7)
    for row in orbit:
        visits = counter.step(visits, row[:, None].float(), torch.ones(1))
    assert torch.equal(visits.at_target, orbit.sum(0))
    assert torch.equal(visits.arrivals - visits.departures, visits.inside.long())


def test_each_run_may_have_its_own_target_and_tolerance_widens_it() -> None:
    weights = torch.tensor([[1.0], [2.0]])
    counter = VisitCounter(tolerance=0.1)
    visits = counter.step(counter.init(2), weights, torch.tensor([[1.05], [3.0]]))
    assert visits.inside.tolist() == [True, False]


def test_a_nan_is_nowhere() -> None:
    counter = VisitCounter()
    visits = counter.step(counter.init(1), torch.tensor([[float("nan")]]), torch.zeros(1))
    assert not visits.inside.item()


def test_the_tail_is_the_mean_of_the_last_weights() -> None:
    weights = torch.arange(12.0, dtype=torch.float64).view(6, 2)
    tail = TailAverage(start=2)
    carry = tail.init(weights[0])
    for step, w in enumerate(weights):
        carry = tail.step(carry, step, w)
    torch.testing.assert_close(tail.mean(carry), weights[2:].mean(0))


def test_what_does_not_fit_is_refused() -> None:
    counter = VisitCounter()
    with pytest.raises(InvalidInput, match="runs"):
        counter.step(counter.init(2), torch.zeros(3, 1), torch.zeros(1))
    with pytest.raises(InvalidInput, match="target"):
        counter.step(counter.init(2), torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(InvalidInput, match="negative"):
        VisitCounter(tolerance=-1.0)
    with pytest.raises(InvalidInput, match="negative"):
        TailAverage(start=-1)
    with pytest.raises(InvalidInput, match="train longer"):
        TailAverage(start=3).mean((0, torch.zeros(1)))
