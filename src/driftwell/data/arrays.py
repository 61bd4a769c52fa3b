"""Readers of numeric tables: .npy, .npz and .csv, and the rules from numbers to pixels."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.data.images import check_values

__all__ = ["as_labels", "as_pixels", "read_csv", "read_npy", "read_npz"]

Array = npt.NDArray[np.generic]

_IMAGE_KEYS = ("images", "x", "data")
_LABEL_KEYS = ("labels", "y")
_LABEL_COLUMNS = ("label", "labels", "class", "y")


def read_npy(path: Path) -> Array:
    """Array of a .npy file; pickled objects are refused.

    Raises:
        InvalidInput: pickled, truncated or corrupt.
    """
    try:
        with path.open("rb") as stream:
            array: Array = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise InvalidInput(_why(path, error)) from error
    return array


def read_npz(path: Path) -> tuple[Array, Array | None]:
    """Images (key images, x or data) and labels (key labels or y, if there) of a .npz file.

    Raises:
        InvalidInput: no such key, pickled, truncated or corrupt.
    """
    try:
        # Opened here: numpy would leave the file of a corrupt archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            keys = list(archive.files)
            images = _only(path, keys, _IMAGE_KEYS, needed=True)
            labels = _only(path, keys, _LABEL_KEYS, needed=False)
            return archive[str(images)], None if labels is None else archive[labels]
    except InvalidInput:
        raise
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInput(_why(path, error)) from error


def _only(path: Path, keys: list[str], names: Sequence[str], needed: bool) -> str | None:
    found = [key for key in keys if key in names]
    if len(found) > 1 or (needed and not found):
        raise InvalidInput(
            f"{path} has the arrays {', '.join(keys) or 'none'}: exactly one must be named "
            f"{', '.join(names[:-1])} or {names[-1]}"
        )
    return found[0] if found else None


def _why(path: Path, error: Exception) -> str:
    text = str(error).lower()
    if "pickle" in text or "object array" in text:
        return (
            f"{path} holds pickled objects (or is no numpy file), which are never loaded: "
            "save a plain array of numbers with numpy.save"
        )
    return (
        f"{path} is truncated or corrupt: {str(error).splitlines()[0] if str(error) else 'empty'}"
    )


def read_csv(path: Path) -> tuple[Array, Array | None]:
    """Rows of numbers of a .csv file, and its label column if the header names one.

    The header line is optional; a column named label, labels, class or y holds the labels, all
    others are pixels in row-major order. Numbers written without point or exponent are grey
    levels 0 to 255, the others floats.

    Raises:
        InvalidInput: an entry that is not a number, rows of different length, or no row.
    """
    try:
        lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not a text file: {error.reason}") from error
    if not lines:
        raise InvalidInput(f"{path} is empty: no row of pixels")
    names = [cell.strip().strip('"').lower() for cell in lines[0].split(",")]
    header = not all(_is_number(cell) for cell in names)
    rows = lines[1:] if header else lines
    if not rows:
        raise InvalidInput(f"{path} is empty: a header, but no row of pixels")
    width = len(names)
    for number, row in enumerate(rows, start=2 if header else 1):
        if row.count(",") + 1 != width:
            raise InvalidInput(
                f"{path}: row {number} has {row.count(',') + 1} entries, the first has {width}"
            )
    values = _numbers(path, rows, header)
    columns = [i for i, name in enumerate(names) if header and name in _LABEL_COLUMNS]
    if len(columns) > 1:
        raise InvalidInput(f"{path} has {len(columns)} label columns: keep one")
    labels = values[:, columns[0]] if columns else None
    pixels = np.delete(values, columns, axis=1)
    if not columns and not _square(pixels.shape[1]) and _square(pixels.shape[1] - 1):
        raise InvalidInput(
            f"{path} has {width} columns, one more than a square image: if one holds labels, "
            "name it with a header line such as label,0,1,2,..."
        )
    written_as_floats = any(set(row) & set(".eEnN") for row in rows)
    return (pixels if written_as_floats else pixels.astype(np.int64)), labels


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(path: Path, rows: list[str], header: bool) -> npt.NDArray[np.float64]:
    try:
        return np.loadtxt(rows, delimiter=",", dtype=np.float64, ndmin=2, comments=None)
    except ValueError:
        for number, row in enumerate(rows, start=2 if header else 1):
            for column, cell in enumerate(row.split(","), start=1):
                if not _is_number(cell):
                    raise InvalidInput(
                        f"{path}: row {number}, column {column} is {cell.strip()[:20]!r}, "
                        "which is not a number"
                    ) from None
        raise


def _square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def as_pixels(array: Array, name: str, shape: tuple[int, int] | None = None) -> Tensor:
    """Numbers of a file as float32 images (n, height, width): integers are divided by 255.

    Args:
        array: (n, height, width), or (n, height * width) of square images or of `shape`.
        name: named in the errors.
        shape: (height, width) of images stored as vectors; None: square.

    Raises:
        InvalidInput: another number of dimensions, a size that is no square (or not `shape`),
            integers outside 0..255 or of 0 and 1 only, or values that are not real numbers.
    """
    if array.dtype.kind not in "buif":
        raise InvalidInput(f"{name} holds {array.dtype}, images are made of real numbers")
    if array.ndim not in (2, 3):
        raise InvalidInput(
            f"{name} has the shape {array.shape}: images have 3 dimensions (n, height, width), "
            "or 2 as vectors (n, height * width)"
        )
    if array.size == 0:
        raise InvalidInput(f"{name} is empty: its shape is {array.shape}")
    array = _with_sides(array, name, shape)
    if array.dtype.kind == "b":
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.kind in "ui":
        return torch.from_numpy(_from_grey_levels(array, name))
    wide = torch.from_numpy(array.astype(np.float64))
    # Before rounding to float32: a value just above 1 is refused, not rounded into the range.
    check_values(wide, name)
    return wide.float()


def _with_sides(array: Array, name: str, shape: tuple[int, int] | None) -> Array:
    if array.ndim == 3:
        if shape is not None and array.shape[1:] != shape:
            raise InvalidInput(
                f"{name} holds images of {array.shape[1]}x{array.shape[2]}, "
                f"not of the given shape {shape[0]}x{shape[1]}"
            )
        return array
    pixels = array.shape[1]
    if shape is None:
        if not _square(pixels):
            raise InvalidInput(
                f"{name} holds vectors of {pixels} pixels, which is not a square: "
                "give the images' shape (height, width)"
            )
        shape = (math.isqrt(pixels), math.isqrt(pixels))
    if shape[0] * shape[1] != pixels:
        raise InvalidInput(
            f"{name} holds vectors of {pixels} pixels, which are not images of the given shape "
            f"{shape[0]}x{shape[1]}"
        )
    return array.reshape(-1, *shape)


def _from_grey_levels(array: Array, name: str) -> npt.NDArray[np.float32]:
    low, high = int(np.min(array)), int(np.max(array))
    if low < 0 or high > 255:
        raise InvalidInput(f"{name}: integers from {low} to {high}, but grey levels are 0 to 255")
    if high == 1:
        raise InvalidInput(
            f"{name} holds the integers 0 and 1 only, which may mean black and white or two "
            "nearly black grey levels: store floats in [0, 1], booleans, or 0 and 255"
        )
    return array.astype(np.float32) / np.float32(255)


def as_labels(array: Array, name: str, count: int) -> Tensor:
    """Labels of a file as int64 (n,): whole numbers, one for each of `count` images.

    Raises:
        InvalidInput: another shape or number, or values that are not whole numbers.
    """
    if array.dtype.kind not in "buif":
        raise InvalidInput(f"{name}: labels must be whole numbers, not {array.dtype}")
    if array.ndim != 1 or len(array) != count:
        raise InvalidInput(
            f"{name}: labels of shape {array.shape} for {count} images: "
            "one label for each image is needed"
        )
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (np.floor(array) == array)
        if not bool(whole.all()):
            first = int(np.argmin(whole))
            raise InvalidInput(
                f"{name}: label {first} is {array[first]}, but labels must be whole numbers"
            )
    return torch.from_numpy(array.astype(np.int64))
