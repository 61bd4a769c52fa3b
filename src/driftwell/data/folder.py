"""Reader of image files: one file, or a folder of them with a sub-folder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput

__all__ = ["is_image", "read_folder", "read_image"]

_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".pbm", ".bmp", ".tif", ".tiff", ".gif", ".webp")
)


def is_image(path: Path) -> bool:
    """Whether the suffix is that of an image file (png, jpg, pgm, bmp, tif, gif, webp...)."""
    return path.suffix.lower() in _SUFFIXES


def read_image(path: Path) -> Tensor:
    """One image file in grey, float32 (height, width) in [0, 1].

    Colour becomes luma (ITU-R 601), transparency is ignored, the camera's orientation is
    applied; of an animation the first frame is taken. 16-bit grey keeps its depth.

    Raises:
        InvalidInput: not an image, truncated or corrupt, or of a mode that has no grey levels.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):
                deep: npt.NDArray[np.generic] = np.asarray(image)
                return torch.from_numpy(deep.astype(np.float32) / 65535.0)
            if image.mode in ("I", "F"):
                raise InvalidInput(
                    f"{path} has 32-bit values without a range: save it with 8 or 16 bits of grey"
                )
            grey = np.asarray(image.convert("L"), dtype=np.float32)
    except InvalidInput:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"{path} is not a readable image: {error}") from error
    return torch.from_numpy(grey / 255.0)


def read_folder(folder: Path) -> tuple[Tensor, Tensor | None, str]:
    """All image files of a folder, in the order of their names.

    Images directly in the folder have no labels. Images in sub-folders are labelled by them:
    by their names if all are whole numbers, else 0, 1, ... in alphabetical order. Hidden files
    and files that are not images are left out.

    Returns:
        Images (n, height, width), labels (n,) or None, and what the labels mean.

    Raises:
        InvalidInput: no image, images both beside and in sub-folders, images of different
            sizes, or one that cannot be read.
    """
    files = _images_in(folder)
    classes = [d for d in sorted(folder.iterdir()) if d.is_dir() and not d.name.startswith(".")]
    members = {d: found for d in classes if (found := _images_in(d))}
    if not files and not members:
        raise InvalidInput(
            f"{folder} holds no image: looked for {', '.join(sorted(_SUFFIXES))} in it and in its "
            "sub-folders"
        )
    if files and members:
        raise InvalidInput(
            f"{folder} holds images both directly ({files[0].name}) and in sub-folders "
            f"({next(iter(members)).name}): sub-folders are classes, so keep one or the other"
        )
    if files:
        return _stacked(files), None, ""
    names = [d.name for d in members]
    numbers = [int(name) for name in names] if all(_is_whole(n) for n in names) else None
    values = numbers if numbers is not None else list(range(len(names)))
    if len(set(values)) != len(values):
        raise InvalidInput(f"{folder}: the sub-folders {', '.join(names)} name one class twice")
    labels = [value for value, found in zip(values, members.values(), strict=True) for _ in found]
    meaning = "" if numbers else ", ".join(f"{v} = {n}" for v, n in zip(values, names, strict=True))
    stacked = _stacked([file for found in members.values() for file in found])
    return stacked, torch.tensor(labels, dtype=torch.int64), meaning


def _is_whole(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.is_file() and is_image(p) and not p.name.startswith(".")
    )


def _stacked(files: list[Path]) -> Tensor:
    images: list[Tensor] = []
    for file in files:
        image = read_image(file)
        if images and image.shape != images[0].shape:
            raise InvalidInput(
                f"{file} is {image.shape[0]}x{image.shape[1]} but {files[0]} is "
                f"{images[0].shape[0]}x{images[0].shape[1]} (height x width): "
                "all images must have one size"
            )
        images.append(image)
    return torch.stack(images)
