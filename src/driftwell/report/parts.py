"""Parts of a page: figures, readings, tables; and numbers as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, final

from driftwell.report.style import inline_svg, to_svg

Tone = Literal["good", "neutral", "bad"]
OVERLAP = "This run was trained on all data: the “held-out” images below were trained on too."


@final
@dataclass(frozen=True)
class Plate:
    """One figure of the page.

    Attributes:
        name: file name without its suffix, and anchor.
        svg: the drawing, as a file.
        description: what a reader who does not see it is told.
        caption: what to see, and how to read it honestly.
    """

    name: str
    svg: str
    description: str
    caption: str

    @property
    def inline(self) -> str:
        """The drawing as an element of the page."""
        return inline_svg(self.svg, self.name, self.description)


def plate(name: str, figure: Any, description: str, caption: str) -> Plate:
    """A figure of the page."""
    return Plate(name, to_svg(figure), description, caption)


@final
@dataclass(frozen=True)
class Reading:
    """One sentence about the measurements.

    Attributes:
        subject: what it is about, one or two words.
        sentence: what the numbers say.
        tone: whether that speaks for the model, against it, or neither.
    """

    subject: str
    sentence: str
    tone: Tone


@final
@dataclass(frozen=True)
class Table:
    """Rows of text under a title.

    Attributes:
        title: what the rows are.
        rows: cells, the first being the row's name.
        head: names of the columns; empty for none.
        note: how to read it.
    """

    title: str
    rows: tuple[tuple[str, ...], ...]
    head: tuple[str, ...] = ()
    note: str = ""


def number(value: float | None, digits: int) -> str:
    """A number with so many decimals, a dash for None.

    Example:
        >>> number(0.123456, 3), number(None, 3)
        ('0.123', '-')
    """
    return "-" if value is None else f"{value:.{digits}f}"


def plain_values(value: Any) -> Any:
    """`value` with every NaN and infinity as None, as JSON has no word for them."""
    if isinstance(value, dict):
        return {str(key): plain_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
