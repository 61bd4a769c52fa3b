"""The registry of claims: what is refused, what a record says, and what counts as well."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from driftwell.claims import (
    Claim,
    Outcome,
    all_claims,
    claim,
    find_claims,
    registry,
    run_claim,
    run_claims,
)
from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

PAPER = Paper("test2025", "A test", "Tester, A.", 2025, arxiv="2500.00000")


@pytest.fixture(autouse=True)
def _empty_drawer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims made here do not stay."""
    monkeypatch.setattr(registry, "_CLAIMS", dict(registry._CLAIMS))
    return


def holding(seed: int) -> Outcome:
    return Outcome(True, {"seed": float(seed)}, "always", {"curve": ([0.0, 1.0], [1.0, 2.0])})


def failing(seed: int) -> Outcome:
    return Outcome(False, {"seed": -float(seed)}, "never")


def made(id: str = "a-test-claim", expected: str = "reproduced", **parts: object) -> Claim:
    register = claim(
        id=id, paper=PAPER, states="a", stated="b", cpu_minutes=0.1, control=failing,
        control_is="c", expected=expected,
    )  # fmt: skip
    return replace(register(holding), **parts)  # type: ignore[arg-type]


def test_a_claim_is_called_with_a_seed() -> None:
    assert made()(7).measured == {"seed": 7.0}


def test_an_id_is_taken_once() -> None:
    made()
    with pytest.raises(InvalidInput, match="two claims are named 'a-test-claim'"):
        made()


def test_expected_is_one_of_two_words() -> None:
    with pytest.raises(InvalidInput, match="'reproduced' or 'not_reproduced', got 'maybe'"):
        made(expected="maybe")


def test_an_unknown_id_is_one_sentence_that_names_the_nearest() -> None:
    with pytest.raises(InvalidInput) as caught:
        find_claims(["nlm-viral"])
    sentence = str(caught.value)
    assert "no claim 'nlm-viral'" in sentence
    assert "did you mean 'nlm-virial'?" in sentence
    assert "\n" not in sentence


def test_claims_are_found_in_the_order_asked_for() -> None:
    ids = ["nlm-virial", "nlm-denoising"]
    assert [each.id for each in find_claims(ids)] == ids


def test_a_record_holds_claim_and_control_and_is_json() -> None:
    record = json.loads(json.dumps(run_claim(made(), 3), allow_nan=False))
    assert record["outcome"] == "reproduced"
    assert record["measured"] == {"seed": 3.0}
    assert record["control_measured"] == {"seed": -3.0}
    assert record["control_failed"] is True
    assert record["ok"] is True
    assert record["series"] == {"curve": [[0.0, 1.0], [1.0, 2.0]]}
    keys = {"id", "paper", "seed", "outcome", "measured", "stated", "bound", "control_failed"}
    assert keys | {"seconds"} <= record.keys()


def test_a_control_that_passes_is_not_well() -> None:
    record = run_claim(made(control=holding), 0)
    assert record["outcome"] == "reproduced"
    assert not record["control_failed"]
    assert not record["ok"]


def test_a_claim_that_fails_is_well_only_if_that_was_expected() -> None:
    surprised, expected = made("a"), made("b", expected="not_reproduced")
    records = list(run_claims([replace(surprised, run=failing), replace(expected, run=failing)], 0))
    assert [record["outcome"] for record in records] == ["not_reproduced"] * 2
    assert [record["ok"] for record in records] == [False, True]


def test_a_claim_that_holds_against_expectation_is_not_well() -> None:
    assert not run_claim(made(expected="not_reproduced"), 0)["ok"]


@pytest.mark.parametrize("part", ["run", "control"])
def test_an_error_is_recorded_and_not_raised(part: str) -> None:
    def broken(seed: int) -> Outcome:
        raise ZeroDivisionError(f"seed {seed}")

    record = json.loads(json.dumps(run_claim(replace(made(), **{part: broken}), 5)))  # type: ignore[arg-type]
    assert record["outcome"] == "error"
    assert record["error"] == "ZeroDivisionError: seed 5"
    assert "broken" in record["traceback"]
    assert record["control_failed"] is False
    assert record["ok"] is False


def test_numbers_that_are_not_finite_become_null() -> None:
    def strange(seed: int) -> Outcome:
        return Outcome(True, {"nan": math.nan, "inf": math.inf, "one": 1.0}, "")

    record = run_claim(made(run=strange), 0)
    assert record["measured"] == {"nan": None, "inf": None, "one": 1.0}


def test_ids_are_unique_and_sorted() -> None:
    ids = [each.id for each in all_claims()]
    assert ids == sorted(set(ids))
    assert len(ids) >= 12


@pytest.mark.parametrize("each", all_claims(), ids=lambda each: each.id)
def test_every_registered_claim_says_what_it_needs_to(each: Claim) -> None:
    assert each.id == each.id.lower()
    assert isinstance(each.paper, Paper)
    assert each.paper.reference
    assert 0 < each.cpu_minutes <= 15
    assert each.expected in ("reproduced", "not_reproduced")
    for text in (each.states, each.stated, each.control_is):
        assert len(text) > 10
        assert "\n" not in text
    assert each.control is not each.run


def test_each_family_and_the_fast_subset_stay_within_their_budgets() -> None:
    claims = all_claims()
    minutes: dict[str, float] = {}
    for each in claims:
        family = each.run.__module__.split(".")[2]
        minutes[family] = minutes.get(family, 0.0) + each.cpu_minutes
    assert max(minutes.values()) < 30, minutes
    fast = [each for each in claims if each.fast]
    assert len(fast) >= 4
    assert sum(each.cpu_minutes for each in fast) <= 3
