"""`ImageSet`: grey images in [0, 1] with their labels and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, permutation

__all__ = ["ImageSet"]


@final
@dataclass(frozen=True, eq=False)
class ImageSet:
    """Grey images in [0, 1], all of one size, with labels where they are known.

    Attributes:
        images: float32 (n, height, width), 0 black and 1 white.
        labels: int64 (n,), or None.
        name: short name, such as ``"digits"``.
        source: provenance in words; every selection appends what it did.

    Raises:
        InvalidInput: an empty set, a wrong shape or dtype, values outside [0, 1], NaN/Inf, or
            as many labels as there are not images.

    Example:
        >>> images = ImageSet(torch.rand(4, 8, 8), torch.tensor([0, 1, 0, 2]), "noise", "made here")
        >>> images.classes, images.select([0]).images.shape
        ((0, 1, 2), torch.Size([2, 8, 8]))
    """

    images: Tensor
    labels: Tensor | None = None
    name: str = "images"
    source: str = ""

    def __post_init__(self) -> None:
        check_pixels(self.images, self.name)
        if self.labels is None:
            return
        if self.labels.ndim != 1 or len(self.labels) != len(self.images):
            raise InvalidInput(
                f"{self.name}: {len(self.images)} images but labels of shape "
                f"{tuple(self.labels.shape)}: one label for each image is needed"
            )
        if self.labels.dtype != torch.int64:
            raise InvalidInput(f"{self.name}: labels must be int64, not {self.labels.dtype}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        labels = "unlabelled" if self.labels is None else f"classes {_listed(self.classes)}"
        return f"ImageSet({self.name!r}: {len(self)} of {self.height}x{self.width}, {labels})"

    @property
    def height(self) -> int:
        """Rows of an image."""
        return self.images.shape[1]

    @property
    def width(self) -> int:
        """Columns of an image."""
        return self.images.shape[2]

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """Labels that occur, ascending; empty without labels."""
        return () if self.labels is None else tuple(self.labels.unique().tolist())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content (shape, pixels, labels), as 64 hexadecimal digits.

        Name and source do not enter: the same pixels from another file have the same fingerprint.
        """
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())
        if self.labels is not None:
            digest.update(b"labels")
            digest.update(self.labels.cpu().numpy().astype("<i8", copy=False).tobytes())
        return digest.hexdigest()

    def flat(self) -> Tensor:
        """The images as vectors, (n, height * width), row after row."""
        return self.images.reshape(len(self), -1)

    def select(self, classes: Sequence[int]) -> ImageSet:
        """The images whose label is one of `classes`, in file order.

        Raises:
            InvalidInput: no labels, no class given, or a class that does not occur.
        """
        if self.labels is None:
            raise InvalidInput(
                f"{self.name} has no labels, so classes {_listed(classes)} cannot be selected: "
                "give the labels, or leave the classes out"
            )
        wanted = sorted(set(classes))
        if not wanted:
            raise InvalidInput("no class was asked for: name at least one, or leave them out")
        missing = [label for label in wanted if label not in self.classes]
        if missing:
            word = "class" if len(missing) == 1 else "classes"
            raise InvalidInput(
                f"{word} {_listed(missing)} not present in {self.name}: "
                f"it has {_listed(self.classes)}"
            )
        keep = torch.isin(self.labels, torch.tensor(wanted, device=self.labels.device))
        return self._subset(keep, f"classes {_listed(wanted)}")

    def take(self, n: int) -> ImageSet:
        """The first n images in file order.

        Raises:
            InvalidInput: n < 1, or more than there are.
        """
        if not 1 <= n <= len(self):
            raise InvalidInput(
                f"{n} images of {self.name} were asked for: it has {len(self)}, ask for 1 to that"
            )
        return self._subset(slice(0, n), f"first {n}")

    def split(self, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """Two disjoint parts by a keyed permutation: (train, held out), each in file order.

        Args:
            fraction: share of the first part, in (0, 1); its size is rounded to the nearest
                number, and each part gets at least one image.
            seed: the split's own seed; the same for the same number of images on any machine.

        Raises:
            InvalidInput: a fraction outside (0, 1), or fewer than two images.
        """
        if not 0.0 < fraction < 1.0:
            raise InvalidInput(f"a split needs a fraction between 0 and 1, not {fraction:g}")
        if len(self) < 2:
            raise InvalidInput(f"{self.name} has one image only, which cannot be split in two")
        size = min(max(round(fraction * len(self)), 1), len(self) - 1)
        order = permutation(len(self), seed=seed, purpose=Purpose.DATA, step=0).to(
            self.images.device
        )
        parts = order[:size].sort().values, order[size:].sort().values
        said = f"keyed split {fraction:g}, seed {seed}"
        return self._subset(parts[0], f"train part of {said}"), self._subset(
            parts[1], f"held-out part of {said}"
        )

    def resize(self, height: int, width: int) -> ImageSet:
        """The images at another size: block means where the sizes divide, else bilinear.

        The bilinear filter is widened when shrinking (antialias), so no pixel is skipped.

        Raises:
            InvalidInput: a size below 1.
        """
        if height < 1 or width < 1:
            raise InvalidInput(f"images cannot be resized to {height}x{width}")
        if (height, width) == (self.height, self.width):
            return self
        planes = self.images[:, None]
        if self.height % height == 0 and self.width % width == 0:
            resized = torch.nn.functional.interpolate(planes, size=(height, width), mode="area")
        else:
            resized = torch.nn.functional.interpolate(
                planes, size=(height, width), mode="bilinear", antialias=True
            )
        # The widened filter's weights sum to one only up to rounding.
        return self._changed(resized[:, 0].clamp(0.0, 1.0), self.labels, f"{height}x{width}")

    def _subset(self, index: Tensor | slice, note: str) -> ImageSet:
        labels = None if self.labels is None else self.labels[index]
        return self._changed(self.images[index], labels, note)

    def _changed(self, images: Tensor, labels: Tensor | None, note: str) -> ImageSet:
        source = f"{self.source}; {note}" if self.source else note
        return replace(self, images=images, labels=labels, source=source)


def check_pixels(images: Tensor, name: str) -> None:
    """Raise one sentence unless `images` is a non-empty float32 (n, height, width) in [0, 1]."""
    if images.ndim != 3:
        raise InvalidInput(
            f"{name}: images have the shape (n, height, width), not {tuple(images.shape)}"
        )
    if images.numel() == 0:
        raise InvalidInput(f"{name} is empty: no pixel in the shape {tuple(images.shape)}")
    if images.dtype != torch.float32:
        raise InvalidInput(f"{name}: images must be float32, not {images.dtype}")
    check_values(images, name)


def check_values(images: Tensor, name: str) -> None:
    """Raise one sentence unless all of `images` (n, height, width) is finite and in [0, 1]."""
    low, high = (float(bound) for bound in torch.aminmax(images))
    if 0.0 <= low and high <= 1.0:
        return
    finite = torch.isfinite(images)
    if not bool(finite.all()):
        broken = (~finite).nonzero()
        raise InvalidInput(
            f"{name} has {len(broken)} NaN or infinite values, the first at image {broken[0, 0]}, "
            f"row {broken[0, 1]}, column {broken[0, 2]}: repair or drop these images"
        )
    raise InvalidInput(f"{name}: values from {low:.10g} to {high:.10g}, but {_advice(low, high)}")


def _advice(low: float, high: float) -> str:
    if low >= 0.0 and high <= 255.0:
        return "floats must lie in [0, 1]: divide them by 255, or store them as uint8"
    if low >= -1.0 and high <= 1.0:
        return "floats must lie in [0, 1]: store (x + 1) / 2 instead"
    return "floats must lie in [0, 1]: rescale them"


def _listed(labels: Sequence[int]) -> str:
    return ", ".join(str(label) for label in labels) or "none"
