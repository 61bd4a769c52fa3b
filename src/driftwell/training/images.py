"""The images a run learns from and those held out, as its settings name them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.data import ImageSet, Split, load, read
from driftwell.training.config import RunConfig

NAMES = ("digits", "mnist", "fashion")


def training_images(config: RunConfig) -> ImageSet:
    """Images that `config` trains on: part, classes, size, then the first so many.

    Raises:
        InvalidInput: data that are not there, cannot be used, or lack a class asked for.
    """
    images = _selected(config, "train" if config.data.split == "train" else "all")
    if config.data.limit is not None:
        if config.data.limit > len(images):
            raise InvalidInput(
                f"limit asks for {config.data.limit} images, but {images.name} has {len(images)} "
                "of these classes: lower it or leave it out"
            )
        return images.take(config.data.limit)
    limit = config.recipe.data_limit
    return images.take(min(limit, len(images))) if limit else images


def held_out_images(config: RunConfig) -> ImageSet:
    """Images of the test part, of the same classes and size.

    They were not trained on unless the run took the split ``all``.

    Raises:
        InvalidInput: data that are not there or cannot be used.
    """
    return _selected(config, "test")


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """`config` with the data's paths made absolute, so that a run resumes from anywhere."""
    data = config.data
    source, labels = data.source, data.labels
    if source not in config.kind.sources and Path(source).expanduser().exists():
        source = str(Path(source).expanduser().resolve())
    if labels is not None and Path(labels).expanduser().exists():
        labels = str(Path(labels).expanduser().resolve())
    return replace(config, data=replace(data, source=source, labels=labels))


def describe(images: ImageSet) -> dict[str, Any]:
    """What a checkpoint notes of the images: size, provenance, fingerprint."""
    return {
        "name": images.name, "source": images.source, "images": len(images),
        "height": images.height, "width": images.width, "classes": list(images.classes),
        "fingerprint": images.fingerprint,
    }  # fmt: skip


def class_indices(images: ImageSet) -> Tensor | None:
    """Place of each image's label among the classes that occur, (n,) int64; None without labels.

    Example:
        >>> class_indices(ImageSet(torch.rand(3, 2, 2), torch.tensor([6, 1, 6])))
        tensor([1, 0, 1])
    """
    if images.labels is None:
        return None
    return torch.searchsorted(torch.tensor(images.classes), images.labels.cpu())


def _selected(config: RunConfig, split: Split) -> ImageSet:
    data = config.data
    images = _labelled(data.source, data.labels, split) if data.labels else load(data.source, split)
    if data.classes:
        # a held-out part may lack a class of the training part, never the other way round
        there = [c for c in data.classes if split != "test" or c in images.classes]
        images = images.select(there or data.classes)
    if data.resize is not None:
        images = images.resize(data.resize, data.resize)
    return images


def _labelled(source: str, labels: str, split: Split) -> ImageSet:
    if source in NAMES:
        raise InvalidInput(f"{source} has labels of its own: leave --labels out")
    whole = read(source, labels)
    if split == "all":
        return whole
    # the parts that `load` makes of a path without an official split
    train, held_out = whole.split(0.8, seed=0)
    return train if split == "train" else held_out
