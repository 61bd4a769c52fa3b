"""Several processes train and sample what one would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

CommandLine = Callable[..., Any]
UPDATES = 100


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"update-{UPDATES:010d}.safetensors")


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12))


# shares of two processes are uneven
KINDS = {
    "contrastive": {
        "preset": "yu2025-pcd", "learning_rate": 1e-3, "chains": 13, "batch": 9,
        "langevin_steps": 3, "sample_steps": 100,
    },
    "with labels and hidden neurons": {
        "preset": "yu2025-pcd", "chains": 13, "batch": 9, "langevin_steps": 3, "hidden": 3,
        "clamped_steps": 2, "label_scale": 1.0, "sample_steps": 100,
    },
    "denoising": {
        "preset": "default", "batch": 9, "hidden": 8, "levels": 10, "sample_steps": 100,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def alone(
    driftwell: CommandLine,
    stripes: Path,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[str], Path]:
    settings = dict(KINDS[request.param])
    options = ["--data", str(stripes), "--preset", str(settings.pop("preset")), "--quiet"]
    options += ["--updates", str(UPDATES)]
    options += [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
    run = tmp_path_factory.mktemp("alone") / "run"
    ended = driftwell("train", "nlm", *options, "--out", run)
    assert ended.status == 0, ended.said
    return options, run


def assert_same_machine(run: Path, reference: Path) -> None:
    one, two = tensors(reference), tensors(run)
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith("machine."):
            assert relative(two[name], one[name]) < 1e-5, name


def test_two_processes_train_the_weights_of_one(
    driftwell: CommandLine, alone: tuple[list[str], Path], tmp_path: Path
) -> None:
    options, reference = alone
    run = tmp_path / "run"
    ended = driftwell("train", "nlm", *options, "--out", run, processes=2)
    assert ended.status == 0, ended.said
    assert_same_machine(run, reference)
    one, two = tensors(reference), tensors(run)
    assert {k: v.shape for k, v in two.items()} == {k: v.shape for k, v in one.items()}
    if "chains" in one:
        assert relative(two["chains"], one["chains"]) < 1e-3
    lines = [(r / "metrics.jsonl").read_text().splitlines() for r in (run, reference)]
    assert len(lines[0]) == len(lines[1]) == UPDATES, "the leader alone writes"
    for ours, theirs in zip(*(map(json.loads, part) for part in lines), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_one_process_goes_on_with_the_run_of_two(
    driftwell: CommandLine, alone: tuple[list[str], Path], tmp_path: Path
) -> None:
    options, reference = alone
    run = tmp_path / "run"
    half = [str(UPDATES // 2) if word == str(UPDATES) else word for word in options]
    assert driftwell("train", "nlm", *half, "--out", run, processes=2).status == 0
    ended = driftwell("train", "nlm", "--out", run, "--resume", "--updates", UPDATES)
    assert ended.status == 0, ended.said
    assert "processes differ" in ended.said
    assert_same_machine(run, reference)


def test_two_processes_sample_the_chains_of_one(
    driftwell: CommandLine, alone: tuple[list[str], Path], tmp_path: Path
) -> None:
    run, one, two = alone[1], tmp_path / "one.npy", tmp_path / "two.npy"
    words = ["sample", run, "-n", 7, "--seed", 3, "--quiet", "--out"]
    assert driftwell(*words, one).status == 0
    assert driftwell(*words, two, processes=2).status == 0
    np.testing.assert_allclose(np.load(two), np.load(one), atol=1e-4)


def test_bad_input_is_said_once_by_two_processes(
    driftwell: CommandLine, stripes: Path, tmp_path: Path
) -> None:
    ended = driftwell(
        "train", "nlm", "--data", stripes, "--classes", "7", "--out", tmp_path / "run", processes=2
    )
    assert ended.status == 2
    assert ended.said.count("class 7 not present") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("alone", ["contrastive"], indirect=True)
def test_torchrun_itself(alone: tuple[list[str], Path], tmp_path: Path) -> None:
    options, reference = alone
    run = tmp_path / "run"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "driftwell", "train", "nlm", *options, "--out", str(run),
        ],
        capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_same_machine(run, reference)
