"""Pages of equilibrium models: self-contained, whole, the same for the same run, and honest."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.report.html import Page, requests_of
from tests.training.ring import save_ring

from driftwell.report import write_report
from driftwell.report.deq import readings as deq_readings
from driftwell.report.deq_measurements import DEQMeasurements
from driftwell.report.lpn_measurements import ProximalMeasurements
from driftwell.report.reporter import Request, find_reporter
from driftwell.training.config import DataConfig, RunConfig
from driftwell.training.kinds import KINDS, find_kind
from driftwell.training.run import train_run
from driftwell.training.run_folder import RunFolder

SETTINGS: dict[str, dict[str, Any]] = {
    "deq": {"width": 12, "batch": 32, "updates": 40},
    "lpn": {"hidden": 16, "depth": 2, "batch": 32, "updates": 60, "learning_rate": 1e-2},
    "ignn": {"width": 4, "updates": 30, "kappa": 0.8},
}
FIGURES = {
    "deq": ("settling", "residuals", "spectrum", "confusion", "wells", "examples", "training"),
    "lpn": ("pictures", "quality", "prior", "iterates", "training"),
    "ignn": ("states", "residuals", "reach", "confusion", "training"),
}
ARXIV = {"deq": "1909.01377", "lpn": "2310.14344", "ignn": "2009.06211"}


@pytest.fixture(scope="module")
def runs(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small run of each kind; images as in the Langevin machine's."""
    place, found = tmp_path_factory.mktemp("models"), {}
    sources = dict.fromkeys(("deq", "lpn"), trained_folder.parent / "bars.npz")
    sources["ignn"] = save_ring(place / "ring.npz")
    for name, settings in SETTINGS.items():
        recipe = replace(find_kind(name).preset("default"), **settings)
        config = RunConfig(DataConfig(str(sources[name])), recipe=recipe, model=name)
        found[name] = train_run(config, place / name).path
    return found


@pytest.fixture(scope="module")
def pages(runs: dict[str, Path]) -> dict[str, str]:
    pytest.importorskip("matplotlib", reason="figures need the extra plot")
    return {name: write_report(path).read_text(encoding="utf-8") for name, path in runs.items()}


def measured(path: Path, request: Request = Request()) -> Any:
    config = RunFolder.open(path).config
    return find_reporter(config.model).measure(config.kind.load(path), request)


each_kind = pytest.mark.parametrize("name", SETTINGS)


def test_every_kind_has_its_reporter() -> None:
    for name in KINDS:
        assert find_reporter(name)


@each_kind
def test_a_page_asks_for_nothing_outside_itself_and_nests(pages: dict[str, str], name: str) -> None:
    seen = Page(pages[name])
    assert requests_of(seen) == []
    assert seen.open == []
    assert "<script" not in pages[name]
    links = re.findall(r"https?://[^\s\"'<>)]+", pages[name])
    assert f"https://arxiv.org/abs/{ARXIV[name]}" in links
    assert all(link.startswith("https://arxiv.org/abs/") for link in links)
    ids = [values["id"] for _, values in seen.elements if "id" in values]
    assert len(ids) == len(set(ids))
    inner = {str(v["href"])[1:] for _, v in seen.elements if str(v.get("href", "")).startswith("#")}
    assert inner <= set(ids)


@each_kind
def test_every_figure_is_there_and_a_file_too(
    pages: dict[str, str], runs: dict[str, Path], name: str
) -> None:
    for figure in FIGURES[name]:
        found = re.search(rf'<figure id="{figure}">(.*?)</figure>', pages[name], re.DOTALL)
        assert found, figure
        assert re.search(r'<svg role="img" aria-label="[^"]{20,}"', found[1])
        assert len(re.search(r"<figcaption>(.*?)</figcaption>", found[1], re.DOTALL)[1]) > 40
        file = (runs[name] / "figures" / f"{figure}.svg").read_text()
        assert file.startswith("<?xml")
        assert "var(--" not in file


