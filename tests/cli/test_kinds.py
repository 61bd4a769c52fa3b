"""The commands on kinds of runs beside the Langevin machine."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.training.ring import save_ring

from driftwell.cli.main import main
from driftwell.training.kinds import find_kind

CommandLine = Callable[..., Any]
Said = Callable[..., tuple[int, str]]
UPDATES = 40
SETTINGS = {
    "deq": {"width": 8, "batch": 10},
    "lpn": {"hidden": 8, "depth": 2, "batch": 10},
    "ignn": {"width": 4, "kappa": 0.8},
}


def options(kind: str, source: Path, updates: int = UPDATES) -> list[str]:
    changes = [word for k, v in SETTINGS[kind].items() for word in ("--set", f"{k}={v}")]
    return ["--data", str(source), *changes, "--updates", str(updates), "--quiet"]


@pytest.fixture(scope="module")
def sources(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    ring = save_ring(tmp_path_factory.mktemp("graph") / "ring.npz")
    return {"deq": stripes, "lpn": stripes, "ignn": ring}


@pytest.fixture(scope="module")
def runs(
    driftwell: CommandLine, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    found = {}
    for kind, source in sources.items():
        found[kind] = tmp_path_factory.mktemp("runs") / kind
        words = [*options(kind, source), "--checkpoint-every", 4, "--out", found[kind]]
        ended = driftwell("train", kind, *words)
        assert ended.status == 0, ended.said
        assert ended.said == ""
    return found


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command here and returns its status and its one line of error."""

    def run(*arguments: object) -> tuple[int, str]:
        status = main([str(a) for a in arguments])
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("driftwell: error: ")]
        assert status == 0 or len(errors) == 1, lines
        return status, errors[0].removeprefix("driftwell: error: ") if errors else ""

    return run


def final(run: Path, update: int = UPDATES) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"update-{update:010d}.safetensors")


def assert_same_run(a: Path, b: Path) -> None:
    first, second = final(a), final(b)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    for file in ("metrics.jsonl", "config.toml"):
        assert (a / file).read_bytes() == (b / file).read_bytes()


each_kind = pytest.mark.parametrize("kind", SETTINGS)


