"""`driftwell quantize`: what it prints and writes, what its runs are good for, and misuse."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.tiny_runs import SETTINGS, digest, train_tiny

from driftwell.cli.main import main
from driftwell.cli.parser import FORMATS, METHODS
from driftwell.training import quantization_plan

CommandLine = Callable[..., Any]
KINDS = ("pcd", "nlm", "deq", "lpn", "ignn")
LAYERS = {"pcd": 1, "nlm": 4, "deq": 3, "lpn": 2, "ignn": 3}
SCORE = {"pcd": "aai", "nlm": "aai", "deq": "accuracy", "lpn": "psnr", "ignn": "accuracy"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    return {name: train_tiny(place, name) for name in KINDS}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a command here and returns its status and its one line of error."""

    def run(*arguments: object) -> tuple[int, str]:
        status = main([str(a) for a in arguments])
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("driftwell: error: ")]
        assert status == 0 or len(errors) == 1, lines
        assert not any("Traceback" in line or "unexpected" in line for line in lines), lines
        return status, errors[0].removeprefix("driftwell: error: ") if errors else ""

    return run


def test_the_words_are_those_of_the_library() -> None:
    assert tuple(quantization_plan.METHODS) == METHODS
    assert quantization_plan.FORMATS == FORMATS
    assert set(KINDS) == set(SETTINGS)


