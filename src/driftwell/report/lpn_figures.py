"""Figures of a learned proximal network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from driftwell.report.curves import curve, thousands
from driftwell.report.style import (
    CLOUD,
    GAUSSIAN,
    GENERATED,
    LIMIT,
    MUTED,
    REAL,
    blank_figure,
    figure_style,
)
from driftwell.report.thumbnails import named, show, tiled
from driftwell.training.kinds.lpn import psnr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from driftwell.report.lpn_measurements import ProximalMeasurements

_SHOWN = 12
_ROWS = (("clean", "clean"), ("noisy", "noisy"), ("linear", "linear"), ("denoised", "learned"))


def pictures(found: ProximalMeasurements) -> Figure:
    """Clean, noisy, and both estimates, one below the other."""
    with figure_style():
        figure = blank_figure(3.3)
        grid: Any = figure.subplots(len(_ROWS), 1)
        for axes, (name, title) in zip(grid, _ROWS, strict=True):
            show(axes, tiled(getattr(found, name)[:_SHOWN], _SHOWN))
            decibels = "" if name == "clean" else f"\n{found.psnr(name)[0]:.1f} dB"
            named(axes, title + decibels)
    return figure


def quality(found: ProximalMeasurements) -> Figure:
    """Histograms of the signal-to-noise ratio."""
    with figure_style():
        figure = blank_figure(2.9)
        axes = figure.subplots()
        for name, title, colour in (
            ("noisy", "noisy", MUTED), ("linear", "best linear estimate", GAUSSIAN),
            ("denoised", "learned proximal operator", GENERATED),
        ):  # fmt: skip
            values = psnr(getattr(found, name), found.clean).tolist()
            axes.hist(values, bins=40, color=colour, alpha=0.55, label=title, density=True)
            axes.axvline(found.psnr(name)[0], color=colour, linewidth=1.4, linestyle="--")
        axes.set_xlabel("peak signal-to-noise ratio (dB)")
        axes.set_ylabel("density")
        axes.set_title("Held-out images; dashed: means")
        axes.legend(loc="upper right")
    return figure


def prior(found: ProximalMeasurements) -> Figure:
    """The learned prior along lines between images, with what f makes of the first."""
    with figure_style():
        figure = blank_figure(4.4)
        upper, lower = figure.subfigures(2, 1, height_ratios=[2.6, 1.0], squeeze=False)[:, 0]
        left, right = upper.subplots(1, 2, width_ratios=[1.5, 1.0])
        t = found.shift.tolist()
        for k, values in enumerate(found.lines):
            left.plot(t, (values - values.min()).tolist(), color=CLOUD[k % len(CLOUD)],
                      linewidth=1.3)  # fmt: skip
        for place in (0.0, 1.0):
            left.axvline(place, color=REAL, linewidth=1.1, linestyle="--")
        left.set_xlabel("t of y(t) = (1 − t) a + t b; dashed: the images a and b")
        left.set_ylabel("R(f(y)) above its minimum (grey level²)")
        left.set_title(f"Learned prior along {len(found.lines)} lines between held-out images")
        names = list(found.prior)
        right.boxplot([found.prior[name].tolist() for name in names], widths=0.55,
                      medianprops={"color": LIMIT}, flierprops={"markersize": 3})  # fmt: skip
        right.set_xticks(range(1, len(names) + 1), names)
        right.set_ylabel("R(f(y)) (grey level²)")
        right.set_title("Where R is low")
        axes = lower.subplots()
        some = torch.linspace(0, len(t) - 1, _SHOWN).round().long()
        show(axes, tiled(found.line[some], len(some)))
        axes.set_title("f(y) along the first line", fontweight="normal")
    return figure


def iterates(found: ProximalMeasurements) -> Figure:
    """What comes of applying f again and again."""
    with figure_style():
        figure = blank_figure(0.45 + 0.62 * len(found.iterates))
        grid: Any = figure.subplots(len(found.iterates), 1)
        for axes, (step, images) in zip(grid, found.iterates.items(), strict=True):
            show(axes, tiled(images, len(images)))
            named(axes, f"{step} times")
    return figure


def training(metrics: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and signal-to-noise ratio over the updates."""
    with figure_style():
        figure = blank_figure(2.8)
        updates = [line["update"] for line in metrics]
        panels: Any = figure.subplots(1, 2)
        for axes, (key, title, colour) in zip(
            panels, (("loss", "Loss: l1, then proximal matching", GENERATED),
                     ("psnr", "Batches' signal-to-noise ratio (dB)", REAL)), strict=True,
        ):  # fmt: skip
            curve(axes, updates, [line[key] for line in metrics], colour, None)
            axes.set_title(title)
            axes.set_xlabel("updates")
            axes.set_xlim(0, max(updates))
            thousands(axes, log=False)
        panels[0].set_yscale("log")
    return figure
