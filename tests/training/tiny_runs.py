"""Runs of every kind that train in a fraction of a second."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from tests.training.ring import save_ring

from driftwell.cli.main import main
from driftwell.training.run_folder import RunFolder

UPDATES = 12
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "nlm": ("nlm", {"hidden": 8, "levels": 4, "sample_steps": 40, "batch": 16}),
    "pcd": ("nlm", {"chains": 12, "batch": 10, "langevin_steps": 3, "sample_steps": 40}),
    "deq": ("deq", {"width": 8, "batch": 10}),
    "lpn": ("lpn", {"hidden": 8, "depth": 2, "batch": 10}),
    "ignn": ("ignn", {"width": 4, "kappa": 0.8}),
}
"""Kind and settings by the name of a tiny run; "pcd" is a Langevin machine learned by contrast."""


def save_stripes(path: Path) -> Path:
    """60 images of 4x4 with two classes: stripes across or along, at random places."""
    random = np.random.default_rng(0)
    images = np.full((60, 4, 4), 0.1, dtype=np.float32)
    labels = np.arange(60) % 2
    for image, label in zip(images, labels, strict=True):
        place = random.integers(4)
        image[:, place] += 0.8 * label
        image[place] += 0.8 * (1 - label)
    np.savez(path, images=images.clip(0, 1), labels=labels)
    return path


def train_tiny(place: Path, name: str) -> Path:
    """Train the tiny run of that name into `place / name`."""
    kind, settings = SETTINGS[name]
    data = (save_ring if kind == "ignn" else save_stripes)(place / f"{kind}-data.npz")
    changes = [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
    changes += ["--preset", "yu2025-pcd"] if name == "pcd" else []
    words = ["--data", str(data), *changes, "--updates", str(UPDATES), "--out", str(place / name)]
    assert main(["train", kind, *words, "--quiet"]) == 0
    return place / name


def open_run(path: Path) -> tuple[Any, Any]:
    """The kind of a run folder, and the run."""
    kind = RunFolder.open(path).config.kind
    return kind, kind.load(path)


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its place."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
