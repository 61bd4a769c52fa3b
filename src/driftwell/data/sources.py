"""`load` and `read`: image sets by name or by path. Nothing is ever downloaded."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from driftwell.core.errors import InvalidInput, require
from driftwell.data.arrays import as_labels, as_pixels, read_csv, read_npy, read_npz
from driftwell.data.folder import is_image, read_folder, read_image
from driftwell.data.idx import find_idx_labels, is_idx, read_idx
from driftwell.data.images import ImageSet

__all__ = ["Split", "load", "read"]

Split = Literal["train", "test", "all"]

_SPLITS = ("train", "test", "all")
# Sets without an official split get a fixed one.
_TRAIN_SHARE, _SPLIT_SEED = 0.8, 0
# Name -> folders looked for under $DRIFTWELL_DATA.
_MNIST_LIKE = {"mnist": ("mnist",), "fashion": ("fashion-mnist", "fashion")}
_NAMES = ("digits", *_MNIST_LIKE)
_PREFIX = {"train": "train", "test": "t10k"}


def load(name_or_path: str | os.PathLike[str], split: Split = "train") -> ImageSet:
    """An image set by its name, ``digits``, ``mnist`` or ``fashion``, or by its path.

    `digits` are the 1797 images of 8x8 that come with scikit-learn (the extra ``demo``). `mnist`
    and `fashion` are read from the folders ``mnist`` and ``fashion-mnist`` under
    ``$DRIFTWELL_DATA``; nothing is downloaded. A path is what `read` takes, or a folder with
    MNIST's four files. Sets without an official split are split 80/20 by a fixed keyed
    permutation (seed 0), so that train and test are the same on every machine.

    Args:
        name_or_path: a name, else a path.
        split: ``"train"``, ``"test"``, or ``"all"`` (train, then test, where it is official).

    Raises:
        InvalidInput: an unknown name or path, a missing or broken file, or an unknown split.
        MissingExtra: digits without scikit-learn.

    Example:
        >>> load("digits", "test")  # doctest: +SKIP
        ImageSet('digits': 359 of 8x8, classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    """
    if split not in _SPLITS:
        raise InvalidInput(f"the split is train, test or all, not {split!r}")
    name = os.fspath(name_or_path)
    if name == "digits":
        return _part(_digits(), split)
    if name in _MNIST_LIKE:
        return _mnist_like(_named_folder(name), name, split)
    path = Path(name).expanduser()
    if not path.exists():
        close = difflib.get_close_matches(name, _NAMES, n=1)
        hint = f", did you mean {close[0]}" if close else ""
        raise InvalidInput(
            f"no data at {name!r}: it is not a path that exists, nor one of "
            f"{', '.join(_NAMES)}{hint}"
        )
    if path.is_dir() and _idx_file(path, "train", "images") is not None:
        return _mnist_like(path, path.name, split)
    return _part(read(path), split)


def read(
    path: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    *,
    shape: tuple[int, int] | None = None,
) -> ImageSet:
    """The images of a file or folder, all of them, as float32 in [0, 1].

    By suffix: ``.npy`` (n, height, width) or (n, pixels); ``.npz`` (images, x or data; labels or
    y); ``.csv`` (one image a row, a label column if the header names one); idx, as MNIST's
    ``train-images-idx3-ubyte.gz`` (labels are found beside); an image file; a folder of image
    files (sub-folders are classes). Integers are grey levels 0 to 255; floats must be in [0, 1].

    Args:
        path: the file or folder.
        labels: a file (.npy or idx) of whole numbers, one for each image.
        shape: (height, width) of images stored as vectors; None: they are square.

    Raises:
        InvalidInput: a path that does not exist, an unknown suffix, or content that cannot be
            used; the sentence names the file.

    Example:
        >>> import numpy, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy.save(folder + "/noise.npy", numpy.full((3, 16), 0.5))
        ...     read(folder + "/noise.npy")
        ImageSet('noise': 3 of 4x4, unlabelled)
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise InvalidInput(f"{file} does not exist: check the path of the data")
    reader = _reader_of(file)
    try:
        found = reader(file, shape)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror or error}") from error
    if labels is None:
        return found
    given = Path(labels).expanduser()
    if not given.is_file():
        raise InvalidInput(f"{given} does not exist: check the path of the labels")
    values = as_labels(read_npy(given) if given.suffix == ".npy" else read_idx(given), str(given),
                       len(found))  # fmt: skip
    return ImageSet(found.images, values, found.name, f"{found.source}, labels {given}")


