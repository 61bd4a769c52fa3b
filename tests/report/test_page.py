"""The report: self-contained, whole, the same for the same run, and honest in words."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report.html import Page, requests_of

from driftwell.core.errors import MissingExtra, RunFolderError
from driftwell.report import Measurements, write_report
from driftwell.report.figures import against_floors
from driftwell.report.page import render
from driftwell.report.readings import readings
from driftwell.report.rounding import measured
from driftwell.report.style import to_svg
from driftwell.training.run import Run

FIGURES = ("samples", "comparison", "nearest", "walk", "traces", "neuron", "spectrum", "training")


def test_the_page_asks_for_nothing_outside_itself(page: str) -> None:
    assert requests_of(Page(page)) == []
    assert "<script" not in page
    assert "@import" not in page
    links = re.findall(r"https?://[^\s\"'<>)]+", page)
    assert set(links) == {"https://arxiv.org/abs/2506.23546"}


def test_its_elements_nest_and_its_ids_are_unique(page: str) -> None:
    seen = Page(page)
    assert seen.open == []
    ids = [values["id"] for _, values in seen.elements if "id" in values]
    assert len(ids) == len(set(ids))
    inner = {str(v["href"])[1:] for _, v in seen.elements if str(v.get("href", "")).startswith("#")}
    assert inner <= set(ids)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_there_with_caption_and_description(page: str, name: str) -> None:
    figure = re.search(rf'<figure id="{name}">(.*?)</figure>', page, re.DOTALL)
    assert figure
    pictures, marks = (
        len(re.findall(rf"<(?:{tags}) ", figure[1])) for tags in ("image", "path|use")
    )
    assert pictures >= 2 if name == "samples" else marks > 20
    assert re.search(r'<svg role="img" aria-label="[^"]{20,}"', figure[1])
    assert len(re.search(r"<figcaption>(.*?)</figcaption>", figure[1], re.DOTALL)[1]) > 60


def test_figures_are_written_as_files_too(page: str, trained_folder: Path) -> None:
    for name in FIGURES:
        text = (trained_folder / "figures" / f"{name}.svg").read_text()
        assert text.startswith("<?xml")
        assert "var(--" not in text  # a file has no page to take its colours from


def test_the_same_run_and_seed_give_the_same_bytes_and_nothing_is_printed(
    page: str, trained_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert write_report(trained_folder, samples=60, seed=3).read_text(encoding="utf-8") == page
    assert capfd.readouterr() == ("", "")


def test_numbers_settings_and_commands_are_on_the_page(page: str, found: Measurements) -> None:
    row = found.two_sample["generated"]
    assert measured(row["aai"], row["aai_error"]) in page
    assert measured(found.likelihood.value, found.likelihood.standard_error) in page
    for word in ("langevin_steps", "sample_steps", "driftwell train nlm", "--json", "Split R-hat",
                 "real (floor)", "Gaussian", "torch"):  # fmt: skip
        assert word in page
    assert "NaN" not in re.sub(r"data:[^\"]*", "", page)
    assert not re.search(r"\bnan\b", re.sub(r"data:[^\"]*", "", page))


def test_both_colour_schemes_define_every_colour_the_figures_use(page: str) -> None:
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    light, _, dark = page.partition("@media (prefers-color-scheme: dark) { :root { --fig")
    for name in used:
        assert f"{name}:" in light
        if name.startswith("--fig"):
            assert f"{name}:" in f"--fig{dark}"


def test_what_a_user_wrote_is_escaped(run: Run, found: Measurements) -> None:
    meta = {**run.meta, "warnings": ["<b>late</b>"], "data": {**run.meta["data"], "name": "<i>"}}
    text = render(replace(run, meta=meta, warning="a & b"), found, {})
    assert "&lt;b&gt;late&lt;/b&gt;" in text
    assert "<b>late" not in text
    assert "a &amp; b" in text
    assert "on &lt;i&gt;" in text


def test_a_run_on_all_data_says_that_held_out_images_were_trained_on(
    run: Run, found: Measurements
) -> None:
    assert "were trained on too" in render(run, replace(found, overlap=True), {})
    assert "were trained on too" not in render(run, found, {})


def test_drawing_leaves_the_settings_of_matplotlib_alone(found: Measurements) -> None:
    import matplotlib

    before, loaded = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    to_svg(against_floors(found.two_sample))
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_without_matplotlib_one_sentence_names_the_extra(
    trained_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"matplotlib is needed .* 'driftwell\[plot\]'"):
        write_report(trained_folder, samples=4)


def test_a_folder_without_a_run_or_a_checkpoint_is_one_sentence(
    trained_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        write_report(tmp_path / "nothing")
    (tmp_path / "config.toml").write_bytes((trained_folder / "config.toml").read_bytes())
    with pytest.raises(RunFolderError, match="no checkpoint yet"):
        write_report(tmp_path)


Change = Callable[[Measurements], Measurements]


def in_row(**changes: float) -> Change:
    def change(found: Measurements) -> Measurements:
        row = {**found.two_sample["generated"], **changes}
        return replace(found, two_sample={**found.two_sample, "generated": row})

    return change


def in_diagnostics(**changes: float) -> Change:
    return lambda found: replace(found, diagnostics={**found.diagnostics, **changes})


@pytest.mark.parametrize(
    ("change", "subject", "tone", "words"),
    [
        (in_row(copied=0.5, copied_error=0.01), "Memory", "bad", "are being copied"),
        (in_row(copied=0.01, copied_error=0.01, nearest_ratio=1.0), "Memory", "good", "no sign"),
        (in_row(aai=0.25, aai_error=0.0, accuracy_real=1.0, accuracy_generated=1.0),
         "Resemblance", "bad", "can be told apart"),
        (in_row(aai=0.0, aai_error=0.001), "Resemblance", "good", "cannot tell"),
        (in_row(aai=0.25, e2=9.0, energy_distance=9.0), "Baseline", "bad", "beaten in nothing"),
        (in_row(aai=-1.0, e2=-1.0, energy_distance=-1.0), "Baseline", "good", "beaten in AAI, E2"),
        (in_diagnostics(virial=1.2, virial_error=0.01), "Equilibrium", "bad", "instead of 1"),
        (in_diagnostics(virial=1.005, virial_error=0.002), "Equilibrium", "good", "holds"),
        (in_diagnostics(rhat=2.0), "Mixing", "neutral", "do not visit everything"),
        (in_diagnostics(rhat=1.01), "Mixing", "good", "agree"),
    ],
)  # fmt: skip
def test_readings_follow_the_numbers(
    found: Measurements, change: Change, subject: str, tone: str, words: str
) -> None:
    said = {reading.subject: reading for reading in readings(change(found))}
    assert said[subject].tone == tone
    assert words in said[subject].sentence


def test_a_likelihood_that_rests_on_few_chains_is_not_to_be_trusted(found: Measurements) -> None:
    weak = replace(found, likelihood=replace(found.likelihood, effective_chains=3.0))
    said = {reading.subject: reading.sentence for reading in readings(weak)}
    assert "trust neither" in said["Likelihood"]
    assert "Likelihood" not in {r.subject for r in readings(replace(found, likelihood=None))}
