"""Bad input: one clear sentence, a status that is not zero, nothing left behind, no traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftwell.cli.main import main

CommandLine = Callable[..., Any]
Said = Callable[..., tuple[int, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command here and returns its status and its one line of error."""

    def run(*arguments: object) -> tuple[int, str]:
        status = main([str(a) for a in arguments])
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("driftwell: error: ")]
        assert status == 0 or len(errors) == 1, lines
        assert not any("Traceback" in line for line in lines)
        return status, errors[0].removeprefix("driftwell: error: ") if errors else ""

    return run


@pytest.fixture(scope="module")
def trained(
    driftwell: CommandLine, stripes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    ended = driftwell(
        "train", "nlm", "--data", stripes, "--preset", "yu2025-pcd",
        "--set", "chains=12", "--set", "batch=10", "--set", "langevin_steps=3",
        "--set", "sample_steps=20", "--updates", 6, "--checkpoint-every", 3, "--out", run,
    )  # fmt: skip
    assert ended.status == 0, ended.said
    return run


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


SLIPS = {
    "a misspelt command": (["trian", "nlm"], "unknown command 'trian', did you mean 'train'?"),
    "no command": ([], "COMMAND is missing"),
    "a misspelt model": (["train", "nml"], "unknown model 'nml', did you mean 'nlm'?"),
    "a misspelt option": (
        ["train", "nlm", "--sede", "3"], "unknown option --sede, did you mean '--seed'?"
    ),
    "a misspelt required option": (
        ["sample", "r", "--uot", "a.png"], "unknown option --uot, did you mean '--out'?"
    ),
    "an abbreviated option": (
        ["train", "nlm", "--out", "r", "--class", "1"],
        "unknown option --class, did you mean '--classes'?",
    ),
    "a word too many": (["report", "r", "s"], "'s' is not understood here"),
    "text for a number": (
        ["train", "nlm", "--seed", "x"], "--seed: must be a whole number, 0 or more, got 'x'"
    ),
    "a negative number": (["sample", "r", "-n", "-3", "--out", "a.png"], "-n: must be a whole"),
    "text for classes": (
        ["train", "nlm", "--classes", "a,b"],
        "--classes: must be labels with commas between, such as 1,3,6, got 'a,b'",
    ),
    "two budgets": (
        ["train", "nlm", "--updates", "3", "--minutes", "2"], "not allowed with argument --updates"
    ),
    "resume and overwrite": (
        ["train", "nlm", "--resume", "--overwrite"], "not allowed with argument --resume"
    ),
    "no folder": (["train", "nlm"], "--out is missing"),
    "an unknown claim action": (["claims", "rnu"], "unknown action 'rnu', did you mean 'run'?"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_of_the_keyboard_gets_the_nearest_word(slip: str, said: Said) -> None:
    arguments, sentence = SLIPS[slip]
    status, line = said(*arguments)
    assert status == 2
    assert sentence in line


SETTINGS = {
    "an unknown preset": (["--preset", "yu2025-pdc"], "did you mean 'yu2025-pcd'?"),
    "an unknown setting": (["--set", "chians=3"], "did you mean 'chains'?"),
    "a setting without a value": (["--set", "chains"], "--set wants name=value"),
    "text for a whole number": (
        ["--set", "chains=many"], "--set chains must be a whole number, got 'many'"
    ),
    "a float for a whole number": (["--set", "chains=1.5"], "must be a whole number"),
    "a word for a truth value": (["--set", "bias=maybe"], "must be true or false, got 'maybe'"),
    "a negative temperature": (
        ["--set", "temperature=-1"], "a temperature must be positive and finite, got -1"
    ),
    "a temperature of nan": (["--set", "temperature=nan"], "must be positive and finite"),
    "a negative step": (["--set", "step_size=-0.1"], "step_size must be positive"),
    "no chains": (["--set", "chains=0"], "chains must be at least 1, got 0"),
    "no updates": (["--updates", "0"], "updates must be at least 1, got 0"),
    "no time": (["--minutes", "0"], "minutes must be positive and finite, got 0"),
    "endless time": (["--minutes", "inf"], "minutes must be positive and finite"),
    "no threads": (["--threads", "0"], "threads must be at least 1, got 0"),
    "a huge seed": (["--seed", str(2**64)], "the seed must be in 0..2^64-1"),
    "an unknown precision": (["--precision", "hihg"], "did you mean 'high'?"),
    "an unknown part": (["--split", "tain"], "did you mean 'train'?"),
    "an unknown device": (["--device", "cpuu"], "device 'cpuu' cannot be used here"),
    "a class that is not there": (["--classes", "0,5"], "class 5 not present in stripes"),
    "more images than there are": (["--limit", "4000"], "limit asks for 4000 images"),
    "no size": (["--resize", "0"], "resize must be at least 1, got 0"),
    "labels that are not there": (["--labels", "no.npy"], "no.npy does not exist"),
    "settings that are not there": (["--config", "no.toml"], "no.toml does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_that_cannot_be_used_is_named_and_nothing_is_left(
    case: str, said: Said, stripes: Path, tmp_path: Path
) -> None:
    options, sentence = SETTINGS[case]
    run = tmp_path / "deep" / "run"
    status, line = said("train", "nlm", "--data", stripes, "--out", run, *options)
    assert status == 2
    assert sentence in line
    assert list(tmp_path.iterdir()) == []


FILES = {
    "an unknown key": ("sede = 3", "unknown key 'sede', did you mean 'seed'?"),
    "an unknown setting": ("[recipe]\nchians = 3", "did you mean 'chains'?"),
    "text for a number": ('seed = "three"', "seed must be a whole number, got 'three'"),
    "a truth value for a number": ("seed = true", "seed must be a whole number, got True"),
    "a number for a list": ("classes = 1", "classes must be a list of whole numbers, got 1"),
    "a number for a table": ("recipe = 1", "recipe must be a table, got 1"),
    "a wrong type in the recipe": ('[recipe]\nchains = "x"', "chains must be a whole number"),
    "a bad value": ("[recipe]\ntemperature = -1.0", "temperature must be positive"),
    "both budgets": ("updates = 1\nminutes = 1.0", "give one, not both"),
    "another schema": ("schema = 2", "schema version 2, this driftwell reads version 1"),
    "no TOML": ("seed = = 3", "is not valid TOML"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_settings_file_that_cannot_be_used_is_named(
    case: str, said: Said, stripes: Path, tmp_path: Path
) -> None:
    content, sentence = FILES[case]
    file, run = tmp_path / "wrong.toml", tmp_path / "run"
    file.write_text(content)
    status, line = said("train", "nlm", "--config", file, "--data", stripes, "--out", run)
    assert status != 0
    assert line.startswith(str(file)), "the sentence begins with the file"
    assert sentence in line
    assert not run.exists()


def _images(**changes: Any) -> dict[str, Any]:
    images = np.full((8, 4, 4), 0.5)
    images[:, 1] = 0.2
    return {"images": images, "labels": np.arange(8) % 2, **changes}


DATA = {
    "NaN": (_images(images=np.full((8, 4, 4), np.nan)), "NaN or infinite"),
    "infinity": (_images(images=np.full((8, 4, 4), np.inf)), "NaN or infinite"),
    "an empty set": (_images(images=np.zeros((0, 4, 4)), labels=np.zeros(0, int)), "empty"),
    "a wrong shape": (_images(images=np.zeros((8, 4, 4, 3))), "shape"),
    "values above 1": (_images(images=np.full((8, 4, 4), 3.0)), "divide them by 255"),
    "too few labels": (_images(labels=np.zeros(3, int)), "one label for each image"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_used_are_named_and_nothing_is_left(
    case: str, said: Said, tmp_path: Path
) -> None:
    arrays, sentence = DATA[case]
    file, run = tmp_path / "wrong.npz", tmp_path / "run"
    np.savez(file, **arrays)
    status, line = said("train", "nlm", "--data", file, "--out", run)
    assert status == 2
    assert "wrong" in line
    assert sentence in line
    assert not run.exists()


def test_data_that_are_not_there(said: Said, tmp_path: Path) -> None:
    status, line = said("train", "nlm", "--data", tmp_path / "none", "--out", tmp_path / "run")
    assert status == 2
    assert "no data at" in line
    assert not (tmp_path / "run").exists()


def test_a_step_that_diverges_names_the_bound_it_broke(
    said: Said, small: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, line = said(
        "train", "nlm", *small, "--set", "step_size=5", "--updates", 300, "--out", run
    )
    assert status == 1
    assert "step_size 5 breaks the stability bound 2 / lambda_max = " in line
    assert not run.exists(), "nothing was learned, so nothing is kept"


def test_an_existing_run_is_left_alone(said: Said, run_copy: Path, small: list[str]) -> None:
    before = {p: p.read_bytes() for p in run_copy.rglob("*") if p.is_file()}
    status, line = said("train", "nlm", *small, "--out", run_copy)
    assert status == 1
    assert "already holds a run: use --resume" in line
    assert before == {p: p.read_bytes() for p in run_copy.rglob("*") if p.is_file()}


def test_overwriting_happens_only_once_the_new_run_can_begin(
    said: Said, run_copy: Path, small: list[str]
) -> None:
    before = {p: p.read_bytes() for p in run_copy.rglob("*") if p.is_file()}
    words = ["train", "nlm", *small, "--out", run_copy, "--overwrite"]
    assert said(*words, "--classes", "7")[0] == 2
    assert before == {p: p.read_bytes() for p in run_copy.rglob("*") if p.is_file()}
    assert said(*words, "--updates", "2")[0] == 0
    assert len((run_copy / "metrics.jsonl").read_bytes().splitlines()) == 2
    assert not list((run_copy / "checkpoints").glob("*6.json")), "the old run is gone"


def test_a_folder_of_somebody_else_is_never_deleted(
    said: Said, small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for words in ([], ["--overwrite"]):
        status, line = said("train", "nlm", *small, "--out", tmp_path, *words)
        assert status == 1
        assert "not a run folder, so it is left alone" in line
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    # neither one whose config.toml is not a run's
    (tmp_path / "config.toml").write_text("[project]\n")
    assert said("train", "nlm", *small, "--out", tmp_path, "--overwrite")[0] == 1
    assert (tmp_path / "thesis.txt").is_file()


def test_a_folder_that_cannot_be_made(said: Said, small: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, line = said("train", "nlm", *small, "--out", tmp_path / "file" / "run")
    assert status == 1
    assert "cannot be written: Not a directory" in line
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission(said: Said, small: list[str], tmp_path: Path) -> None:
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        status, line = said("train", "nlm", *small, "--out", tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)
    assert status == 1
    assert "cannot be written: Permission denied" in line


def test_a_full_disk_before_the_first_update(
    driftwell: CommandLine, small: list[str], tmp_path: Path
) -> None:
    # a limit on file sizes is met as a full disk is: by a write that fails halfway
    ended = driftwell("train", "nlm", *small, "--out", tmp_path / "a" / "run", largest_file=2048)
    assert ended.status == 1
    assert "cannot be written" in ended.said
    assert "Traceback" not in ended.said
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    driftwell: CommandLine, small: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ended = driftwell(
        "train", "nlm", *small, "--out", run, "--updates", 10_000, "--checkpoint-every", 5,
        largest_file=10_000,
    )  # fmt: skip
    assert ended.status == 1
    assert "metrics.jsonl cannot be written" in ended.said
    update = len((run / "metrics.jsonl").read_bytes().splitlines()) + 3
    assert driftwell("train", "nlm", "--out", run, "--resume", "--updates", update).status == 0


def test_samples_that_cannot_be_written(said: Said, trained: Path, tmp_path: Path) -> None:
    assert "must end in .png" in said("sample", trained, "--out", tmp_path / "a.jpg")[1]
    assert "there is no folder" in said("sample", trained, "--out", tmp_path / "no" / "a.png")[1]
    (tmp_path / "a.png").mkdir()
    assert "is a folder" in said("sample", trained, "--out", tmp_path / "a.png")[1]


def test_wishes_that_cannot_be_fulfilled(said: Said, trained: Path, tmp_path: Path) -> None:
    words = ["sample", trained, "--out", tmp_path / "a.png"]
    for more, sentence in (
        (["--clamp", "x.png"], "needs both --clamp IMAGE and --mask"),
        (["--mask", "top"], "needs both --clamp IMAGE and --mask"),
        (["--clamp", "no.png", "--mask", "top"], "no.png does not exist"),
        (["--denoise", "no.png"], "no.png does not exist"),
        (["--denoise", "no.png", "-n", "2", "--label", "1"], "exclude each other"),
        (["--label", "1"], "did not learn labels, so images of class 1"),
        (["-n", "0"], "must be at least 1, got n=0"),
    ):
        status, line = said(*words, *more)
        assert status == 2
        assert sentence in line
    assert list(tmp_path.iterdir()) == []


def test_no_run_folder(said: Said, tmp_path: Path) -> None:
    for command in (
        ["sample", tmp_path, "--out", tmp_path / "a.png"],
        ["measure", tmp_path],
        ["report", tmp_path],
        ["train", "nlm", "--resume", "--out", tmp_path],
    ):
        status, line = said(*command)
        assert status == 1
        assert "is not a run folder: it has no config.toml" in line
    assert "does not exist" in said("sample", tmp_path / "no", "--out", tmp_path / "a.png")[1]


def checkpoint(run: Path, update: int, suffix: str) -> Path:
    return run / "checkpoints" / f"update-{update:010d}.{suffix}"


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, run_copy: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint(run_copy, 6, "safetensors")
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "corrupt":
        content[-5] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    status = main(["train", "nlm", "--out", str(run_copy), "--resume", "--quiet"])
    error = capsys.readouterr().err
    assert status == 0
    assert "note: update-0000000006.safetensors" in error
    assert "going back to the checkpoint of update 3" in error
    assert file.read_bytes() == checkpoint(trained, 6, "safetensors").read_bytes()


def test_no_good_checkpoint_is_one_sentence(said: Said, run_copy: Path, tmp_path: Path) -> None:
    for update in (3, 6):
        checkpoint(run_copy, update, "safetensors").write_bytes(b"")
    for command in (["sample", run_copy, "--out", tmp_path / "a.png"], ["measure", run_copy],
                    ["train", "nlm", "--out", run_copy, "--resume"]):  # fmt: skip
        status, line = said(*command)
        assert status == 1
        assert "no checkpoint in" in line
        assert "is good" in line


def test_another_schema_of_a_checkpoint(said: Said, run_copy: Path) -> None:
    file = checkpoint(run_copy, 6, "json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    status, line = said("train", "nlm", "--out", run_copy, "--resume", "--updates", "9")
    assert status == 1
    assert "schema version 99, this driftwell reads version 1" in line


def test_another_schema_of_a_run(said: Said, run_copy: Path) -> None:
    file = run_copy / "config.toml"
    file.write_text(file.read_text().replace("schema = 1", "schema = 7"))
    status, line = said("train", "nlm", "--out", run_copy, "--resume")
    assert status == 1
    assert "schema version 7" in line


def test_resuming_changes_nothing_but_the_budget(said: Said, run_copy: Path) -> None:
    words = ["train", "nlm", "--out", run_copy, "--resume"]
    for more in (["--seed", "5"], ["--set", "chains=3"], ["--data", "digits"], ["--threads", "1"]):
        status, line = said(*words, *more)
        assert status == 2
        assert "only the budget may change with --resume" in line
    assert said(*words, "--seed", "0")[0] == 0, "saying what is so already is no change"


def test_data_that_changed_since_the_run_began(
    said: Said, run_copy: Path, stripes: Path, tmp_path: Path
) -> None:
    other = tmp_path / "stripes.npz"
    arrays = dict(np.load(stripes))
    arrays["images"][0, 0, 0] += 0.01
    np.savez(other, **arrays)
    file = run_copy / "config.toml"
    file.write_text(file.read_text().replace(str(stripes), str(other)))
    status, line = said("train", "nlm", "--out", run_copy, "--resume", "--updates", "9")
    assert status == 1
    assert "the training images of stripes have changed since this run began" in line


def test_an_unexpected_error_is_one_line_too(
    said: Said, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import driftwell.cli.sample as command

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a slip\nof ours")

    monkeypatch.setattr(command, "use_machine", broken)
    words = ["sample", str(trained), "--out", str(tmp_path / "a.png")]
    status, line = said(*words)
    assert status == 1
    assert line == "ZeroDivisionError: a slip (unexpected; set DRIFTWELL_DEBUG=1 to see where)"
    monkeypatch.setenv("DRIFTWELL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(words)
