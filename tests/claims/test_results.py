"""The kept figures of claims: of every claim, of one seed, and as they were expected."""

from __future__ import annotations

import json
from pathlib import Path

from driftwell.claims import all_claims

RESULTS = Path(__file__).parents[2] / "docs" / "claims.jsonl"
RECORDS = {
    record["id"]: record
    for record in map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())
}


def test_every_claim_has_its_figures_and_no_other_does() -> None:
    assert set(RECORDS) == {each.id for each in all_claims()}


def test_the_figures_say_what_is_expected_and_every_control_failed() -> None:
    for each in all_claims():
        record = RECORDS[each.id]
        assert record["outcome"] == each.expected, each.id
        assert record["control_failed"], each.id
        assert record["measured"], each.id


def test_all_figures_are_of_one_seed() -> None:
    assert {record["seed"] for record in RECORDS.values()} == {0}