def _reader_of(file: Path) -> Callable[[Path, tuple[int, int] | None], ImageSet]:
    if file.is_dir():
        return _from_folder
    readers = {".npy": _from_npy, ".npz": _from_npz, ".csv": _from_csv}
    if file.suffix.lower() in readers:
        return readers[file.suffix.lower()]
    if is_idx(file):
        return _from_idx
    if is_image(file):
        return _from_image
    raise InvalidInput(
        f"{file} has the unknown suffix {file.suffix or '(none)'!r}: known are .npy, .npz, .csv, "
        "idx (...-idx3-ubyte, with or without .gz), image files, and folders of image files"
    )


def _from_npy(file: Path, shape: tuple[int, int] | None) -> ImageSet:
    return ImageSet(as_pixels(read_npy(file), str(file), shape), None, file.stem, f"file {file}")


def _from_npz(file: Path, shape: tuple[int, int] | None) -> ImageSet:
    return _with_labels(file, shape, *read_npz(file))


def _from_csv(file: Path, shape: tuple[int, int] | None) -> ImageSet:
    return _with_labels(file, shape, *read_csv(file))


def _from_idx(file: Path, shape: tuple[int, int] | None) -> ImageSet:
    array = read_idx(file)
    beside = find_idx_labels(file)
    if array.ndim == 1:
        raise InvalidInput(f"{file} holds {len(array)} single numbers, labels perhaps: give images")
    images = as_pixels(array, str(file), shape)
    if beside is None:
        return ImageSet(images, None, file.name.split(".")[0], f"file {file}")
    labels = as_labels(read_idx(beside), str(beside), len(images))
    return ImageSet(images, labels, file.name.split(".")[0], f"file {file}, labels {beside.name}")


def _from_image(file: Path, shape: tuple[int, int] | None) -> ImageSet:
    del shape  # an image file knows its own
    return ImageSet(read_image(file)[None], None, file.stem, f"file {file}")


def _from_folder(folder: Path, shape: tuple[int, int] | None) -> ImageSet:
    del shape
    images, labels, meaning = read_folder(folder)
    source = f"folder {folder}" + (f" (classes {meaning})" if meaning else "")
    return ImageSet(images, labels, folder.resolve().name, source)


def _with_labels(file: Path, shape: tuple[int, int] | None, images: Any, labels: Any) -> ImageSet:
    pixels = as_pixels(images, str(file), shape)
    known = None if labels is None else as_labels(labels, str(file), len(pixels))
    return ImageSet(pixels, known, file.stem, f"file {file}")


def _part(whole: ImageSet, split: Split) -> ImageSet:
    if split == "all":
        return whole
    return whole.split(_TRAIN_SHARE, _SPLIT_SEED)[0 if split == "train" else 1]


def _digits() -> ImageSet:
    bunch = require("sklearn.datasets", "demo", "to load the digits").load_digits()
    return ImageSet(
        torch.from_numpy(bunch.images / 16.0).float(),
        torch.from_numpy(bunch.target).long(),
        "digits",
        "scikit-learn load_digits (UCI optical recognition of handwritten digits, test part)",
    )


def _idx_file(folder: Path, split: str, kind: str) -> Path | None:
    stem = f"{_PREFIX[split]}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
    return next((f for f in (folder / f"{stem}.gz", folder / stem) if f.is_file()), None)


def _expected_files() -> str:
    return ", ".join(
        f"{prefix}-{kind}-ubyte.gz"
        for prefix in _PREFIX.values()
        for kind in ("images-idx3", "labels-idx1")
    )


def _named_folder(name: str) -> Path:
    root = os.environ.get("DRIFTWELL_DATA", "")
    folders = _MNIST_LIKE[name]
    if not root:
        raise InvalidInput(
            f"{name} is not bundled and nothing is downloaded: set DRIFTWELL_DATA to the folder "
            f"that has {folders[0]}/ with {_expected_files()}, or give a path instead of a name"
        )
    for folder in folders:
        if (Path(root) / folder).is_dir():
            return Path(root) / folder
    raise InvalidInput(
        f"{name} is not under DRIFTWELL_DATA ({root}): put {_expected_files()} "
        f"into {Path(root) / folders[0]}, or give a path instead of a name"
    )


def _mnist_like(folder: Path, name: str, split: Split) -> ImageSet:
    parts = []
    for part in ("train", "test") if split == "all" else (split,):
        images, labels = (_idx_file(folder, part, kind) for kind in ("images", "labels"))
        if images is None or labels is None:
            missing = f"{_PREFIX[part]}-{'images-idx3' if images is None else 'labels-idx1'}-ubyte"
            raise InvalidInput(f"{folder} lacks {missing} (or .gz), the {part} part of {name}")
        parts.append(_from_idx(images, None))
    pixels = torch.cat([part.images for part in parts])
    known = torch.cat([part.labels for part in parts if part.labels is not None])
    return ImageSet(pixels, known, name, f"{name}, {split} part, from {folder}")
