"""Status codes and their sentences."""

from __future__ import annotations

import pytest

from driftwell.core.status import Status


def test_codes_are_stable():
    """They are stored in files: a code never changes its meaning."""
    assert {status.name: int(status) for status in Status} == {
        "CONVERGED": 0,
        "COMPLETED": 1,
        "BUDGET_REACHED": 2,
        "DIVERGED": 3,
        "STEP_UNDERFLOW": 4,
    }


@pytest.mark.parametrize("status", list(Status))
def test_every_code_has_its_sentence_and_verdict(status):
    assert status.sentence
    assert status.good == (status in (Status.CONVERGED, Status.COMPLETED))
    assert -128 <= int(status) < 128


def test_sentences_differ():
    assert len({status.sentence for status in Status}) == len(Status)
