"""Figures of what quantizing did to a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from driftwell.report.style import (
    GENERATED,
    MUTED,
    REAL,
    blank_figure,
    figure_style,
)
from driftwell.report.thumbnails import named, show, tiled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 16
_TITLES = {
    "aai": "AAI of generated images (0 is best)", "e2": "E2, squared error of covariances",
    "accuracy": "Accuracy, held out", "steps": "Evaluations a solve",
    "psnr": "Signal-to-noise ratio, held out (dB)",
}  # fmt: skip
_FLOAT = 16
"""Bits from which on a row is of the float model."""


def layer_errors(layers: Sequence[Mapping[str, Any]]) -> Figure:
    """Relative error of each layer's output: as quantized, and with plain rounding."""
    with figure_style():
        figure = blank_figure(1.2 + 0.26 * len(layers))
        axes = figure.subplots()
        places = range(len(layers))
        axes.scatter([100 * layer["rounded"] for layer in layers], places, color=MUTED, zorder=3,
                     label="plain rounding")  # fmt: skip
        axes.scatter([100 * layer["error"] for layer in layers], places, color=GENERATED, zorder=3,
                     label="as quantized")  # fmt: skip
        axes.set_yticks(list(places), [f"{a['name']}, {a['bits']} bits" for a in layers])
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set_xlim(left=0.0)
        axes.set_xlabel("relative error of the layer's output (%)")
        axes.grid(axis="x", alpha=0.4)
        figure.legend(loc="outside upper right", ncols=2)
    return figure


def quality_against_bits(scores: Sequence[Mapping[str, Any]]) -> Figure:
    """Each score over the bits of a weight, with the float model's as a line."""
    names = [name for name in scores[0] if name != "bits" and not name.endswith("_error")]
    rows = [row for row in scores if row["bits"] < _FLOAT]
    whole = next((row for row in scores if row["bits"] >= _FLOAT), None)
    with figure_style():
        figure = blank_figure(2.9)
        panels: Any = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            bits = [row["bits"] for row in rows]
            errors = [row.get(f"{name}_error", 0.0) or 0.0 for row in rows]
            axes.errorbar(bits, [row[name] for row in rows], errors, color=GENERATED, marker="o",
                          capsize=3, label="quantized")  # fmt: skip
            if whole is not None:
                error = whole.get(f"{name}_error", 0.0) or 0.0
                axes.axhspan(whole[name] - error, whole[name] + error, color=REAL, alpha=0.15)
                axes.axhline(whole[name], color=REAL, label="float, ± one standard error")
            axes.set_xticks(sorted(bits), [str(b) for b in sorted(bits)])
            axes.set_xlabel("bits a weight")
            axes.set_title(_TITLES.get(name, name.replace("_", " ")))
        panels[0].legend(loc="best")
    return figure


def before_and_after(before: Tensor, after: Tensor, bits: int) -> Figure:
    """The same pictures by the float model and by the quantized one, and their difference."""
    count = min(_SHOWN, len(before))
    rows = (("float", before), (f"{bits} bits", after), ("difference", (after - before).abs()))
    with figure_style():
        figure = blank_figure(0.3 + 0.5 * len(rows))
        grid: Any = figure.subplots(len(rows), 1)
        for axes, (title, images) in zip(grid, rows, strict=True):
            show(axes, tiled(images[:count], count))
            named(axes, title)
    return figure
