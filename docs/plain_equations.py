"""Docstrings hold plain equations; this keeps reStructuredText from reading them as markup.

`|x|` is an absolute value and not a substitution, `*shape` unpacks and does not open an emphasis,
`lambda_` is a name and not a reference. Text in backticks, doctests, literal blocks and directives
stay as they are, and so does `*a title*`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

VERBATIM = re.compile(
    r"``.+?``"  # literal
    r"|:[\w:]+:`[^`]+`"  # role
    r"|`[^`]+`_{0,2}"  # interpreted text, or a link
    r"|\\."  # escaped already
    r"|(?<![\w*])\*\*(?=\S)[^*]+(?<=\S)\*\*(?![\w*])"  # strong
    r"|(?<![\w*])\*(?=[^\s*])[^*`]*[^\s*`]\*(?![\w*])",  # emphasis
    re.DOTALL,
)
ALIAS = re.compile(r"TypeAliasForwardRef\('([\w.]+)'\)")
NOT_TEXT = (">>>", ".. ", "+-", "==")
NOT_PROSE = (*NOT_TEXT, ":")
LIST_ITEM = re.compile(r"([*+-]|\w{1,2}[.)])\s")
MARKUP = re.compile(r"[|*]|(?<=[\w)])_(?![\w])")


def escape(paragraph: str) -> str:
    """The paragraph with stray signs of markup escaped."""
    out, end = [], 0
    for span in VERBATIM.finditer(paragraph):
        out.append(MARKUP.sub(r"\\\g<0>", paragraph[end : span.start()]))
        out.append(span.group())
        end = span.end()
    return "".join([*out, MARKUP.sub(r"\\\g<0>", paragraph[end:])])


def indent_of(line: str) -> int:
    """Number of leading blanks."""
    return len(line) - len(line.lstrip())


def paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines between blank ones."""
    run: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            run.append(line)
        elif run:
            yield run
            run = []


def escape_docstring(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Escape a docstring in place (a handler of Sphinx's `autodoc-process-docstring`).

    An indented block below prose is an equation, and is shown as it is written.
    """
    out: list[str] = []
    owner = ""  # the paragraph that an indented run belongs to
    literal_above = -1  # indentation of a paragraph that ends in "::"
    for run in paragraphs(lines):
        indent, first = indent_of(run[0]), run[0].lstrip()
        verbatim = first.startswith(NOT_TEXT) or 0 <= literal_above < indent
        if not indent:
            owner = run[0] if not run[-1].endswith("::") else ".. literal"
        elif not verbatim and not owner.startswith(NOT_PROSE) and not LIST_ITEM.match(owner):
            out += ["::", ""]
            verbatim = True
        if not 0 <= literal_above < indent:
            literal_above = indent_of(run[-1]) if run[-1].endswith("::") else -1
        out += run if verbatim else escape("\n".join(run)).split("\n")
        out.append("")
    lines[:] = out


def name_aliases(
    app: Any,
    what: str,
    name: str,
    thing: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None] | None:
    """Show an alias by its name alone (a handler of Sphinx's `autodoc-process-signature`)."""
    if signature is None:
        return None
    return ALIAS.sub(r"\1", signature), returns and ALIAS.sub(r"\1", returns)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx, after napoleon has turned sections into fields."""
    app.connect("autodoc-process-docstring", escape_docstring, priority=900)
    app.connect("autodoc-process-signature", name_aliases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
