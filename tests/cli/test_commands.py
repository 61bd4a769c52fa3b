"""What the commands print, write and return when all is well."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftwell.cli.main import main
from driftwell.cli.parser import COMMANDS, build, parse
from driftwell.cli.progress import Bar

CommandLine = Callable[..., Any]


@pytest.fixture(scope="module")
def trained(
    driftwell: CommandLine, stripes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    ended = driftwell(
        "train", "nlm", "--data", stripes, "--preset", "yu2025-pcd", "--set", "chains=12",
        "--set", "batch=10", "--set", "sample_steps=200", "--updates", 20, "--out", run,
    )  # fmt: skip
    assert ended.status == 0, ended.said
    return run


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n    {name} " in said for name in COMMANDS)


def test_it_runs_as_a_module_and_loads_nothing_it_need_not() -> None:
    code = (
        "import sys; from driftwell.cli.main import main; main(['train', '--help']);"
        "print({'torch', 'rich', 'numpy', 'driftwell.training'} & set(sys.modules))"
    )
    for words in (["-m", "driftwell", "--version"], ["-c", code]):
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, timeout=60, check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    for action in build()[1][command]._actions:
        assert action.help or action.dest == "action", action.dest


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("driftwell ")


def test_training_says_what_it_does_and_where(
    driftwell: CommandLine, stripes: Path, tmp_path: Path
) -> None:
    words = ["train", "nlm", "--data", stripes, "--set", "hidden=4", "--updates", 3, "--threads",
             1, "--precision", "medium", "--out", tmp_path / "run"]  # fmt: skip
    ended = driftwell(*words)
    assert ended.status == 0
    assert "preset default" in ended.said
    assert "1 thread, precision medium" in ended.said
    assert "finished: 3 updates" in ended.said
    assert str(tmp_path / "run") in ended.said
    again = driftwell("train", "nlm", "--out", tmp_path / "run", "--resume")
    assert again.status == 0
    assert "is finished: 3 updates" in again.said
    assert driftwell(*words, "--overwrite", "--quiet").said == ""


def test_minutes_are_a_budget(driftwell: CommandLine, small: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", "nlm", *small, "--out", run, "--minutes"]
    assert driftwell(*words, "0.003").status == 0
    first = len((run / "metrics.jsonl").read_bytes().splitlines())
    assert first > 0
    # time spent is counted over all sessions
    assert driftwell("train", "nlm", "--out", run, "--resume", "--minutes", "0.003").status == 0
    assert len((run / "metrics.jsonl").read_bytes().splitlines()) == first
    assert driftwell("train", "nlm", "--out", run, "--resume", "--minutes", "0.006").status == 0
    assert len((run / "metrics.jsonl").read_bytes().splitlines()) > first


def test_samples_are_written_as_asked(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npy"
    words = ["sample", str(trained), "-n", "5", "--seed", "2", "--quiet", "--out"]
    assert main([*words, str(out)]) == 0
    images = np.load(out)
    assert images.dtype == np.float32
    assert images.shape == (5, 4, 4)
    assert 0.0 <= images.min() <= images.max() <= 1.0
    assert main([*words, str(tmp_path / "b.npy")]) == 0
    assert out.read_bytes() == (tmp_path / "b.npy").read_bytes()
    np.save(tmp_path / "noisy.npy", images[:3])
    assert main(["sample", str(trained), "--denoise", str(tmp_path / "noisy.npy"), "--out",
                 str(tmp_path / "c.npy"), "--quiet"]) == 0  # fmt: skip
    assert np.load(tmp_path / "c.npy").shape == (3, 4, 4), "as many as there are noisy ones"


def test_measures(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["measure", str(trained), "-n", "40", "--quiet"]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    stored = json.loads((trained / "measures.json").read_text())
    assert printed == stored
    for name in ("two_sample", "diagnostics", "spectrum", "likelihood"):
        assert printed[name], name
    assert {"generated", "gaussian", "real"} <= set(printed["two_sample"])
    assert main(words) == 0
    table = capsys.readouterr().out
    for word in ("AAI", "Acc_real", "Acc_gen", "E2", "Gaussian", "virial", "R-hat", "likelihood"):
        assert word in table, word
    assert max(len(line) for line in table.splitlines()) <= 80


def test_a_report_is_written_and_its_place_printed(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra plot")
    assert main(["report", str(trained), "-n", "40", "--quiet"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page.parent == trained
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")


def test_claims_are_listed_and_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import driftwell.cli.claims as command
    from driftwell.claims import Claim, Outcome
    from driftwell.core.papers import Paper

    paper = Paper(key="k", title="t", authors="a", year=2000)

    def made(id: str, holds: bool, control_holds: bool, fast: bool) -> Claim:
        return Claim(
            id, paper, "it holds", "1", 0.1, lambda seed: Outcome(holds, {"x": seed}, "x > 0"),
            fast, "reproduced", lambda seed: Outcome(control_holds, {}, ""), "reversed",
        )  # fmt: skip

    claims = [made("good", True, False, True), made("bad", False, False, False),
              made("blind", True, True, False)]  # fmt: skip
    monkeypatch.setattr(command, "all_claims", lambda: claims)
    monkeypatch.setattr(command, "find_claims", lambda ids: [c for c in claims if c.id in ids])
    assert main(["claims", "list", "--json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ["good", "bad", "blind"]
    assert main(["claims", "list"]) == 0
    assert "good  (0.1 min, fast; k)" in capsys.readouterr().out
    assert main(["claims", "run", "--fast", "--seed", "3", "--json", "--quiet"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    for key in ("id", "paper", "seed", "outcome", "measured", "stated", "bound",
                "control_failed", "seconds"):  # fmt: skip
        assert key in record
    assert (record["seed"], record["measured"]) == (3, {"x": 3.0})
    assert main(["claims", "run", "bad", "--quiet"]) == 1
    assert main(["claims", "run", "blind", "--quiet"]) == 1
    said = capsys.readouterr().out
    assert "FAIL bad: not_reproduced" in said
    assert "FAIL blind: reproduced, its control PASSES" in said
    assert main(["claims", "run", "--quiet"]) == 2
    assert main(["claims", "run", "good", "--all", "--quiet"]) == 2
    page = tmp_path / "claims.html"
    assert main(["claims", "report", "good", "--out", str(page), "--quiet"]) == 0
    assert page.is_file()


def test_doctor_looks_at_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTWELL_NATIVE", "0")
    monkeypatch.delenv("DRIFTWELL_DATA", raising=False)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "core/noise.c" in found["kernels"]
    assert not found["kernels"]["core/noise.c"]["available"]
    assert any("core/noise.c is not compiled" in line for line in found["advice"])
    assert any("DRIFTWELL_DATA is not set" in line for line in found["advice"])
    assert found["torch"]["threads"] >= 1
    assert found["optional"]["pillow"]["version"]
    assert main(["doctor"]) == 0
    assert "core/noise.c" in capsys.readouterr().out


def test_a_bar_on_no_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import driftwell.cli.progress as progress

    now = iter(range(0, 10_000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    with Bar("training", 100, "updates") as bar:
        for done in range(1, 9):
            bar.show(done, "loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 3 of 100 updates, 0.25/s, 6:28 left, loss 0.5",
        "training: 6 of 100 updates, 0.25/s, 6:16 left, loss 0.5",
    ]


def test_an_option_with_an_equals_sign_is_understood() -> None:
    assert parse(["sample", "r", "--out=a.png", "--seed=4"]).seed == 4
