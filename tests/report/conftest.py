"""A tiny run: 5x5 images of bars, two classes, trained for a few updates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from driftwell.core.noise import Purpose, uniform
from driftwell.models.langevin.presets import preset
from driftwell.training.config import DataConfig, RunConfig
from driftwell.training.run import Run, load_run, train_run

SIDE = 5


def bars(n: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Noisy images of one bright row (class 0) or one bright column (class 1), by turns."""
    noise = uniform((n, SIDE, SIDE), seed=5, purpose=Purpose.USER, chains=n, step=0)
    images = 0.25 * noise
    for i in range(n):
        place = (i // 2) % SIDE
        if i % 2:
            images[i, :, place] += 0.7
        else:
            images[i, place, :] += 0.7
    return images.numpy(), numpy.arange(n) % 2


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of 40 updates on 200 images."""
    place = tmp_path_factory.mktemp("report")
    images, labels = bars(250)
    numpy.savez(place / "bars.npz", images=images, labels=labels)
    recipe = replace(
        preset("yu2025-pcd"), chains=64, batch=64, langevin_steps=5, sample_steps=160,
        step_size=0.02, sampler="langevin", learning_rate=2e-3,
    )  # fmt: skip
    config = RunConfig(data=DataConfig(source=str(place / "bars.npz")), recipe=recipe, updates=40)
    train_run(config, place / "run")
    return place / "run"


@pytest.fixture(scope="session")
def denoising_folder(trained_folder: Path) -> Path:
    """Run folder of a noise-conditional machine on the same images."""
    recipe = replace(preset("default"), hidden=16, batch=64, levels=6, sample_steps=60)
    source = trained_folder.parent / "bars.npz"
    config = RunConfig(data=DataConfig(source=str(source)), recipe=recipe, updates=60)
    train_run(config, trained_folder.parent / "denoising")
    return trained_folder.parent / "denoising"


@pytest.fixture(scope="session")
def run(trained_folder: Path) -> Run:
    """The run of `trained_folder`."""
    return load_run(trained_folder)


@pytest.fixture(scope="session")
def found(run: Run):
    """Its measurements."""
    from driftwell.report import measure_run

    return measure_run(run, samples=60, seed=3)


@pytest.fixture(scope="session")
def page(trained_folder: Path) -> str:
    """Text of its report."""
    from driftwell.report import write_report

    assert torch.get_num_threads() == 1
    return write_report(trained_folder, samples=60, seed=3).read_text(encoding="utf-8")
