"""The table that report and benchmarks share."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.measures import format_two_sample_table, two_sample_table


def cloud(n: int, *, step: int) -> Tensor:
    """A ring, so that a Gaussian is a poor model of it."""
    x = normal((n, 3), seed=6, purpose=Purpose.USER, chains=n, step=step)
    return 0.5 * x / x.norm(dim=1, keepdim=True) + 0.02 * x


TRAIN, HELD_OUT = cloud(600, step=0), cloud(300, step=1)


def test_other_real_samples_pass_and_a_gaussian_does_not() -> None:
    table = two_sample_table(TRAIN, HELD_OUT, cloud(300, step=2), seed=0)
    assert table["size"] == 300
    for row in ("generated", "real"):
        assert abs(table[row]["accuracy_real"] - 0.5) < 4 * table[row]["accuracy_real_error"]
        assert table[row]["aai"] < 0.02
        assert table[row]["nearest_ratio"] == pytest.approx(1.0, abs=0.15)
    assert table["gaussian"]["aai"] > 5 * table["real"]["aai"]
    assert table["gaussian"]["nearest_ratio"] > 1.5
    assert table["real"]["nearest_ratio"] == 1.0
    assert table["real"]["copied"] == pytest.approx(0.01, abs=0.004)


def test_copies_of_the_training_set_are_caught() -> None:
    table = two_sample_table(TRAIN, HELD_OUT, TRAIN[:300], seed=0)
    assert table["generated"]["copied"] == 1.0
    assert table["generated"]["nearest_ratio"] == 0.0


def test_the_table_is_plain_repeatable_and_seeded() -> None:
    generated = cloud(300, step=2)
    table = two_sample_table(TRAIN, HELD_OUT, generated, seed=0)
    assert json.loads(json.dumps(table)) == table
    assert two_sample_table(TRAIN, HELD_OUT, generated, seed=0) == table
    assert two_sample_table(TRAIN, HELD_OUT, generated, seed=1)["gaussian"] != table["gaussian"]
    assert set(table["generated"]) == set(table["gaussian"]) == set(table["real"])


def test_the_text_has_a_line_for_each_row() -> None:
    table = two_sample_table(TRAIN, HELD_OUT[:50], cloud(80, step=2), seed=0)
    lines = format_two_sample_table(table).splitlines()
    assert [line.split()[0] for line in lines] == ["n", "generated", "gaussian", "real"]
    assert lines[0].split()[2] == "50"
    assert len({len(line) for line in lines}) == 1
    assert f"{table['generated']['aai']:.4f} (" in lines[1]


def test_too_few_samples_get_one_sentence() -> None:
    with pytest.raises(InvalidInput, match="not 600 for training, 1 held out and 5 generated"):
        two_sample_table(TRAIN, HELD_OUT[:1], TRAIN[:5], seed=0)


def test_inputs_are_left_as_they_were() -> None:
    before = TRAIN.clone(), HELD_OUT.clone()
    two_sample_table(TRAIN, HELD_OUT, cloud(50, step=2), seed=0)
    assert torch.equal(TRAIN, before[0])
    assert torch.equal(HELD_OUT, before[1])
