"""What figures of images share: pictures in rows, and principal axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def principal_axes(points: Tensor, count: int) -> tuple[Tensor, Tensor, list[float]]:
    """Principal axes of a cloud, by singular values.

    Args:
        points: (n, d), float64.
        count: how many; fewer dimensions are filled up with zeros.

    Returns:
        The centre (d,), the axes as columns (d, count), each with its largest entry positive,
        and the share of the variance along each.

    Example:
        >>> line = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double()
        >>> _, axes, shares = principal_axes(line, 1)
        >>> axes.T.tolist(), shares
        ([[1.0, 0.0]], [0.8])
    """
    centre = points.mean(0)
    _, values, rows = torch.linalg.svd(points - centre, full_matrices=False)
    total = float(values.square().sum()) or 1.0
    axes = torch.zeros(points.shape[1], count, dtype=points.dtype)
    there = min(count, len(rows))
    largest = rows[:there].gather(1, rows[:there].abs().argmax(1, keepdim=True))
    axes[:, :there] = (rows[:there] * largest.sign()).T
    shares = [float(v) ** 2 / total for v in values[:there]] + [0.0] * (count - there)
    return centre, axes, shares


def tiled(images: Tensor, side: int) -> Tensor:
    """Images as one picture with clear gaps: RGBA bytes (rows, columns, 4).

    Args:
        images: in [0, 1], (n, height, width).
        side: images in a row.
    """
    n, height, width = images.shape
    zoom = max(1, round(40 / max(height, width)))
    large = images.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2).clamp(0.0, 1.0)
    gap = 3 if side > 1 else 0
    rows = -(-n // side)
    tall, wide = height * zoom + gap, width * zoom + gap
    picture = torch.zeros(rows * tall - gap, side * wide - gap, 4, dtype=torch.uint8)
    for k, image in enumerate(large):
        top, left = (k // side) * tall, (k % side) * wide
        cell = picture[top : top + height * zoom, left : left + width * zoom]
        cell[..., :3] = (image * 255).round().to(torch.uint8)[..., None]
        cell[..., 3] = 255
    return picture


def named(axes: Axes, name: str) -> None:
    """A name left of a picture."""
    axes.axis("on")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)


def show(axes: Axes, picture: Tensor) -> Any:
    """A picture without axes."""
    axes.axis("off")
    axes.grid(visible=False)
    return axes.imshow(picture.numpy(), interpolation="none")
