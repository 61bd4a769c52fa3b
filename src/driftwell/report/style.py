"""Look of the figures: sizes, palette, and SVG whose colours follow the page's colour scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from driftwell.core.errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 9.2
"""Width of every figure in inches of 72 points: 883 pixels of a page."""

INK, MUTED, GRID, SURFACE = "#1c2331", "#5b6473", "#e2e6eb", "#fffffe"
GENERATED, REAL, GAUSSIAN, LIMIT = "#1d6cb3", "#12805f", "#c2620b", "#b3333f"
CLOUD = (
    "#0d72b1", "#d9590d", "#0a9a72", "#c8719f", "#8a62b5",
    "#4aa8dd", "#b8860c", "#6f7b3a", "#7c7c7d", "#a0522e",
)  # fmt: skip
"""Hues of up to ten classes; classes are named in the figures, so hue never carries it alone."""

# What each colour becomes on a dark page.
_DARK = {
    INK: "#e8ebf0", MUTED: "#a4adba", GRID: "#39414e", SURFACE: "#1a1f28",
    GENERATED: "#6cb4f2", REAL: "#4ecba5", GAUSSIAN: "#f2a65c", LIMIT: "#ff8f93",
}  # fmt: skip
_NAME = {
    INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface",
    GENERATED: "generated", REAL: "real", GAUSSIAN: "gaussian", LIMIT: "limit",
}  # fmt: skip

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 6.0,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.visible": False,
    "legend.frameon": False,
    "image.cmap": "gray",
    "image.interpolation": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "driftwell",
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Matplotlib's defaults and the report's look for the time of a `with`; then the user's again.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    style = require("matplotlib.style", "plot", "to draw figures")
    with style.context(["default", _STYLE]):
        yield


def blank_figure(height: float, gaps: tuple[float, float] = (0.02, 0.02)) -> Figure:
    """An empty figure of the report's width, to be filled inside `figure_style`.

    Args:
        height: in inches of 72 points.
        gaps: between panels, side by side and one below the other, as shares of the figure.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    module = require("matplotlib.figure", "plot", "to draw figures")
    engine = require("matplotlib.layout_engine", "plot", "to draw figures")
    layout = engine.ConstrainedLayoutEngine(wspace=gaps[0], hspace=gaps[1])
    figure: Figure = module.Figure(figsize=(WIDTH, height), layout=layout)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an SVG file, the same bytes for the same figure."""
    buffer = io.StringIO()
    with figure_style():
        figure.savefig(
            buffer,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return buffer.getvalue()


def inline_svg(svg: str, name: str, description: str) -> str:
    """An SVG file as an element of a page: ids of its own, colours from the page's variables.

    Args:
        svg: what `to_svg` returned.
        name: unique in the page; begins every id.
        description: what a reader who does not see the figure is told.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body)
    # Nothing refers to pictures, and equal ones would share their id.
    body = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"font: ?([^;\"]*?)'DejaVu Sans', sans-serif", r"font: \1sans-serif", body)
    for colour, variable in _NAME.items():
        body = body.replace(colour, f"var(--fig-{variable})")
    label = f' role="img" aria-label="{_escaped(description)}"'
    return body.replace("<svg", f"<svg{label}", 1).strip()


def colour_variables(dark: bool) -> str:
    """CSS declarations of the variables that `inline_svg` refers to."""
    return " ".join(
        f"--fig-{name}: {_DARK[colour] if dark else colour};" for colour, name in _NAME.items()
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
