"""What the claims on wide equilibrium networks measure with, and a quick claim run whole."""

from __future__ import annotations

import torch

from driftwell.claims import find_claims, run_claim
from driftwell.claims.equilibrium.consistency import _inputs, _teacher
from driftwell.claims.equilibrium.implicit_kernels import _norm, _slope
from driftwell.claims.equilibrium.overparameterized import _Descent
from driftwell.fixed_points import Picard, fixed_point


def test_the_teacher_needs_as_many_picard_calls_as_the_card_asks_for() -> None:
    """40 to 60 on average over inputs, to the verb's own tolerance."""
    for seed in (0, 1, 2):
        f, x = _teacher(seed), _inputs(seed)[1]
        solved = fixed_point(f, torch.zeros(len(x), 64), x, solver=Picard(), max_steps=300)
        assert 40 <= solved.steps.float().mean() <= 60


def test_a_power_law_has_its_exponent_as_slope() -> None:
    assert abs(_slope((100, 200, 400), [1.0, 2**-0.6, 4**-0.6]) + 0.6) < 1e-12
    assert _norm(torch.diag(torch.tensor([1.0, -3.0]))) == 3.0


def test_a_geometric_descent_is_straight_and_within_its_guarantee() -> None:
    descent = _Descent([0.9**t for t in range(100)], movement=0.1, norm=0.8, shrink=0.95)
    assert descent.straightness > 1 - 1e-9
    assert descent.within_guarantee
    assert not _Descent(descent.losses, 0.1, 0.8, shrink=0.85).within_guarantee
    bent = _Descent([1 / (1 + t) ** 3 for t in range(100)], 0.1, 0.8, 0.95)
    assert bent.straightness < 0.98


def test_a_claim_of_the_family_runs_and_its_control_fails() -> None:
    record = run_claim(find_claims(["deq-explicit-match"])[0], seed=0)
    assert record["ok"], record
