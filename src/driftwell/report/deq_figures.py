"""Figures of an equilibrium classifier."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from driftwell.report.class_figures import class_cloud, hue
from driftwell.report.settling_figures import eigenvalue_disc, histogram_of_steps, residual_lines
from driftwell.report.style import (
    GENERATED,
    INK,
    LIMIT,
    MUTED,
    REAL,
    SURFACE,
    blank_figure,
    figure_style,
)
from driftwell.report.thumbnails import principal_axes, show, tiled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from driftwell.report.deq_measurements import DEQMeasurements

_SHOWN = 12


def settling(found: DEQMeasurements) -> Figure:
    """Paths from zero to equilibria, over all equilibria, in two pairs of components."""
    z = found.z.double()
    centre, axes_of, shares = principal_axes(z, 3)
    dots, paths = (z - centre) @ axes_of, (found.path.double() - centre) @ axes_of
    with figure_style():
        figure = blank_figure(4.5)
        for axes, second in zip(figure.subplots(1, 2), (1, 2), strict=True):
            pair = [0, second]
            class_cloud(axes, dots[:, pair], found.labels, found.classes)
            _paths(axes, paths[:, :, pair], found)
            axes.set_xlabel(f"PC 1 of the equilibria ({100 * shares[0]:.0f} % of the variance)")
            axes.set_ylabel(f"PC {second + 1} ({100 * shares[second]:.0f} %)")
            axes.set_title(f"Components 1 and {second + 1}")
    return figure


def _paths(axes: Axes, paths: Tensor, found: DEQMeasurements) -> None:
    for k in range(paths.shape[1]):
        line = paths[:, k]
        colour = hue(int(found.labels[k]))
        axes.plot(line[:, 0].tolist(), line[:, 1].tolist(), color=colour, linewidth=0.9, alpha=0.8,
                  marker="o", markersize=1.8, zorder=4)  # fmt: skip
    x, y = paths[0, 0].tolist()
    axes.scatter([x], [y], s=46, color=SURFACE, edgecolors=INK, linewidths=1.2, zorder=7)
    axes.annotate("z = 0", (x, y), xytext=(7, 4), textcoords="offset points", zorder=8)


def residuals(found: DEQMeasurements) -> Figure:
    """Residual traces of the solvers, and the histogram of evaluations."""
    with figure_style():
        figure = blank_figure(3.4)
        left, right = figure.subplots(1, 2)
        residual_lines(left, found.traces, found.tol)
        histogram_of_steps(right, found.steps)
    return figure


def jacobian_disc(found: DEQMeasurements) -> Figure:
    """Eigenvalues of the Jacobians at rest, and Lyapunov exponents against their radius."""
    with figure_style():
        figure = blank_figure(4.2)
        left, right = figure.subplots(1, 2)
        eigenvalue_disc(left, found.eigenvalues, found.bound)
        x, y = found.radius.log().tolist(), found.exponents.tolist()
        both = [v for v in (*x, *y) if math.isfinite(v)]
        margin = 0.15 * max(max(both) - min(both), 0.1)
        ends = (min(both) - margin, max(both) + margin)
        right.plot(ends, ends, color=MUTED, linewidth=1.0, linestyle="--", zorder=1)
        right.scatter(x, y, s=26, color=GENERATED, alpha=0.8, edgecolors=SURFACE, linewidths=0.5)
        right.set(xlim=ends, ylim=ends)
        right.set_aspect("equal", adjustable="box")
        right.set_xlabel("log ρ(df/dz) at the equilibrium")
        right.set_ylabel("Lyapunov exponent per evaluation")
        right.set_title("Forgetting of the start; dashed: equal")
    return figure


def wells(found: DEQMeasurements) -> Figure:
    """Classes of the least stable images at a temperature, and stability of right and wrong."""
    seen = found.wells
    least = seen.stability.argsort(stable=True)[:_SHOWN]
    with figure_style():
        figure = blank_figure(4.0)
        halves: Any = figure.subfigures(1, 2, width_ratios=[1.75, 1.0])
        left, right = halves
        grid = left.subplots(2, len(least), height_ratios=[1.0, 4.2], squeeze=False)
        for k, i in enumerate(least.tolist()):
            show(grid[0, k], tiled(found.images.images[int(seen.images[i])][None], 1))
            _shares(grid[1, k], seen.shares[i], found, int(found.labels[int(seen.images[i])]))
            if k:
                grid[1, k].set_yticklabels([])
        grid[1, 0].set_ylabel("class")
        axes = right.subplots()
        bins = torch.linspace(0.0, 1.0, 21).tolist()
        for which, colour, name in ((~seen.wrong, REAL, "right"), (seen.wrong, LIMIT, "wrong")):
            if bool(which.any()):
                axes.hist(seen.stability[which].tolist(), bins=bins, color=colour, alpha=0.6,
                          label=f"{name}: {int(which.sum())}")  # fmt: skip
        axes.set_xlabel("share of states read as the same class")
        axes.set_ylabel("images")
        axes.set_title("Stability")
        axes.legend(loc="upper left")
    return figure


def _shares(axes: Axes, shares: Tensor, found: DEQMeasurements, true: int) -> None:
    """How often each class was read; the image's own class in green."""
    colours = [REAL if place == true else GENERATED for place in range(len(shares))]
    axes.barh(range(len(shares)), shares.tolist(), color=colours, height=0.8)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.set_yticks(range(len(shares)), [str(c) for c in found.classes])
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def examples(found: DEQMeasurements) -> Figure:
    """The images that took longest, and those it got wrong with most confidence."""
    hardest = found.steps.argsort(descending=True, stable=True)[:_SHOWN]
    sure = found.logits.softmax(1).amax(1)
    wrong = (found.predicted != found.labels).nonzero().flatten()
    wrong = wrong[sure[wrong].argsort(descending=True, stable=True)][:_SHOWN]
    with figure_style():
        figure = blank_figure(2.3 if len(wrong) else 1.2)
        grid: Any = figure.subplots(2 if len(wrong) else 1, _SHOWN, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for k, i in enumerate(hardest.tolist()):
            _example(grid[0, k], found.images.images[i], f"{int(found.steps[i])}")
        for k, i in enumerate(wrong.tolist()):
            said, is_ = (found.classes[int(t[i])] for t in (found.predicted, found.labels))
            _example(grid[1, k], found.images.images[i], f"{said} ({is_})")
        _row_name(grid[0, 0], "evaluations")
        if len(wrong):
            _row_name(grid[1, 0], "said (is)")
    return figure


def _example(axes: Axes, image: Tensor, title: str) -> None:
    show(axes, tiled(image[None], 1))
    axes.set_title(title, fontsize=8.5, fontweight="normal", loc="center", pad=4.0)


def _row_name(axes: Axes, name: str) -> None:
    axes.axis("on")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)
