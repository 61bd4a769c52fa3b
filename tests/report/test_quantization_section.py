"""What a page says of how a run was quantized."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.report.html import Page, requests_of
from tests.training.tiny_runs import open_run, train_tiny

from driftwell.report import write_report
from driftwell.report.quantization import draw_quantization, quantization_section, scores_of
from driftwell.training.checkpoint import latest_checkpoint, save_checkpoint
from driftwell.training.quantization_plan import QuantizationPlan
from driftwell.training.quantized_run import NOTED, quantize_run

pytest.importorskip("matplotlib", reason="figures need the extra plot")
FIGURES = ("layer-errors", "quality-bits", "before-after")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    found = {name: train_tiny(place, name) for name in ("pcd", "deq")}
    plan = QuantizationPlan(bits=4)
    for name in ("pcd", "deq"):
        found[f"small-{name}"] = place / f"small-{name}"
        quantize_run(
            found[name], found[f"small-{name}"], plan, scores=scores_of(plan, lambda line: None)
        )
    return found


def test_the_page_has_the_section_with_figures_and_tables(runs: dict[str, Path]) -> None:
    for name in ("pcd", "deq"):
        page = write_report(runs[f"small-{name}"], samples=30).read_text(encoding="utf-8")
        assert '<h2 id="quantization">' in page
        assert "4 bits a weight in the format uniform" in page
        assert "if rounded" in page
        assert "quality against bits" in page
        for figure in FIGURES[: 3 if name == "pcd" else 2]:
            assert f'<figure id="{figure}">' in page, figure
        assert ('<figure id="before-after">' in page) == (name == "pcd")
        seen = Page(page)
        assert seen.open == []
        assert requests_of(seen) == []
        ids = [values["id"] for _, values in seen.elements if "id" in values]
        assert len(ids) == len(set(ids))


def test_the_page_of_a_float_run_has_none(runs: dict[str, Path]) -> None:
    page = write_report(runs["deq"]).read_text(encoding="utf-8")
    assert "quantization" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    _, run = open_run(runs["deq"])
    assert quantization_section(run) is None
    assert draw_quantization(run) == {}


def test_words_from_a_checkpoint_are_escaped(runs: dict[str, Path]) -> None:
    folder = runs["small-deq"] / "checkpoints"
    found = latest_checkpoint(folder)
    found.meta[NOTED]["skipped"] = {"<script>alert(1)</script>": "a < b & c"}
    save_checkpoint(folder, found.update, found.tensors, found.meta)
    page = write_report(runs["small-deq"]).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a &lt; b &amp; c" in page