@each_kind
def test_a_run_is_measured_and_reported(
    kind: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs[kind]
    assert main(["measure", str(run), "--json", "--quiet"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((run / "measures.json").read_text())
    assert printed["update"] == UPDATES
    assert main(["measure", str(run), "--quiet"]) == 0
    table = capsys.readouterr().out
    assert ("dB" if kind == "lpn" else "accuracy") in table
    assert max(len(line) for line in table.splitlines()[1:]) <= 80
    pytest.importorskip("matplotlib", reason="figures need the extra plot")
    assert main(["report", str(run), "--quiet"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page.parent == run
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")


@pytest.mark.parametrize("trial", range(2))
def test_kill_9_at_random_moments_changes_nothing(
    driftwell: CommandLine, sources: dict[str, Path], runs: dict[str, Path], tmp_path: Path,
    trial: int,
) -> None:  # fmt: skip
    run, dice, kills = tmp_path / "run", random.Random(trial), 0
    first = [*options("deq", sources["deq"]), "--checkpoint-every", 4, "--out", run]
    for _ in range(8):
        again = (run / "config.toml").is_file()
        words = ["--out", run, "--resume", "--quiet"] if again else first
        done = len((run / "metrics.jsonl").read_bytes().splitlines()) if again else 0
        ended = driftwell(
            "train", "deq", *words, signal=signal.SIGKILL, watch=run / "metrics.jsonl",
            lines=dice.choice([0, done + 1, done + 7]), delay=dice.uniform(0.0, 0.03),
        )  # fmt: skip
        assert ended.status in (0, -signal.SIGKILL), ended.said
        kills += ended.status != 0
        if ended.status == 0:
            break
    else:
        ended = driftwell("train", "deq", "--out", run, "--resume", "--quiet")
        assert ended.status == 0, ended.said
    assert kills > 0
    assert_same_run(run, runs["deq"])


def test_a_signal_saves_and_says_how_to_resume(
    driftwell: CommandLine, sources: dict[str, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [*options("deq", sources["deq"], 100_000), "--checkpoint-every", 4, "--out", run]
    ended = driftwell(
        "train", "deq", *words, signal=signal.SIGINT, watch=run / "metrics.jsonl", lines=10
    )
    assert ended.status == 128 + signal.SIGINT, ended.said
    assert f"driftwell train deq --out {run} --resume" in ended.said
    if len((run / "metrics.jsonl").read_bytes().splitlines()) < UPDATES:
        ended = driftwell("train", "deq", "--out", run, "--resume", "--updates", UPDATES)
        assert ended.status == 0, ended.said
        assert_same_run(run, runs["deq"])


@pytest.mark.parametrize("kind", ["deq", "lpn"])
def test_two_processes_train_the_weights_of_one(
    driftwell: CommandLine, sources: dict[str, Path], runs: dict[str, Path], tmp_path: Path,
    kind: str,
) -> None:  # fmt: skip
    words = [*options(kind, sources[kind], 20), "--set", "batch=9"]
    for processes in (1, 2):
        run = tmp_path / str(processes)
        ended = driftwell("train", kind, *words, "--out", run, processes=processes)
        assert ended.status == 0, ended.said
    one, two = (final(tmp_path / name, 20) for name in ("1", "2"))
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith("model."):
            assert torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-4), name
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("1", "2")]
    for ours, theirs in zip(*(map(json.loads, part) for part in lines), strict=True):
        # a residual beside its tolerance may take one more step by rounding
        assert ours.pop("steps", 0) == pytest.approx(theirs.pop("steps", 0), abs=1.0)
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)


def test_a_whole_graph_is_not_shared(
    driftwell: CommandLine, sources: dict[str, Path], tmp_path: Path
) -> None:
    words = [*options("ignn", sources["ignn"]), "--out", tmp_path / "run"]
    ended = driftwell("train", "ignn", *words, processes=2)
    assert ended.status == 2
    assert ended.said.count("which 2 processes cannot share") == 1
    assert not (tmp_path / "run").exists()


def test_minutes_are_a_budget(
    driftwell: CommandLine, sources: dict[str, Path], tmp_path: Path
) -> None:
    words = options("deq", sources["deq"])
    i = words.index("--updates")
    del words[i : i + 2]
    run = tmp_path / "run"
    assert driftwell("train", "deq", *words, "--minutes", "0.004", "--out", run).status == 0
    first = len((run / "metrics.jsonl").read_bytes().splitlines())
    assert first > 0
    assert driftwell("train", "deq", "--out", run, "--resume", "--minutes", "0.008").status == 0
    assert len((run / "metrics.jsonl").read_bytes().splitlines()) > first


def test_a_run_goes_on_as_the_kind_it_is(said: Said, runs: dict[str, Path]) -> None:
    status, line = said("train", "lpn", "--out", runs["deq"], "--resume")
    assert status == 2
    assert f"{runs['deq']} holds a run of deq, not of lpn: go on with `driftwell train deq" in line
    status, line = said("train", "nlm", "--config", runs["deq"] / "config.toml", "--out", "x")
    assert status == 2
    assert "has settings of deq, not of nlm: say `driftwell train deq`" in line


def test_settings_of_a_run_make_the_same_run(
    said: Said, runs: dict[str, Path], tmp_path: Path
) -> None:
    words = ["--config", runs["deq"] / "config.toml", "--out", tmp_path / "run", "--quiet"]
    assert said("train", "deq", *words)[0] == 0
    assert_same_run(tmp_path / "run", runs["deq"])


def test_resuming_changes_nothing_but_the_budget(
    said: Said, runs: dict[str, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(runs["deq"], tmp_path / "copy"))
    for more in (["--seed", "5"], ["--set", "width=9"]):
        status, line = said("train", "deq", "--out", run, "--resume", *more)
        assert status == 2
        assert "only the budget may change with --resume" in line
    assert said("train", "deq", "--out", run, "--resume", "--updates", "42", "--quiet")[0] == 0


def test_a_kind_that_makes_no_images_says_so(
    said: Said, runs: dict[str, Path], tmp_path: Path
) -> None:
    for kind, run in runs.items():
        status, line = said("sample", run, "--out", tmp_path / "a.png")
        assert status == 2
        assert f"{run} holds a run of {kind}, which" in line
        assert "--denoise IMAGE" in line
    assert list(tmp_path.iterdir()) == []


def test_noisy_images_are_denoised_by_a_proximal_network(
    said: Said, runs: dict[str, Path], tmp_path: Path
) -> None:
    noisy = np.random.default_rng(0).uniform(0.2, 0.8, (3, 4, 4)).astype(np.float32)
    np.save(tmp_path / "noisy.npy", noisy)
    words = ["sample", runs["lpn"], "--denoise", tmp_path / "noisy.npy", "--out"]
    assert said(*words, tmp_path / "once.npy", "--quiet")[0] == 0
    assert said(*words, tmp_path / "twice.npy", "--steps", 2, "--quiet")[0] == 0
    once, twice = (np.load(tmp_path / f"{name}.npy") for name in ("once", "twice"))
    assert once.shape == (3, 4, 4)
    assert 0.0 <= once.min() <= once.max() <= 1.0
    model = find_kind("lpn").load(runs["lpn"]).model
    expected = model.prox(torch.from_numpy(noisy).reshape(3, 16)).detach().clamp(0, 1)
    np.testing.assert_allclose(once.reshape(3, 16), expected, atol=1e-6)
    assert np.abs(twice - once).max() > 1e-4


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    images = np.full((8, 4, 4), 0.5)
    images[:, 1] = 0.2
    np.savez(tmp_path / "unlabelled.npz", images=images)
    np.savez(tmp_path / "one.npz", images=images, labels=np.zeros(8, int))
    return {name: tmp_path / f"{name}.npz" for name in ("unlabelled", "one", "none")}


SLIPS = {
    "no labels": ("deq", ["--data", "{unlabelled}"], "has no labels, and a classifier learns"),
    "one class": ("deq", ["--data", "{one}"], "at least two classes, and one has 0 only"),
    "a graph for images": ("deq", ["--data", "cora"], "no data at 'cora'"),
    "images for a graph": ("ignn", ["--data", "{one}"], "lacks the arrays"),
    "a name of images for a graph": ("ignn", ["--data", "digits"], "no graph at 'digits'"),
    "no folder of data": ("ignn", ["--data", "cora"], "set DRIFTWELL_DATA to the folder that has"),
    "a graph that is not there": ("ignn", ["--data", "{none}"], "no graph at"),
    "classes of a graph": ("ignn", ["--classes", "1,2"], "classes chooses among images"),
    "a size of a graph": ("ignn", ["--resize", "8"], "resize chooses among images"),
    "a precision it does not have": (
        "deq", ["--precision", "bfloat16"], "precision bfloat16 is the Langevin sampler's own"
    ),
    "another kind's setting": ("deq", ["--set", "chains=3"], "unknown setting of the recipe"),
    "a misspelt setting": ("deq", ["--set", "widht=3"], "did you mean 'width'?"),
    "another kind's preset": ("deq", ["--preset", "yu2025-pcd"], "presets are default, tanh, free"),
    "text for a number": ("lpn", ["--set", "sigma=much"], "--set sigma must be a number"),
    "no contraction": ("deq", ["--set", "bound=1.5"], "bound must lie below 1 for a contraction"),
    "a misspelt model": ("dqe", [], "unknown model 'dqe', did you mean 'deq'?"),
}  # fmt: skip


@pytest.mark.parametrize("case", SLIPS)
def test_what_cannot_be_is_named_and_nothing_is_left(
    case: str, said: Said, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DRIFTWELL_DATA", raising=False)
    kind, more, sentence = SLIPS[case]
    words = [word.format(**data) for word in more]
    status, line = said("train", kind, *words, "--out", tmp_path / "deep" / "run")
    assert status == 2
    assert sentence in line
    assert not (tmp_path / "deep").exists()


def test_a_solve_that_fails_at_once_leaves_nothing(
    said: Said, sources: dict[str, Path], tmp_path: Path
) -> None:
    words = [*options("ignn", sources["ignn"]), "--set", "max_steps=1", "--out", tmp_path / "run"]
    status, line = said("train", "ignn", *words)
    assert status == 1
    assert "raise max_steps" in line
    assert not (tmp_path / "run").exists()


def test_a_folder_without_the_graph(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTWELL_DATA", str(tmp_path))
    status, line = said("train", "ignn", "--out", tmp_path / "run")
    assert status == 2
    assert "cora.npz is not there" in line


def test_a_run_whose_data_are_gone_says_so(
    said: Said, runs: dict[str, Path], tmp_path: Path
) -> None:
    for kind, run in runs.items():
        copy = Path(shutil.copytree(run, tmp_path / kind))
        file = copy / "config.toml"
        text = file.read_text()
        lines = [
            f'data = "{tmp_path / "gone.npz"}"' if line.startswith("data =") else line
            for line in text.splitlines()
        ]
        file.write_text("\n".join(lines))
        for command in ("measure", "report"):
            status, line = said(command, copy, "--quiet")
            assert status == 2
            assert "gone.npz" in line