@pytest.mark.parametrize("name", KINDS)
def test_a_quantized_run_is_used_as_any_run(
    name: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    words = ["quantize", str(runs[name]), "--out", str(out), "--bits", "4", "--quiet"]
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert printed["run"] == str(out)
    assert len(printed["layers"]) == LAYERS[name]
    assert printed["nbytes"] < printed["float_bytes"]
    assert [row["bits"] for row in printed["scores"]] == [32, 8, 4, 3, 2], said.err
    assert all(SCORE[name] in row for row in printed["scores"])
    more = ["-n", "30"] if name in ("pcd", "nlm") else []
    assert main(["measure", str(out), *more, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["update"] == 12
    if name in ("pcd", "nlm"):
        assert main(["sample", str(out), "-n", "3", "--out", str(tmp_path / "a.npy")]) == 0
        assert np.load(tmp_path / "a.npy").shape == (3, 4, 4)
    if name == "lpn":
        np.save(tmp_path / "noisy.npy", np.full((2, 4, 4), 0.5, dtype=np.float32))
        noisy = ["--denoise", str(tmp_path / "noisy.npy"), "--out", str(tmp_path / "a.npy")]
        assert main(["sample", str(out), *noisy]) == 0
    kind = SETTINGS[name][0]
    capsys.readouterr()
    before = digest(out)
    assert main(["train", kind, "--out", str(out), "--resume", "--updates", "20"]) == 1
    assert "holds quantized weights, which cannot be trained further" in capsys.readouterr().err
    assert main(["quantize", str(out), "--out", str(tmp_path / "twice")]) == 2
    assert "is quantized already" in capsys.readouterr().err
    assert digest(out) == before


def test_tables_say_what_became_of_the_weights(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(runs["lpn"]), "--out", str(tmp_path / "a"), "--bits", "3"]) == 0
    said = capsys.readouterr()
    for word in ("3 bits by gptq+comq", "psi.A.0", "if rounded", "quality against bits", "float",
                 "left in float", "psi.V.0"):  # fmt: skip
        assert word in " ".join(said.out.split()), word
    assert f"driftwell report {tmp_path / 'a'}" in said.err
    words = ["quantize", str(runs["lpn"]), "--out", str(tmp_path / "b"), "--no-scores", "--quiet"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "8 bits by gptq+comq" in " ".join(said.out.split()), "eight bits unless the user says"
    assert "quality against bits" not in said.out
    assert max(len(line) for line in said.out.splitlines()[1:]) <= 80


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--bits", "0"], "bits"),
        (["--bits", "9"], "bits"),
        (["--bits", "four"], "must be a whole number, 0 or more, got 'four'"),
        (["--bits", "-2"], "must be a whole number"),
        (["--method", "gtpq"], "unknown --method 'gtpq', did you mean 'gptq'?"),
        (["--format", "unifrom"], "unknown --format 'unifrom', did you mean 'uniform'?"),
        (["--format", "binary"], "give --bits 1"),
        (["--format", "ternary"], "give --bits 2"),
        (["--per", "rows"], "unknown --per 'rows'"),
        (["--per", "group"], "group"),
        (["--group-size", "0"], "group"),
        (["--per", "channel", "--group-size", "4"], "group"),
        (["--samples", "0"], "at least one sample"),
        (["--activations", "int4"], "unknown --activations 'int4'"),
        (["--bist", "4"], "unknown option --bist, did you mean '--bits'?"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--device", "gpu9"], "gpu9"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named_and_nothing_is_left(
    words: list[str], sentence: str, runs: dict[str, Path], tmp_path: Path, said: Any
) -> None:
    status, line = said("quantize", runs["deq"], "--out", tmp_path / "deep" / "small", *words)
    assert status == 2
    assert sentence in line
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be(runs: dict[str, Path], tmp_path: Path, said: Any) -> None:
    (tmp_path / "file").write_text("precious")
    assert "--out is missing" in said("quantize", runs["deq"])[1]
    assert "does not exist" in said("quantize", tmp_path / "no", "--out", tmp_path / "a")[1]
    assert "is not a run folder" in said("quantize", tmp_path, "--out", tmp_path / "a")[1]
    for out, sentence in (
        (runs["deq"], "is the run itself: give another folder with --out"),
        (runs["pcd"], "already holds a run"),
        (tmp_path / "file", "is a file: give the name of a folder"),
        (tmp_path / "file" / "a", "cannot be written: Not a directory"),
        (tmp_path, "not a run folder, so it is left alone"),
    ):
        status, line = said("quantize", runs["deq"], "--no-scores", "--out", out)
        assert status in (1, 2)
        assert sentence in line
    assert (tmp_path / "file").read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_data_that_are_gone(runs: dict[str, Path], tmp_path: Path, said: Any) -> None:
    for name in KINDS:
        run = Path(shutil.copytree(runs[name], tmp_path / name))
        text = (run / "config.toml").read_text()
        (run / "config.toml").write_text(text.replace("-data.npz", "-gone.npz"))
        status, line = said("quantize", run, "--out", tmp_path / "small")
        assert status == 2
        assert "gone.npz" in line
        assert not (tmp_path / "small").exists()
    words = ["--out", tmp_path / "small", "--no-scores", "--quiet"]
    assert said("quantize", tmp_path / "pcd", *words)[0] == 0, "chains calibrate machines"


@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_a_packed_checkpoint_that_is_damaged_is_one_sentence(
    damage: str, runs: dict[str, Path], tmp_path: Path, said: Any
) -> None:
    out = tmp_path / "small"
    assert said("quantize", runs["deq"], "--out", out, "--no-scores", "--quiet")[0] == 0
    (file,) = (out / "checkpoints").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content[:-7] if damage == "truncated" else content)
    for words in (["measure", out], ["report", out], ["export", out, "--to", "c", "--out", "c"],
                  ["quantize", out, "--out", tmp_path / "b"]):  # fmt: skip
        status, line = said(*words)
        assert status == 1
        assert "truncated or damaged" in line or "is corrupt" in line


def test_a_full_disk_keeps_what_was_there(
    driftwell: CommandLine, runs: dict[str, Path], tmp_path: Path
) -> None:
    words = ["quantize", runs["deq"], "--no-scores", "--quiet", "--out"]
    ended = driftwell(*words, tmp_path / "a" / "small", largest_file=2048)
    assert ended.status == 1
    assert "cannot be written" in ended.said
    assert "Traceback" not in ended.said
    assert list(tmp_path.iterdir()) == []
    out = tmp_path / "small"
    assert driftwell(*words, out).status == 0
    before = digest(out)
    ended = driftwell(*words, out, "--overwrite", "--bits", 3, largest_file=2048)
    assert ended.status == 1, "a run that was there outlives a disk that fills up"
    assert digest(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_leaves_the_old_run_or_the_new_one(
    driftwell: CommandLine, runs: dict[str, Path], tmp_path: Path, number: int
) -> None:
    out = tmp_path / "small"
    words = ["quantize", runs["deq"], "--no-scores", "--quiet", "--out", out, "--overwrite"]
    assert driftwell(*words, "--bits", 2).status == 0
    old = digest(out)
    assert driftwell(*words, "--bits", 3).status == 0
    new = digest(out)
    assert driftwell(*words, "--bits", 2).status == 0
    # a moment in the middle of the work, and the one when the new folder begins to be written
    ended = [driftwell(*words, "--bits", 3, signal=number, delay=delay, watch=watch, lines=lines)
             for delay, watch, lines in ((0.02, out, 0), (0.0, tmp_path / ".small.partial" /
             "metrics.jsonl", 1))]  # fmt: skip
    for each in ended:
        assert each.status in (0, -signal.SIGKILL, 130), each.said
        assert "Traceback" not in each.said
    assert ended[0].status != 0
    found = digest(out)
    same = ("config.toml", "metrics.jsonl", "checkpoints/update-0000000012.safetensors")
    assert [found[k] for k in same] in ([old[k] for k in same], [new[k] for k in same])
    assert driftwell("measure", out, "--quiet").status == 0
    assert driftwell(*words, "--bits", 3).status == 0
    assert digest(out)[same[2]] == new[same[2]]
    assert [p.name for p in tmp_path.iterdir()] == ["small"], "nothing stays of a killed one"
