"""Seeded scenes of rectangles, with their boxes: for models that find things in images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform

__all__ = ["DetectionScenes", "detection_scenes"]

# Filled, hollow, striped.
CLASSES = 3


@final
@dataclass(frozen=True, eq=False)
class DetectionScenes:
    """Grey images with boxes of things in them.

    Attributes:
        images: (n, side, side), 0 to about 1.
        boxes: (n, most, 4), left, top, right, bottom in pixels; 0 where there is no thing.
        labels: int64 (n, most): 0 filled, 1 hollow, 2 striped; -1 where there is no thing.

    Example:
        >>> len(detection_scenes(5, seed=0, side=32).rows(torch.tensor([0, 3])))
        2
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, index: Tensor) -> DetectionScenes:
        """The scenes number `index` only."""
        return DetectionScenes(self.images[index], self.boxes[index], self.labels[index])


def detection_scenes(
    n: int, seed: int, *, side: int = 64, most: int = 4, noise: float = 0.1
) -> DetectionScenes:
    """Scenes of 1 to `most` rectangles of three kinds on a noisy ground.

    Sides are a fifth to a half of the image's. Later rectangles lie on top of earlier ones; none
    is hidden by more than a fifth of its box, or it is left out. Scene i is the same for every
    n > i.

    Args:
        n: how many scenes, >= 1.
        seed: of the keyed numbers.
        side: of the square images, in pixels, >= 16.
        most: rectangles in a scene, >= 1.
        noise: standard deviation of the ground, that of a uniform law, >= 0.

    Raises:
        InvalidInput: an argument below its bound.

    Example:
        >>> scenes = detection_scenes(5, seed=0, side=32)
        >>> scenes.images.shape, scenes.boxes.shape, bool((scenes.labels[:, 0] >= 0).all())
        (torch.Size([5, 32, 32]), torch.Size([5, 4, 4]), True)
    """
    if n < 1 or side < 16 or most < 1 or not noise >= 0.0:
        raise InvalidInput(
            "scenes need n >= 1, side >= 16, most >= 1 and noise >= 0, got "
            f"{n}, {side}, {most} and {noise}"
        )
    ground = _draws((n, side, side), seed, 0)
    images = noise * 12**0.5 * (ground - 0.5) + 0.3
    count = 1 + (_draws((n,), seed, 1) * most).long()
    draws = _draws((n, most, 6), seed, 2)
    size = (side * (0.2 + 0.3 * draws[..., :2])).round()
    corner = (draws[..., 2:4] * (side - size)).round()
    boxes = torch.cat([corner, corner + size], dim=2)
    labels = (draws[..., 4] * CLASSES).long()
    bright = 0.7 + 0.3 * draws[..., 5]
    present = torch.arange(most) < count[:, None]
    for k in range(most):
        hidden = _overlap(boxes[:, :k], boxes[:, k : k + 1]) * present[:, :k]
        own = (size[:, :k].prod(2), size[:, k : k + 1].prod(2))
        present[:, k] &= ~(hidden > 0.2 * torch.minimum(*own)).any(dim=1)
        inside = _painted(boxes[:, k], labels[:, k], side) & present[:, k, None, None]
        images = torch.where(inside, bright[:, k, None, None], images)
    # Those that are there first.
    order = torch.argsort(present.logical_not().to(torch.int8), dim=1, stable=True)
    present = present.gather(1, order)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)) * present[..., None]
    labels = torch.where(present, labels.gather(1, order), -1)
    return DetectionScenes(images, boxes, labels)


def _draws(shape: tuple[int, ...], seed: int, step: int) -> Tensor:
    return uniform(shape, seed=seed, purpose=Purpose.DATA, chains=shape[0], step=step)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Common area of boxes, broadcast."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    return (high - low).clamp_min(0.0).prod(dim=-1)


def _painted(box: Tensor, label: Tensor, side: int) -> Tensor:
    """Pixels that a rectangle of each kind paints, bool (n, side, side)."""
    place = torch.arange(side)
    left, top, right, bottom = (box[:, k, None] for k in range(4))
    columns, rows = (place >= left) & (place < right), (place >= top) & (place < bottom)
    whole = rows[:, :, None] & columns[:, None, :]
    inner_columns = (place >= left + 2) & (place < right - 2)
    inner_rows = (place >= top + 2) & (place < bottom - 2)
    hollow = whole & ~(inner_rows[:, :, None] & inner_columns[:, None, :])
    striped = whole & (((place - top) % 4 < 2)[:, :, None])
    kind = label[:, None, None]
    return torch.where(kind == 0, whole, torch.where(kind == 1, hollow, striped))
