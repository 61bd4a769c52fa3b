"""The template engine of the pages."""

from __future__ import annotations

from typing import Any

from driftwell.core.errors import require
from driftwell.report.rounding import spaced


def environment() -> Any:
    """A jinja2 environment of this room: everything is escaped, anything missing is an error.

    Its filters: `spaced` for whole numbers, `setting` for values of a config file, `safe_svg` for
    drawings, the only markup that is not escaped.

    Raises:
        MissingExtra: jinja2 is not installed.

    Example:
        >>> environment().from_string("{{ x | setting }} {{ y }}").render(x=[1, 3], y="<b>")
        '1, 3 &lt;b&gt;'
    """
    jinja2 = require("jinja2", "plot", "to write a page")
    engine = jinja2.Environment(
        loader=jinja2.PackageLoader("driftwell.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters["spaced"] = spaced
    engine.filters["setting"] = _setting
    engine.filters["safe_svg"] = require("markupsafe", "plot", "to write a page").Markup
    return engine


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "all"
    return f"{value:g}" if isinstance(value, float) else str(value)
