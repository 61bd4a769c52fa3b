"""Reader of idx files, the format of MNIST, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from driftwell.core.errors import InvalidInput

__all__ = ["find_idx_labels", "is_idx", "read_idx"]

# Third byte of the file -> big-endian numpy type.
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def is_idx(path: Path) -> bool:
    """Whether the name says idx: ``*.idx``, ``*-idx3-ubyte`` and the like, with or without .gz."""
    stem = path.name.lower().removesuffix(".gz")
    return stem.endswith((".idx", "-ubyte", ".idx1", ".idx3", ".idx1-ubyte", ".idx3-ubyte"))


def read_idx(path: Path) -> npt.NDArray[np.generic]:
    """Array of an idx file: bytes 0, 0, type, ndim; ndim big-endian sizes; the values, row-major.

    Args:
        path: the file; gzip is recognised by its first two bytes, not by its name.

    Raises:
        InvalidInput: not an idx file, truncated or corrupt, or more bytes than the header says.
    """
    content = _uncompressed(path)
    if len(content) < 4 or content[0] or content[1] or content[2] not in _TYPES:
        raise InvalidInput(
            f"{path} is not an idx file: it starts with bytes {content[:4].hex(' ') or 'none'}, "
            "an idx file with 00 00, a type 08 to 0e and the number of dimensions"
        )
    ndim = content[3]
    start = 4 + 4 * ndim
    if ndim == 0 or len(content) < start:
        raise InvalidInput(f"{path} is truncated: its header of {ndim} dimensions is not complete")
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim))
    kind = np.dtype(_TYPES[content[2]])
    expected = start + math.prod(shape) * kind.itemsize
    if len(content) != expected:
        said = "is truncated" if len(content) < expected else "has bytes left over"
        raise InvalidInput(
            f"{path} {said}: its header says {' x '.join(map(str, shape))} values, "
            f"which is {expected} bytes, but there are {len(content)}"
        )
    return np.frombuffer(content, kind, offset=start).reshape(shape)


def _uncompressed(path: Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        if path.suffix.lower() == ".gz":
            raise InvalidInput(f"{path} is named .gz but is not gzipped: it is corrupt or misnamed")
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise InvalidInput(
            f"{path} is truncated or corrupt (gzip: {error}): copy it again"
        ) from error


def find_idx_labels(images: Path) -> Path | None:
    """The labels that MNIST's naming puts beside the images, if they exist.

    ``train-images-idx3-ubyte.gz`` goes with ``train-labels-idx1-ubyte.gz``, gzipped or not.
    """
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    if name == images.name:
        return None
    plain = name.removesuffix(".gz")
    for candidate in (name, plain, f"{plain}.gz"):
        if (images.parent / candidate).is_file():
            return images.parent / candidate
    return None
