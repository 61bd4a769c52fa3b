"""Figures of images: sample grids, a chain's walk through PCA space, nearest training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from driftwell.core.errors import require
from driftwell.data import ImageSet, Transform
from driftwell.report.measurements import Measurements
from driftwell.report.rounding import spaced
from driftwell.report.sampled import image_space
from driftwell.report.style import (
    CLOUD,
    GENERATED,
    INK,
    MUTED,
    REAL,
    SURFACE,
    WIDTH,
    blank_figure,
    figure_style,
)
from driftwell.report.thumbnails import named, principal_axes, show, tiled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLOUD_POINTS = 600
_STOPS = 8
_PAIRS = 14


def sample_grid(generated: Tensor, real: Tensor, side: int = 8) -> Figure:
    """Generated images beside real ones.

    Args:
        generated: in [0, 1], (n, height, width); the first side^2 are shown.
        real: likewise; side^2 of them at even distances in file order.
        side: images in a row.
    """
    with figure_style():
        figure = blank_figure(WIDTH / 2 * 1.05)
        made = generated[: side * side]
        spread = torch.linspace(0, len(real) - 1, min(side * side, len(real))).round().long()
        panels = (
            (made, f"Generated: chains 0 to {len(made) - 1}, none left out"),
            (real[spread], "Real: held-out images"),
        )
        for axes, (images, title) in zip(figure.subplots(1, 2), panels, strict=True):
            show(axes, tiled(images, side))
            axes.set_title(title)
    return figure


def class_grid(by_class: Tensor, names: tuple[int, ...]) -> Figure:
    """Images generated with each class's label held, a row a class.

    Args:
        by_class: in [0, 1], (classes, n, height, width).
        names: of the classes.
    """
    classes, count = by_class.shape[:2]
    with figure_style():
        figure = blank_figure(0.35 + classes * (WIDTH - 0.9) / count)
        grid = figure.subplots(classes, 1, squeeze=False)[:, 0]
        for axes, images, name in zip(grid, by_class, names, strict=True):
            show(axes, tiled(images, count))
            named(axes, str(name))
    return figure


def wandering_chain(found: Measurements, transform: Transform) -> Figure:
    """One chain's walk in the principal components of the training images.

    Args:
        found: the measurements; the walk is in them.
        transform: of the run.
    """
    visible = found.walk.states
    real = image_space(transform, found.train.images.to(visible)).double().cpu()
    path = transform.to_symmetric(visible).double().cpu()
    centre, axes_of, shares = principal_axes(real, 3)
    cloud, walked = (real - centre) @ axes_of, (path - centre) @ axes_of
    stops = torch.linspace(0, len(path) - 1, _STOPS).round().long().unique()
    with figure_style():
        figure = blank_figure(5.3)
        grid = figure.add_gridspec(2, len(stops), height_ratios=(4.2, 1.0))
        half = len(stops) // 2
        for columns, second in ((slice(0, half), 1), (slice(half, None), 2)):
            axes = figure.add_subplot(grid[0, columns])
            _cloud(axes, cloud[:, [0, second]], found.train)
            _path(axes, walked[:, [0, second]], stops)
            axes.set_xlabel(f"PC 1 ({100 * shares[0]:.0f} % of the variance)")
            axes.set_ylabel(f"PC {second + 1} ({100 * shares[second]:.0f} %)")
            axes.set_title(f"Components 1 and {second + 1}")
        height, width = found.generated.shape[1:]
        shown = transform.inverse(visible[stops]).reshape(-1, height, width)
        for k, (image, stop) in enumerate(zip(shown.cpu(), stops.tolist(), strict=True)):
            small = figure.add_subplot(grid[1, k])
            show(small, tiled(image[None], 1))
            step = spaced(int(found.walk.steps[stop]))
            small.set_title(
                f"{k + 1}: step {step}", fontsize=8.5, fontweight="normal", loc="center"
            )
    return figure


def _cloud(axes: Axes, points: Tensor, images: ImageSet) -> None:
    effects = require("matplotlib.patheffects", "plot", "to draw figures")
    spread = torch.linspace(0, len(points) - 1, min(len(points), _CLOUD_POINTS)).round().long()
    few = images.labels is not None and len(images.classes) <= len(CLOUD)
    groups: list[tuple[str, Tensor, str]] = [("", torch.ones(len(points)).bool(), MUTED)]
    if few and images.labels is not None:
        groups = [
            (str(c), images.labels.cpu() == c, CLOUD[k]) for k, c in enumerate(images.classes)
        ]
    shown = torch.zeros(len(points), dtype=torch.bool)
    shown[spread] = True
    for _, mine, colour in groups:
        dots = points[mine & shown]
        axes.scatter(
            dots[:, 0].tolist(), dots[:, 1].tolist(), s=9, color=colour, alpha=0.38, linewidths=0
        )
    for name, mine, colour in groups:
        middle = points[mine].median(0).values
        axes.text(
            float(middle[0]), float(middle[1]), name, color=colour, fontsize=17,
            fontweight="bold", ha="center", va="center", zorder=5,
            path_effects=[effects.withStroke(linewidth=3.5, foreground=SURFACE)],
        )  # fmt: skip


def _path(axes: Axes, points: Tensor, stops: Tensor) -> None:
    """The path coloured by time, numbered where its states are shown."""
    collections = require("matplotlib.collections", "plot", "to draw figures")
    maps = require("matplotlib", "plot", "to draw figures")
    pairs = torch.stack([points[:-1], points[1:]], dim=1)
    shade = maps.colormaps["plasma"](torch.linspace(0.26, 0.82, len(pairs)).tolist())
    axes.add_collection(
        collections.LineCollection(pairs.tolist(), colors=shade, linewidths=0.9, alpha=0.75)
    )
    at = points[stops]
    axes.scatter(
        at[:, 0].tolist(), at[:, 1].tolist(), s=120, color=SURFACE, edgecolors=INK,
        linewidths=1.0, zorder=6,
    )  # fmt: skip
    for k, (x, y) in enumerate(at.tolist()):
        axes.annotate(str(k + 1), (x, y), ha="center", va="center_baseline", fontsize=8, zorder=7)
    axes.autoscale_view()


def nearest_pairs(found: Measurements) -> Figure:
    """Generated images above their nearest training images, and how far all of them are.

    The closest pairs come first: if anything was copied, it is here.
    """
    distances = found.nearest.distance.cpu()
    closest = distances.argsort()[: min(_PAIRS, len(distances))]
    with figure_style():
        figure = blank_figure(4.1)
        upper, lower = figure.subfigures(2, 1, height_ratios=[1.0, 1.6], squeeze=False)[:, 0]
        grid = upper.subplots(2, len(closest), squeeze=False)
        for k, i in enumerate(closest.tolist()):
            show(grid[0, k], tiled(found.generated[i][None], 1))
            show(grid[1, k], tiled(found.train.images[int(found.nearest.index[i])][None], 1))
            grid[0, k].set_title(
                f"{float(distances[i]):.2f}", fontsize=8.5, fontweight="normal", loc="center"
            )
        for axes, name in zip(grid[:, 0], ("generated", "nearest\ntraining"), strict=True):
            named(axes, name)
        _histograms(lower.subplots(), distances, found.nearest.held_out.cpu())
    return figure


def _histograms(axes: Axes, generated: Tensor, held_out: Tensor) -> None:
    both = torch.cat([generated, held_out])
    bins = torch.linspace(0.0, float(both.max()) * 1.03 or 1.0, 46, dtype=both.dtype)
    width = float(bins[1] - bins[0])
    for values, colour, name in (
        (held_out, REAL, "held-out images"), (generated, GENERATED, "generated images"),
    ):  # fmt: skip
        share = torch.histc(values, 45, 0.0, float(bins[-1])) / len(values)
        axes.stairs(share.tolist(), bins.tolist(), color=colour, fill=True, alpha=0.16)
        axes.stairs(share.tolist(), bins.tolist(), color=colour, linewidth=1.6, label=name)
        axes.axvline(float(values.median()), color=colour, linewidth=1.1, linestyle="--")
    axes.set_title("Distance to the nearest training image; dashed: medians")
    axes.set_xlabel("Euclidean distance in image space [−1, 1] (grey-level units)")
    axes.set_ylabel(f"share per {width:.2g}")
    axes.set_xlim(0.0, float(bins[-1]))
    axes.set_ylim(bottom=0.0)
    axes.legend(loc="upper right")
