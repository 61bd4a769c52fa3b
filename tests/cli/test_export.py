"""`driftwell export`: what it prints and writes, and misuse."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.tiny_runs import digest, train_tiny

from driftwell.cli.main import main

CommandLine = Callable[..., Any]
Said = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    return {name: train_tiny(place, name) for name in ("pcd", "deq", "lpn", "ignn")}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command here and returns its status and its one line of error."""

    def run(*arguments: object) -> tuple[int, str]:
        status = main([str(a) for a in arguments])
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("driftwell: error: ")]
        assert status == 0 or len(errors) == 1, lines
        assert not any("Traceback" in line or "unexpected" in line for line in lines), lines
        return status, errors[0].removeprefix("driftwell: error: ") if errors else ""

    return run


def test_it_says_what_it_wrote_and_what_to_do_next(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shipped"
    words = ["export", str(runs["deq"]), "--to", "c", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr()
    for word in ("network.c", "README.md", "self-test", "read-only bytes", "what was checked"):
        assert word in said.out, word
    assert f"make -C {out}" in said.err
    assert max(len(line) for line in said.out.splitlines()[1:]) <= 80
    assert main([*words, "--overwrite", "--json", "--name", "tiny"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["files"]["README.md"] == (out / "README.md").stat().st_size
    assert printed["facts"]["vectors in the self-test"] == "16"
    assert "tiny_run" in (out / "network.h").read_text()


SLIPS = {
    "no target": (["--out", "{out}"], "--to is missing"),
    "no folder": (["--to", "c"], "--out is missing"),
    "a misspelt target": (["--to", "safetensor", "--out", "{out}"], "did you mean 'safetensors'?"),
    "no C name": (["--to", "c", "--out", "{out}", "--name", "1a"], "cannot name a C function"),
    "a name with a minus": (["--to", "c", "--out", "{out}", "--name", "a-b"], "letters, digits"),
    "text for a seed": (["--to", "c", "--out", "{out}", "--seed", "x"], "must be a whole number"),
    "a misspelt option": (["--to", "c", "--uot", "{out}"], "did you mean '--out'?"),
    "no thread": (["--to", "c", "--out", "{out}", "--threads", "0"], "threads must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_what_cannot_be_is_named_and_nothing_is_left(
    slip: str, runs: dict[str, Path], tmp_path: Path, said: Said
) -> None:
    words, sentence = SLIPS[slip]
    out = tmp_path / "deep" / "out"
    status, line = said("export", runs["deq"], *(word.format(out=out) for word in words))
    assert status == 2
    assert sentence in line
    assert list(tmp_path.iterdir()) == []


def test_runs_and_folders_that_cannot_be(runs: dict[str, Path], tmp_path: Path, said: Said) -> None:
    (tmp_path / "file").write_text("precious")
    for run, out, sentence in (
        (tmp_path / "no", "out", "does not exist"),
        (tmp_path, "out", "is not a run folder"),
        (runs["lpn"], "out", "a run of lpn has no form in c"),
        (runs["ignn"], "out", "a run of ignn has no form in c"),
        (runs["deq"], "file", "is a file: give a folder"),
        (runs["deq"], "file/out", "Not a directory"),
        (runs["deq"], "", "is not empty and no export"),
        (runs["deq"], runs["deq"], "is not empty and no export"),
    ):
        status, line = said("export", run, "--to", "c", "--out", tmp_path / out, "--overwrite")
        assert status in (1, 2)
        assert sentence in line
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_data_that_are_gone_or_damaged(runs: dict[str, Path], tmp_path: Path, said: Said) -> None:
    run = Path(shutil.copytree(runs["deq"], tmp_path / "run"))
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("-data.npz", "-gone.npz"))
    words = ["export", run, "--to", "c", "--out", tmp_path / "out", "--overwrite"]
    assert "gone.npz" in said(*words)[1]
    for file in (run / "checkpoints").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-3])
    assert "truncated or damaged" in said(*words)[1]
    shutil.rmtree(run / "checkpoints")
    assert "has no checkpoint yet" in said(*words)[1]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_folder_without_permission(runs: dict[str, Path], tmp_path: Path, said: Said) -> None:
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        status, line = said("export", runs["deq"], "--to", "c", "--out", tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)
    assert status == 1
    assert "cannot be written: Permission denied" in line


def test_a_full_disk_keeps_the_export_that_was_there(
    driftwell: CommandLine, runs: dict[str, Path], tmp_path: Path
) -> None:
    words = ["export", runs["pcd"], "--to", "c", "--quiet", "--out"]
    ended = driftwell(*words, tmp_path / "deep" / "out", largest_file=4096)
    assert ended.status in (1, 2)
    assert "cannot be written" in ended.said
    assert "Traceback" not in ended.said
    assert list(tmp_path.iterdir()) == []
    out = tmp_path / "out"
    assert driftwell("export", runs["deq"], *words[2:], out).status == 0
    before = digest(out)
    assert driftwell(*words, out, "--overwrite", largest_file=4096).status in (1, 2)
    assert digest(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_leaves_the_old_export_whole(
    driftwell: CommandLine, runs: dict[str, Path], tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    words = ["export", runs["deq"], "--to", "c", "--quiet", "--overwrite", "--out", out]
    assert driftwell(*words).status == 0
    before = digest(out)
    written = tmp_path / ".out.partial" / "network.c"
    ended = driftwell(*words, "--name", "other", signal=number, watch=written, lines=5)
    assert ended.status in (-signal.SIGKILL, 130), ended.said
    assert "Traceback" not in ended.said
    assert digest(out) == before
    assert (tmp_path / ".out.partial").exists() == (number == signal.SIGKILL)
    assert driftwell(*words, "--name", "other").status == 0
    assert digest(out) != before
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "nothing stays of a killed one"
