"""Figures of numbers: chains in time, couplings, comparison with real data, training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from driftwell.report.curves import curve, scaled, thousands
from driftwell.report.rounding import rounded
from driftwell.report.spectrum import Spectrum
from driftwell.report.style import (
    GAUSSIAN,
    GENERATED,
    GRID,
    LIMIT,
    MUTED,
    REAL,
    SURFACE,
    blank_figure,
    figure_style,
)
from driftwell.report.trajectories import FollowedWalk, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETS = (
    ("generated", "generated", GENERATED, "o"),
    ("real", "other real images", REAL, "D"),
    ("gaussian", "Gaussian", GAUSSIAN, "s"),
)
# Key, title, what is aimed at: a number, or the floor of the row `real`.
MEASURES: tuple[tuple[str, str, float | None], ...] = (
    ("aai", "AAI (0: cannot be told apart)", 0.0),
    ("accuracy_real", "Acc real (½)", 0.5),
    ("accuracy_generated", "Acc generated (½; 0: copies)", 0.5),
    ("e2", "E2, squared covariance error", None),
    ("energy_distance", "energy distance", None),
    ("nearest_median", "distance to nearest training image", None),
)


def energy_and_virial(trace: Trace, train_energy: float, held_out_energy: float, n: int) -> Figure:
    """Energy and virial of the chains from noise on, against steps or noise levels.

    Args:
        trace: averages over chains.
        train_energy: mean E/N of the training images, energy units; NaN if they have none.
        held_out_energy: mean E/N of held-out images; not used where the trace has its own.
        n: number of neurons N the energy is divided by.
    """
    with figure_style():
        figure = blank_figure(3.3)
        left, right = figure.subplots(1, 2)
        at = list(trace.levels) or [max(step, 0.5) for step in trace.steps]
        low = [m - s for m, s in zip(trace.energy, trace.energy_spread, strict=True)]
        high = [m + s for m, s in zip(trace.energy, trace.energy_spread, strict=True)]
        left.fill_between(at, low, high, color=GENERATED, alpha=0.22, linewidth=0)
        left.plot(at, trace.energy, color=GENERATED, label="chains")
        lines: list[float] = list(trace.reference)
        if trace.reference:
            left.plot(at, trace.reference, color=REAL, linestyle=":", label="held-out images")
        else:
            pairs = (
                (train_energy, "training images", "--"),
                (held_out_energy, "held-out images", ":"),
            )
            for value, name, dash in pairs:
                if math.isfinite(value):
                    left.axhline(value, color=REAL, linewidth=1.2, linestyle=dash, label=name)
                    lines.append(value)
        scaled(left, [*trace.energy, *low, *high, *lines])
        left.set_title(f"Energy per neuron (N = {n}), mean ± sd over chains")
        left.set_ylabel("E / N (energy units)")
        if lines:
            left.legend(loc="best")
        _virial(right, at, trace)
        for axes in (left, right):
            axes.set_xscale("log")
            if trace.levels:
                axes.set_xlim(max(at), min(at))
                axes.set_xlabel("noise level σ (state units), from noise to data")
                _level_ticks(axes)
            else:
                axes.set_xlim(0.8, max(*trace.steps, 2))
                axes.set_xlabel("Langevin steps from noise")
                thousands(axes)
    return figure


def _virial(axes: Axes, at: Sequence[float], trace: Trace) -> None:
    errors = trace.virial_error
    below = [v - 2 * e for v, e in zip(trace.virial, errors, strict=True)]
    above = [v + 2 * e for v, e in zip(trace.virial, errors, strict=True)]
    axes.fill_between(at, below, above, color=GENERATED, alpha=0.22, linewidth=0)
    axes.plot(at, trace.virial, color=GENERATED)
    axes.axhline(1.0, color=LIMIT, linewidth=1.2, linestyle="--")
    axes.annotate(
        "1: equipartition", (1.0, 1.0), xycoords=("axes fraction", "data"), xytext=(0, 5),
        textcoords="offset points", ha="right", color=LIMIT,
    )  # fmt: skip
    axes.set_title("Virial ‹x · ∇E› / (N T), mean ± 2 errors")
    axes.set_ylabel("virial (no unit)")
    # The first steps from noise are far off and would flatten the rest.
    shown = [(a, b) for a, b, s in zip(below, above, trace.steps, strict=True) if s >= 3]
    bounds = [v for pair in shown for v in pair if math.isfinite(v)]
    span = max(abs(v - 1.0) for v in [*bounds, 1.1]) * 1.12
    axes.set_ylim(max(1.0 - span, min([*bounds, 0.9]) - 0.05), 1.0 + span)


def coupling_plane(spectrum: Spectrum, step_size: float) -> Figure:
    """Eigenvalues of J, with the line where the bare network turns unstable; curvatures at rest.

    Args:
        spectrum: of the couplings.
        step_size: dt of the chains, above whose 2 / dt curvatures diverge; 0 leaves that out.
    """
    with figure_style():
        figure = blank_figure(4.1)
        plane, ranks = figure.subplots(1, 2)
        _eigenvalues(plane, spectrum)
        values = spectrum.singular
        ranks.plot(
            range(1, len(values) + 1), values, color=GENERATED, linewidth=0, marker="o",
            markersize=3.5,
        )  # fmt: skip
        ranks.axhline(1.0, color=MUTED, linewidth=1.0, linestyle=":")
        bound = math.sqrt(2.0 / step_size) if step_size > 0.0 else math.inf
        if bound < 6.0 * values[0]:
            ranks.axhline(bound, color=LIMIT, linewidth=1.2, linestyle="--")
            ranks.annotate(
                "√(2 / dt): Euler steps diverge above", (1.0, bound),
                xycoords=("axes fraction", "data"), xytext=(0, -5), textcoords="offset points",
                ha="right", va="top", color=LIMIT,
            )  # fmt: skip
        scaled(ranks, [v for v in values if v > 1e-9])
        ranks.set_title("Singular values of I − J; dotted: without couplings")
        ranks.set_xlabel("rank")
        ranks.set_ylabel("σ (no unit)")
    return figure


def _eigenvalues(axes: Axes, spectrum: Spectrum) -> None:
    real = [pair[0] for pair in spectrum.eigenvalues]
    imaginary = [pair[1] for pair in spectrum.eigenvalues]
    left, right = min(*real, -0.2), max(*real, 1.0)
    half = 1.18 * max(*map(abs, imaginary), 0.5 * (right - left))
    middle = 0.5 * (left + right)
    axes.set_xlim(middle - half, middle + half)
    axes.set_ylim(-half, half)
    axes.set_aspect("equal", adjustable="box")
    axes.axvspan(1.0, middle + half, color=LIMIT, alpha=0.08, linewidth=0)
    axes.axvline(1.0, color=LIMIT, linewidth=1.2, linestyle="--")
    axes.scatter(
        real, imaginary, s=22, color=GENERATED, alpha=0.85, edgecolors=SURFACE, linewidths=0.5
    )
    axes.annotate(
        "Re λ = 1", (1.0, 0.99), xycoords=("data", "axes fraction"), xytext=(4, 0),
        textcoords="offset points", va="top", ha="left", color=LIMIT,
    )  # fmt: skip
    axes.set_xlabel("Re λ(J) (no unit)")
    axes.set_ylabel("Im λ(J)")
    axes.set_title(f"{len(real)} eigenvalues of J, {spectrum.unstable} right of the line")


def against_floors(table: Mapping[str, Any]) -> Figure:
    """Two-sample measures of generated images beside their floor and a Gaussian.

    Args:
        table: of `driftwell.measures.two_sample_table`.
    """
    with figure_style():
        figure = blank_figure(3.9, gaps=(0.06, 0.1))
        grid = figure.subplots(2, 3)
        for k, (axes, (key, title, aim)) in enumerate(zip(grid.flat, MEASURES, strict=True)):
            _dots(axes, table, key, aim)
            axes.set_title(title, fontweight="normal")
            axes.set_yticks(range(len(SETS)), [name for _, name, _, _ in SETS])
            if k % 3:
                axes.set_yticklabels([])
    return figure


def _dots(axes: Axes, table: Mapping[str, Any], key: str, aim: float | None) -> None:
    ends = [0.0] if aim is None else [aim]
    for row, (name, _, colour, marker) in enumerate(SETS):
        value = float(table[name][key])
        error = float(table[name].get(f"{key}_error", 0.0))
        error = error if math.isfinite(error) else 0.0
        axes.errorbar(
            value, row, xerr=error or None, fmt=marker, color=colour, markersize=7,
            elinewidth=1.6, capsize=3.5, capthick=1.4, markeredgecolor=SURFACE,
            markeredgewidth=0.6,
        )  # fmt: skip
        axes.annotate(
            rounded(value, error or None), (value, row), xytext=(0, 8), textcoords="offset points",
            ha="center", fontsize=8.5,
        )  # fmt: skip
        ends += [value - error, value + error]
    if aim is not None:
        axes.axvline(aim, color=MUTED, linewidth=1.0, linestyle="--")
    width = max(ends) - min(ends) or 1.0
    axes.set_xlim(min(ends) - 0.12 * width, max(ends) + 0.12 * width)
    axes.set_ylim(len(SETS) - 0.5, -0.75)
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=4)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def training_curves(metrics: Sequence[Mapping[str, float]]) -> Figure:
    """Measures of learning over the updates, from the lines of metrics.jsonl.

    Args:
        metrics: with ``update`` and ``gradient`` (and energies), or ``loss``.
    """
    with figure_style():
        figure = blank_figure(3.1)
        updates = [line["update"] for line in metrics]
        if "gradient" in metrics[0]:
            left, right = figure.subplots(1, 2)
            _contrast(left, right, updates, metrics)
            panels = [left, right]
        else:
            panels = [figure.subplots()]
            loss = [line["loss"] for line in metrics]
            curve(panels[0], updates, loss, GENERATED, None)
            panels[0].set_ylabel("loss per coordinate (no unit)")
            panels[0].set_title("Denoising objective; 1: a machine that knows nothing")
        for axes in panels:
            axes.set_xlabel("updates")
            axes.set_xlim(0, max(updates))
            thousands(axes, log=False)
    return figure


def _contrast(
    left: Axes, right: Axes, updates: Sequence[float], metrics: Sequence[Mapping[str, float]]
) -> None:
    gradient = [line["gradient"] for line in metrics]
    curve(left, updates, gradient, GENERATED, None)
    if min(gradient) > 0.0:
        left.set_yscale("log")
    left.set_ylabel("mean square entry (no unit)")
    left.set_title("Gradient of J: model minus data")
    values: list[float] = []
    for key, colour, name in (
        ("energy_model", GENERATED, "model's chains"), ("energy_data", REAL, "data"),
    ):  # fmt: skip
        if all(key in line for line in metrics):
            energy = [line[key] for line in metrics]
            curve(right, updates, energy, colour, name)
            values += energy
    right.set_ylabel("E / N (energy units)")
    right.set_title("Energy per neuron")
    if values:
        right.legend(loc="upper right")
        scaled(right, values)


def neuron_activity(walk: FollowedWalk, height: int, width: int) -> Figure:
    """State of one neuron in time, step by step."""
    with figure_style():
        figure = blank_figure(2.3)
        axes = figure.subplots()
        times = walk.neuron_times.tolist()
        axes.plot(times, walk.neuron_states.tolist(), color=GENERATED, linewidth=0.8)
        axes.axhline(0.0, color=GRID, linewidth=1.0, zorder=0)
        row, column = divmod(walk.neuron, width)
        pixels = walk.states.shape[1] == height * width and not walk.level
        axes.set_title(f"Neuron {walk.neuron}" + (f", pixel ({row}, {column})" if pixels else ""))
        axes.set_xlabel("time t = steps × dt (integration units)")
        axes.set_ylabel("x (state units)")
        axes.set_xlim(0.0, times[-1])
    return figure


def _level_ticks(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(base=10.0, subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
