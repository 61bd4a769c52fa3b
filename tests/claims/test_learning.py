"""The fast claims on local rules and optimizers hold, and their controls fail."""

from __future__ import annotations

import pytest

from driftwell.claims import find_claims, run_claim

FAST = [
    "hep-exponential",
    "hep-hutchinson",
    "heavy-ball-lyapunov",
    "laplacian-smoothing-variance",
]


@pytest.mark.parametrize("id", FAST)
def test_a_fast_claim_holds_and_its_control_fails(id: str):
    (made,) = find_claims([id])
    record = run_claim(made, seed=3)
    assert made.fast
    assert record["ok"], record
