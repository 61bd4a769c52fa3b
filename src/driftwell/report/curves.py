"""What figures of curves share: running medians, and axes that read well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from driftwell.report.rounding import spaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def curve(
    axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, label: str | None
) -> None:
    """The values pale, and their running median over a fortieth of the run."""
    window = max(1, len(y) // 40)
    if window < 3:
        axes.plot(x, y, color=colour, label=label)
        return
    every = max(1, len(y) // 2000)  # a page needs no more points than pixels
    axes.plot(x[::every], y[::every], color=colour, alpha=0.3, linewidth=0.8)
    middles = range(0, len(y) - window + 1, max(1, window // 4))
    smooth = [sorted(y[i : i + window])[window // 2] for i in middles]
    axes.plot([x[i + window // 2] for i in middles], smooth, color=colour, label=label)


def thousands(axes: Axes, log: bool = True) -> None:
    """Whole numbers with thin spaces along the horizontal axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    if log:
        axes.xaxis.set_major_locator(LogLocator(base=10.0, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: spaced(round(x))))


def scaled(axes: Axes, values: Sequence[float]) -> None:
    """A linear axis from 0, or where values span much a logarithmic one with plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    positive = [v for v in values if v > 0.0 and math.isfinite(v)]
    if not positive:
        return
    low, high = min(positive), max(positive)
    if high / low < 15.0 or len(positive) < len(values):
        axes.set_ylim(bottom=min(0.0, *values) if values else 0.0)
        return
    axes.set_yscale("log")
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 300 else (1,)
    ticks = [f * 10.0**d for d in decades for f in factors]
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low * 0.7 < t < high * 1.4]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
