"""The page of claims: verdicts, controls, numbers and curves, from records of `run_claim`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from driftwell.claims.registry import Claim, Outcome, run_claim
from driftwell.core.errors import InvalidInput, MissingExtra, RunFolderError
from driftwell.core.papers import Paper
from driftwell.report import write_claims_page

PAPER = Paper("k2020", "On <rest>", "K, A.", 2020, arxiv="2001.00001")


def record(
    holds: bool = True, control_holds: bool = False, expected: str = "reproduced", **changes: Any
) -> dict[str, Any]:
    """Record of a made-up claim."""
    made = Claim(
        id="made-up", paper=PAPER, states="it rests", stated="0.5", cpu_minutes=0.1,
        run=lambda seed: Outcome(holds, {"x": 0.25, "y": float("nan")}, "x below 1",
                                 {"x against t": ([0.0, 1.0], [1.0, 0.25])}),
        fast=True, expected=expected,
        control=lambda seed: Outcome(control_holds, {"x": 2.5}, "x below 1"),
        control_is="the wrong sign",
    )  # fmt: skip
    return {**run_claim(made, 7), **changes}


def text_of(records: list[dict[str, Any]], folder: Path) -> str:
    return write_claims_page(records, folder / "claims.html").read_text(encoding="utf-8")


def test_a_claim_is_shown_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    text = text_of([record()], tmp_path)
    for words in ("1 of 1 claims came out as expected", "it rests", "x below 1", "the wrong sign",
                  "fails, as it must", "0.25", "2.5", "–", "driftwell claims run made-up",
                  "https://arxiv.org/abs/2001.00001", "On &lt;rest&gt;", "<svg"):  # fmt: skip
        assert words in text
    assert "width: 10.0%" in text  # 0.25 beside 2.5


@pytest.mark.parametrize(
    ("made", "count", "words"),
    [
        ({"holds": False}, 0, "not reproduced"),
        ({"holds": False, "expected": "not_reproduced"}, 1, "not to hold"),
        ({"control_holds": True}, 0, "passes: the bound is empty"),
    ],
)
def test_a_claim_counts_only_if_it_and_its_control_do_as_expected(
    tmp_path: Path, made: dict[str, Any], count: int, words: str
) -> None:
    text = text_of([record(**made)], tmp_path)
    assert f"{count} of 1 claims" in text
    assert words in text


def test_an_error_is_shown_as_one(tmp_path: Path) -> None:
    failed = record(outcome="error", error="ValueError: <x>", measured={}, control_measured={},
                    control_failed=False, series={}, bound="")  # fmt: skip
    text = text_of([failed], tmp_path)
    assert "ValueError: &lt;x&gt;" in text
    assert "not run" in text


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = [record(seconds=1.0)]
    assert text_of(records, tmp_path) == text_of(records, tmp_path)


def test_bad_records_and_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="at least one outcome"):
        write_claims_page([], tmp_path / "claims.html")
    broken = record()
    del broken["measured"]
    with pytest.raises(InvalidInput, match="'made-up' lacks measured"):
        write_claims_page([broken], tmp_path / "claims.html")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_claims_page([record()], tmp_path / "nowhere" / "claims.html")
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_needed_for_curves_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.style", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "made-up" in text_of([record(series={})], tmp_path)
    with pytest.raises(MissingExtra, match=r"driftwell\[plot\]"):
        text_of([record()], tmp_path)