@each_kind
def test_the_same_run_gives_the_same_page(
    pages: dict[str, str], runs: dict[str, Path], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert write_report(runs[name]).read_text(encoding="utf-8") == pages[name]
    assert capfd.readouterr() == ("", "")


@each_kind
def test_numbers_settings_and_commands_are_on_the_page(pages: dict[str, str], name: str) -> None:
    words = re.sub(r"data:[^\"]*", "", pages[name])
    for word in (f"driftwell train {name}", "--json", "learning_rate", "torch", "What the numbers"):
        assert word in words
    assert not re.search(r"\b[Nn]a[Nn]\b", words)


@each_kind
def test_colours_follow_the_colour_scheme(pages: dict[str, str], name: str) -> None:
    light, _, dark = pages[name].partition("@media (prefers-color-scheme: dark) { :root { --fig")
    for colour in set(re.findall(r"var\((--fig[\w-]+)\)", pages[name])):
        assert f"{colour}:" in light
        assert f"{colour}:" in f"--fig{dark}"


@each_kind
def test_numbers_are_plain_and_their_tables_fit_a_terminal(
    runs: dict[str, Path], name: str
) -> None:
    found = measured(runs[name])
    numbers = json.loads(json.dumps(found.to_json(), allow_nan=False))
    reporter = find_reporter(name)
    assert reporter.headline(numbers)
    for table in reporter.tables(numbers):
        first = max(len(row[0]) for row in table.rows)
        assert all(first + 2 + max(map(len, row[1:])) <= 80 for row in table.rows)


def test_the_numbers_of_a_classifier_agree_with_each_other(runs: dict[str, Path]) -> None:
    found: DEQMeasurements = measured(runs["deq"])
    counts = found.confusion()
    assert int(counts.sum()) == len(found.labels) == 50
    assert int(counts.diagonal().sum()) / 50 == pytest.approx(found.accuracy[0])
    assert bool((found.residual[found.converged] <= found.tol * 1.001).all())
    assert float(found.radius.max()) <= float(found.bound or 1) + 1e-6
    # the iteration forgets its start at the rate of the linearisation at rest
    rests = found.radius > 0.05
    assert torch.allclose(found.exponents[rests], found.radius[rests].log(), atol=0.05)
    plain = found.traces[-1]
    assert plain.solver == "Picard"
    some: DEQMeasurements = measured(runs["deq"], Request(samples=20, seed=1))
    assert len(some.labels) == 20


def test_the_readings_of_a_classifier_follow_its_numbers(runs: dict[str, Path]) -> None:
    found: DEQMeasurements = measured(runs["deq"])

    def said(changed: DEQMeasurements) -> dict[str, tuple[str, str]]:
        return {r.subject: (r.tone, r.sentence) for r in deq_readings(changed)}

    assert said(found)["Convergence"][0] == "good"
    failed = replace(found, converged=torch.zeros_like(found.converged))
    assert said(failed)["Convergence"][0] == "bad"
    assert "50 of 50 solves did not reach" in said(failed)["Convergence"][1]
    wild = replace(found, eigenvalues=1.2 * torch.ones_like(found.eigenvalues))
    assert said(wild)["Stability"][0] == "bad"
    wrong = replace(found, labels=1 - found.predicted)
    assert said(wrong)["Accuracy"][0] == "bad"


def test_the_numbers_of_a_denoiser_agree_with_each_other(runs: dict[str, Path]) -> None:
    found: ProximalMeasurements = measured(runs["lpn"])
    assert found.monotone >= 0
    noisy = found.psnr("noisy")[0]
    assert noisy == pytest.approx(-20 * torch.tensor(found.sigma).log10().item(), abs=0.5)
    assert found.psnr("linear")[0] > noisy, "the best linear estimate helps"
    assert torch.equal(found.iterates[0], found.noisy[:8])
    assert torch.allclose(found.iterates[1], found.denoised[:8], atol=1e-5)


def test_a_node_is_heard_less_the_farther_it_is(runs: dict[str, Path]) -> None:
    found = measured(runs["ignn"])
    assert found.response[0] == pytest.approx(1.0)
    assert len(found.response) == 11, "a ring of 20 nodes: 10 edges at most"
    near, far = found.response[1:4], found.response[7:10]
    assert all(1.0 > a > 10 * b > 0.0 for a, b in zip(near, far, strict=True))
    assert found.row_sum <= found.kappa + 1e-6
    assert found.exponent == pytest.approx(torch.tensor(found.radius).log().item(), abs=0.05)


@pytest.mark.parametrize("name", ["deq", "lpn"])
def test_a_run_on_all_data_says_so(runs: dict[str, Path], name: str) -> None:
    config = RunFolder.open(runs[name]).config
    run, reporter = config.kind.load(runs[name]), find_reporter(name)
    found = measured(runs[name])
    assert "were trained on too" in reporter.render(run, replace(found, overlap=True), {})
    assert "were trained on too" not in reporter.render(run, found, {})
