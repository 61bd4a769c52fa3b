"""A run that is killed or stopped at any moment goes on as if it had not been."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

UPDATES = 60
CommandLine = Callable[..., Any]


def final(run: Path, update: int = UPDATES) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"update-{update:010d}.safetensors")


def assert_same_run(a: Path, b: Path) -> None:
    first, second = final(a), final(b)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    assert (a / "config.toml").read_bytes() == (b / "config.toml").read_bytes()


@pytest.fixture(scope="module")
def unbroken(
    driftwell: CommandLine, stripes: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    options = [
        "--data", str(stripes), "--preset", "yu2025-pcd",
        "--set", "chains=12", "--set", "batch=10", "--set", "langevin_steps=3",
        "--updates", str(UPDATES), "--checkpoint-every", "4", "--quiet",
    ]  # fmt: skip
    run = tmp_path_factory.mktemp("unbroken") / "run"
    ended = driftwell("train", "nlm", *options, "--out", run)
    assert ended.status == 0, ended.said
    return options, run


@pytest.mark.parametrize("trial", range(4))
def test_kill_9_at_random_moments_changes_nothing(
    driftwell: CommandLine, unbroken: tuple[list[str], Path], tmp_path: Path, trial: int
) -> None:
    options, reference = unbroken
    run, dice = tmp_path / "run", random.Random(trial)
    kills = 0
    for _ in range(12):
        again = (run / "config.toml").is_file()
        words = ["--out", run, "--resume", "--quiet"] if again else [*options, "--out", run]
        done = len((run / "metrics.jsonl").read_bytes().splitlines()) if again else 0
        ended = driftwell(
            "train", "nlm", *words, signal=signal.SIGKILL, watch=run / "metrics.jsonl",
            lines=dice.choice([0, done + 1, done + 5, done + 9]), delay=dice.uniform(0.0, 0.03),
        )  # fmt: skip
        assert ended.status in (0, -signal.SIGKILL), ended.said
        kills += ended.status != 0
        if ended.status == 0:
            break
    else:
        ended = driftwell("train", "nlm", "--out", run, "--resume", "--quiet")
        assert ended.status == 0, ended.said
    assert kills > 0
    assert_same_run(run, reference)
    left = {p.name for p in run.rglob("*") if p.name.endswith(".tmp")}
    assert not left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_update_under_way_and_says_how_to_resume(
    driftwell: CommandLine, unbroken: tuple[list[str], Path], tmp_path: Path, number: int
) -> None:
    options, reference = unbroken
    run = tmp_path / "run"
    ended = driftwell(
        "train", "nlm", *options, "--out", run, "--updates", 100_000,
        signal=number, watch=run / "metrics.jsonl", lines=10,
    )  # fmt: skip
    assert ended.status == 128 + number, ended.said
    assert f"driftwell train nlm --out {run} --resume" in ended.said
    assert "Traceback" not in ended.said
    lines = (run / "metrics.jsonl").read_bytes().splitlines()
    assert final(run, len(lines)), "the very last update was saved"
    if len(lines) < UPDATES:
        ended = driftwell("train", "nlm", "--out", run, "--resume", "--updates", UPDATES)
        assert ended.status == 0, ended.said
        assert_same_run(run, reference)


def test_sampling_that_is_killed_leaves_nothing_half_written_and_goes_on(
    driftwell: CommandLine, unbroken: tuple[list[str], Path], tmp_path: Path
) -> None:
    run = unbroken[1]
    words = ["sample", run, "-n", 600, "--steps", 3000, "--seed", 1, "--out"]
    whole = tmp_path / "whole.npy"
    assert driftwell(*words, whole).status == 0
    out, partial = tmp_path / "a.npy", tmp_path / ".a.npy.partial.0"
    ended = driftwell(*words, out, signal=signal.SIGKILL, watch=partial, lines=1)
    assert ended.status == -signal.SIGKILL, ended.said
    assert not out.exists()
    assert partial.is_file(), "the first portion of 256 images was finished"
    ended = driftwell(*words, out)
    assert ended.status == 0, ended.said
    assert "going on with" in ended.said
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "whole.npy"]


def test_sampling_that_is_stopped_says_how_to_go_on(
    driftwell: CommandLine, unbroken: tuple[list[str], Path], tmp_path: Path
) -> None:
    out, partial = tmp_path / "a.npy", tmp_path / ".a.npy.partial.0"
    words = ["sample", unbroken[1], "-n", 600, "--steps", 3000, "--out", out]
    ended = driftwell(*words, signal=signal.SIGINT, watch=partial, lines=1)
    assert ended.status == 130, ended.said
    assert "the same command goes on from there" in ended.said
    assert "Traceback" not in ended.said
    assert not out.exists()
