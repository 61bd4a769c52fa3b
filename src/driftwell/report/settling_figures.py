"""Figures of settling: residuals, evaluations, eigenvalues, and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from driftwell.core.errors import require
from driftwell.report.curves import curve, thousands
from driftwell.report.settling import ResidualTrace
from driftwell.report.style import (
    GAUSSIAN,
    GENERATED,
    LIMIT,
    MUTED,
    REAL,
    blank_figure,
    figure_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_COLOURS = (GENERATED, GAUSSIAN)


def residual_lines(axes: Axes, traces: Sequence[ResidualTrace], tol: float) -> None:
    """Residuals of each solver, with the tolerance."""
    for trace, colour in zip(traces, _COLOURS, strict=False):
        at = range(1, len(trace.median) + 1)
        low, high = ([max(v, 1e-9) for v in part] for part in (trace.low, trace.high))
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(at, [max(v, 1e-9) for v in trace.median], color=colour, label=trace.solver)
    axes.axhline(tol, color=LIMIT, linewidth=1.2, linestyle="--")
    axes.annotate(
        f"tolerance {tol:g}", (1.0, tol), xycoords=("axes fraction", "data"), xytext=(0, 4),
        textcoords="offset points", ha="right", color=LIMIT,
    )  # fmt: skip
    axes.set_yscale("log")
    floor = min(min(v for v in trace.median if v > 0) for trace in traces)
    axes.set_ylim(max(floor / 3, 1e-8), 2.0)
    slowest = max((trace.reached(tol / 100) or len(trace.high)) for trace in traces)
    axes.set_xlim(1, max(slowest, 4))
    axes.set_xlabel("evaluations of the layer")
    axes.set_ylabel("relative residual (no unit)")
    axes.set_title("Residuals: median, and 10 % quantile to worst")
    axes.legend(loc="upper right")


def histogram_of_steps(axes: Axes, steps: Tensor) -> None:
    """How many evaluations the samples took."""
    low, high = int(steps.min()), int(steps.max())
    counts = torch.bincount(steps - low, minlength=high - low + 1).double()
    axes.bar(
        range(low, high + 1), (counts / counts.sum()).tolist(), width=0.86, color=GENERATED,
        alpha=0.85,
    )  # fmt: skip
    mean = float(steps.double().mean())
    axes.axvline(mean, color=MUTED, linewidth=1.2, linestyle="--")
    axes.annotate(
        f"mean {mean:.1f}", (mean, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -2),
        textcoords="offset points", va="top", color=MUTED,
    )  # fmt: skip
    axes.set_xlabel("evaluations until the tolerance")
    axes.set_ylabel("share of images")
    axes.set_title("Evaluations an image")
    axes.grid(visible=False, axis="x")
    ticker = require("matplotlib.ticker", "plot", "to draw figures")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def eigenvalue_disc(axes: Axes, eigenvalues: Tensor, bound: float | None) -> None:
    """Eigenvalues in the unit disc, with the circle of the bound."""
    patches = require("matplotlib.patches", "plot", "to draw figures")
    axes.add_patch(patches.Circle((0, 0), 1.0, fill=False, edgecolor=LIMIT, linewidth=1.2))
    if bound is not None:
        axes.add_patch(patches.Circle((0, 0), bound, fill=False, edgecolor=MUTED, linewidth=1.0,
                                      linestyle="--"))  # fmt: skip
    values = eigenvalues.flatten()
    axes.scatter(
        values.real.tolist(), values.imag.tolist(), s=7 if len(values) > 500 else 22,
        color=GENERATED, alpha=0.28 if len(values) > 500 else 0.75, linewidths=0,
        rasterized=True,
    )  # fmt: skip
    half = max(1.12, 1.05 * float(values.abs().max()))
    axes.set(xlim=(-half, half), ylim=(-half, half))
    axes.set_aspect("equal", adjustable="box")
    axes.set_xlabel("Re λ(df/dz) (no unit)")
    axes.set_ylabel("Im λ(df/dz)")
    radius = float(eigenvalues.abs().amax())
    circle = "" if bound is None else f"; dashed: |W| ≤ {bound:g}"
    axes.set_title(f"Largest |λ| {radius:.2f}{circle}")


def training_panels(metrics: Sequence[Mapping[str, float]]) -> Figure:
    """Loss, accuracy and evaluations over the updates."""
    panels = (
        ("loss", "Cross entropy (nats)", GENERATED),
        ("accuracy", "Accuracy of the batch", REAL),
        ("steps", "Evaluations a solve", GAUSSIAN),
    )
    with figure_style():
        figure = blank_figure(2.8)
        updates = [line["update"] for line in metrics]
        there = [panel for panel in panels if panel[0] in metrics[0]]
        row: Any = figure.subplots(1, len(there), squeeze=False)[0]
        for axes, (key, title, colour) in zip(row, there, strict=True):
            values = [line[key] for line in metrics]
            curve(axes, updates, values, colour, None)
            if key == "loss" and min(values) > 0:
                axes.set_yscale("log")
            axes.set_title(title)
            axes.set_xlabel("updates")
            axes.set_xlim(0, max(updates))
            thousands(axes, log=False)
    return figure
