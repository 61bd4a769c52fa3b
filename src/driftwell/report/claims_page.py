"""One page about the claims: what each paper states, what was measured, and its control."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftwell.core.atomic import write_atomically
from driftwell.core.errors import InvalidInput
from driftwell.report.rounding import measured
from driftwell.report.style import (
    CLOUD,
    GENERATED,
    blank_figure,
    colour_variables,
    figure_style,
    inline_svg,
    to_svg,
)
from driftwell.report.templates import environment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]

_NEEDED = ("id", "paper", "states", "outcome", "measured", "control_failed", "seconds")
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+/\d{7})")
_VERDICTS = {
    "reproduced": ("reproduced", "good"),
    "not_reproduced": ("not reproduced", "bad"),
    "error": ("error", "bad"),
}


def write_claims_page(outcomes: list[dict[str, Any]], path: Path) -> Path:
    """Write one self-contained page with a section per claim.

    Args:
        outcomes: records of `driftwell.claims.run_claim`: id, paper, states, outcome, expected,
            stated, bound, measured, control_failed, control_is, control_measured, series,
            seconds, seed, error; what is absent is left out.
        path: where to.

    Returns:
        `path`.

    Raises:
        InvalidInput: no outcome, or one without the fields that name it.
        MissingExtra: a claim has curves and matplotlib is not installed.
        RunFolderError: the page cannot be written.

    Example:
        >>> import tempfile
        >>> record = {"id": "a", "paper": "A, 2020", "states": "b", "outcome": "reproduced",
        ...           "measured": {"c": 1.0}, "control_failed": True, "seconds": 0.1}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_claims_page([record], Path(folder, "claims.html"))
        ...     "reproduced" in page.read_text(encoding="utf-8")
        True
    """
    if not outcomes:
        raise InvalidInput("a page of claims needs at least one outcome: run some claims first")
    claims = [_claim(record, k) for k, record in enumerate(outcomes)]
    page: str = (
        environment()
        .get_template("claims.html.j2")
        .render(
            claims=claims,
            held=sum(claim["as_expected"] for claim in claims),
            seconds=sum(float(claim["seconds"]) for claim in claims),
            seeds=sorted({str(record["seed"]) for record in outcomes if "seed" in record}),
            light=colour_variables(dark=False),
            dark=colour_variables(dark=True),
        )
    )
    write_atomically(Path(path), page.encode())
    return Path(path)


def claim_curves(series: Mapping[str, Curve]) -> Figure:
    """Curves of a claim, one panel for those that share a name up to their last comma.

    Args:
        series: name -> (x, y); "y against x" names both axes.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    panels = _grouped(series)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with figure_style():
        figure = blank_figure(2.7 * rows, gaps=(0.05, 0.08))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
            _panel(axes, title, curves)
        for spare in list(grid.flat)[len(panels) :]:
            spare.remove()
    return figure


def _panel(axes: Axes, title: str, curves: Mapping[str, Curve]) -> None:
    everything: list[float] = []
    for k, (name, (x, y)) in enumerate(curves.items()):
        colour = GENERATED if len(curves) == 1 else CLOUD[k % len(CLOUD)]
        mark = "o" if len(x) <= 40 else ""
        axes.plot(x, y, color=colour, marker=mark, markersize=4.5, label=name)
        everything += [v for v in x if math.isfinite(v)]
    if everything and min(everything) > 0 and max(everything) > 50 * min(everything):
        axes.set_xscale("log")
    if len(curves) > 1:
        axes.legend(loc="best")
    quantity, _, abscissa = title.partition(" against ")
    axes.set_title(quantity)
    axes.set_xlabel(abscissa)


def _grouped(series: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    stems = [name.rpartition(", ")[0] for name in series]
    panels: dict[str, dict[str, Curve]] = {}
    for name, curve in series.items():
        stem, _, rest = name.rpartition(", ")
        shared = bool(stem) and stems.count(stem) > 1
        panels.setdefault(stem if shared else name, {})[rest if shared else ""] = curve
    return panels


def _claim(record: Mapping[str, Any], place: int) -> dict[str, Any]:
    missing = [key for key in _NEEDED if key not in record]
    if missing:
        raise InvalidInput(
            f"the outcome of claim {record.get('id', place)!r} lacks {', '.join(missing)}: give "
            "the records that run_claim returned"
        )
    verdict, tone = _VERDICTS.get(record["outcome"], (str(record["outcome"]), "bad"))
    expected = record.get("expected", "reproduced")
    as_expected = record["outcome"] == expected and bool(record["control_failed"])
    if as_expected and record["outcome"] == "not_reproduced":
        tone = "neutral"
    found = _ARXIV.search(str(record["paper"]))
    series = record.get("series") or {}
    drawing = ""
    if series:
        svg = to_svg(claim_curves({name: (xy[0], xy[1]) for name, xy in series.items()}))
        drawing = inline_svg(svg, f"claim{place}", f"Curves of the claim {record['id']}")
    optional = ("stated", "bound", "control_is", "error")
    return {
        **{key: record[key] for key in _NEEDED},
        **{key: record.get(key) or "" for key in optional},
        "expected": expected,
        "verdict": verdict,
        "tone": tone,
        "as_expected": as_expected,
        "arxiv": found.group(1) if found else "",
        "rows": _rows(record["measured"], record.get("control_measured") or {}),
        "drawing": drawing,
    }


def _rows(own: Mapping[str, float | None], control: Mapping[str, float | None]) -> list[Any]:
    """Numbers of claim and control side by side, with bars relative to the larger of the two."""
    rows = []
    for name in [*own, *(key for key in control if key not in own)]:
        pair = [own.get(name), control.get(name)]
        sizes = [abs(v) if v is not None and math.isfinite(v) else 0.0 for v in pair]
        largest = max(sizes) or 1.0
        rows.append(
            {
                "name": name,
                "value": measured(pair[0], digits=4),
                "control": measured(pair[1], digits=4),
                "widths": [round(100.0 * size / largest, 1) for size in sizes],
            }
        )
    return rows
