"""Image files of samples: a .png grid, or a .npy array, written whole or not at all."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from driftwell.core.atomic import write_atomically
from driftwell.core.errors import InvalidInput, RunFolderError, require

SUFFIXES = (".png", ".npy")
_LEAST_SIDE = 48  # pixels an image of a grid is enlarged to, at least


def check_output(path: Path) -> None:
    """Raise one sentence unless pictures can be written to `path`, before they are made.

    Raises:
        InvalidInput: another suffix.
        RunFolderError: the folder does not exist, or `path` is a folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(
            f"{path} must end in .png (a grid) or .npy (float32 in [0, 1], (N, height, width))"
        )
    if path.is_dir():
        raise RunFolderError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise RunFolderError(f"{path} cannot be written: there is no folder {path.parent}")


def write_pictures(path: Path, images: Tensor) -> None:
    """Write images in [0, 1], (n, height, width), as `path`'s suffix says.

    Raises:
        InvalidInput: another suffix.
        RunFolderError: the file cannot be written; nothing of it is left behind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_pictures(Path(folder, "a.npy"), torch.zeros(3, 2, 2))
        ...     np.load(Path(folder, "a.npy")).shape
        (3, 2, 2)
    """
    check_output(path)
    buffer = io.BytesIO()
    if path.suffix.lower() == ".npy":
        np.save(buffer, images.detach().cpu().to(torch.float32).numpy())
    else:
        picture = require("PIL.Image", "demo", "to write .png files")
        levels = (grid(images) * 255.0).round().to(torch.uint8).cpu().numpy()
        picture.fromarray(levels).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def grid(images: Tensor) -> Tensor:
    """One picture (H, W) of images (n, height, width), in a grid nearly square, enlarged.

    Example:
        >>> grid(torch.zeros(2, 48, 48)).shape
        torch.Size([56, 108])
    """
    n, height, width = images.shape
    scale = max(1, -(-_LEAST_SIDE // max(height, width)))
    large = images.detach().float().repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    gap = 4
    tall, wide = height * scale + gap, width * scale + gap
    page = torch.full((rows * tall + gap, columns * wide + gap), 1.0)
    for i, image in enumerate(large):
        top, left = i // columns * tall + gap, i % columns * wide + gap
        page[top : top + height * scale, left : left + width * scale] = image
    return page
