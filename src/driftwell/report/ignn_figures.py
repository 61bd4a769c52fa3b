"""Figures of an implicit graph network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driftwell.report.class_figures import class_cloud
from driftwell.report.settling_figures import eigenvalue_disc, residual_lines
from driftwell.report.style import GENERATED, MUTED, SURFACE, blank_figure, figure_style
from driftwell.report.thumbnails import principal_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from driftwell.report.ignn_measurements import GraphMeasurements


def states(found: GraphMeasurements) -> Figure:
    """Node states in two pairs of principal components."""
    known = found.labels >= 0
    z, labels = found.states[known].double(), found.labels[known]
    centre, axes_of, shares = principal_axes(z, 3)
    dots = (z - centre) @ axes_of
    with figure_style():
        figure = blank_figure(4.4)
        for axes, second in zip(figure.subplots(1, 2), (1, 2), strict=True):
            class_cloud(axes, dots[:, [0, second]], labels, found.classes, 2000)
            axes.set_xlabel(f"PC 1 ({100 * shares[0]:.0f} % of the variance)")
            axes.set_ylabel(f"PC {second + 1} ({100 * shares[second]:.0f} %)")
            axes.set_title(f"Components 1 and {second + 1}")
    return figure


def settling(found: GraphMeasurements) -> Figure:
    """Residuals of the solvers, and eigenvalues of W."""
    with figure_style():
        figure = blank_figure(3.9)
        left, right = figure.subplots(1, 2)
        residual_lines(left, found.traces, found.tol)
        left.set_title("Residual of the whole graph")
        eigenvalue_disc(right, found.eigenvalues[None], found.kappa)
        right.set_xlabel("Re λ(W) (no unit)")
        right.set_ylabel("Im λ(W)")
    return figure


def reach(found: GraphMeasurements) -> Figure:
    """Mean and largest response of states against distance."""
    with figure_style():
        figure = blank_figure(3.2)
        axes = figure.subplots()
        at = range(len(found.response))
        axes.plot(at, [max(v, 1e-9) for v in found.spread], color=MUTED, linestyle="--",
                  label="most", linewidth=1.2)  # fmt: skip
        axes.plot(
            at, [max(v, 1e-9) for v in found.response], color=GENERATED, marker="o",
            markeredgecolor=SURFACE, markeredgewidth=0.6, label="mean",
        )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xticks(list(at))
        axes.set_xlabel("distance from the erased node (edges)")
        axes.set_ylabel("change of the state, relative")
        axes.set_title(f"Response to one node's features, {len(found.sources)} nodes")
        axes.legend(loc="upper right")
    return figure
