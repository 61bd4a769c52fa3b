"""Figures of classifiers: clouds of states by class, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from driftwell.core.errors import require
from driftwell.report.style import (
    CLOUD,
    GENERATED,
    INK,
    MUTED,
    SURFACE,
    blank_figure,
    figure_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def hue(place: int) -> str:
    """Colour of a class by its place."""
    return CLOUD[place % len(CLOUD)]


def class_cloud(
    axes: Axes, dots: Tensor, labels: Tensor, classes: Sequence[int], most: int = 800
) -> None:
    """Points (n, 2), a hue a class, names at the class medians; at most so many are drawn."""
    effects = require("matplotlib.patheffects", "plot", "to draw figures")
    shown = torch.zeros(len(dots), dtype=torch.bool)
    shown[torch.linspace(0, len(dots) - 1, min(len(dots), most)).round().long()] = True
    for place, name in enumerate(classes):
        mine = labels == place
        some = dots[shown & mine]
        axes.scatter(
            some[:, 0].tolist(), some[:, 1].tolist(), s=8, color=hue(place), alpha=0.35,
            linewidths=0,
        )  # fmt: skip
        if bool(mine.any()):
            x, y = dots[mine].median(0).values.tolist()
            axes.text(
                x, y, str(name), color=hue(place), fontsize=16, fontweight="bold", ha="center",
                va="center", zorder=6,
                path_effects=[effects.withStroke(linewidth=3.5, foreground=SURFACE)],
            )  # fmt: skip


def confusion_matrix(counts: Tensor, classes: Sequence[int], what: str) -> Figure:
    """Which classes are taken for which, and the accuracy by class.

    Args:
        counts: of class i called class j, int64 (c, c).
        classes: their labels.
        what: is counted, such as ``"Held-out images"``.
    """
    names = [str(c) for c in classes]
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(4.6, 1.4 + 0.34 * len(names))
    with figure_style():
        figure = blank_figure(side)
        grid = figure.add_gridspec(1, 2, width_ratios=(1.0, 0.9))
        axes = figure.add_subplot(grid[0, 0])
        blank = require("matplotlib.colors", "plot", "to draw figures")
        blues = blank.LinearSegmentedColormap.from_list("shares", [SURFACE, GENERATED])
        wide = blues(shares.sqrt().numpy())
        wide[..., 3] = 0.15 + 0.85 * shares.sqrt().numpy()
        axes.imshow(wide, aspect="equal")
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
        if len(names) <= 20:
            for i, row in enumerate(counts.tolist()):
                for j, count in enumerate(row):
                    if count:
                        axes.annotate(
                            str(count), (j, i), ha="center", va="center", fontsize=8,
                            color=SURFACE if float(shares[i, j]) > 0.5 else INK,
                        )  # fmt: skip
        axes.set_xlabel("called")
        axes.set_ylabel("is")
        axes.set_title(what)
        _accuracy_by_class(figure.add_subplot(grid[0, 1]), counts.double(), names)
    return figure


def _accuracy_by_class(axes: Axes, counts: Tensor, names: list[str]) -> None:
    total = counts.sum(1).clamp(min=1)
    share = counts.diagonal() / total
    error = (share * (1 - share) / total).sqrt()
    at = range(len(names))
    axes.errorbar(
        share.tolist(), at, xerr=error.tolist(), fmt="o", color=GENERATED, elinewidth=1.6,
        capsize=3.0, markeredgecolor=SURFACE, markeredgewidth=0.6,
    )  # fmt: skip
    mean = float(counts.diagonal().sum() / counts.sum())
    axes.axvline(mean, color=MUTED, linewidth=1.2, linestyle="--")
    axes.set_yticks(at, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("share classified rightly, ± one standard error")
    axes.set_title(f"Accuracy by class; dashed: {mean:.3f}, all")
    axes.grid(visible=False, axis="y")
