"""Paper cards: which paper a thing came from, where it lives, how to cite it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from driftwell.core.errors import InvalidInput


@dataclass(frozen=True)
class Paper:
    """One paper of the field, as the tables of papers and `cite` need it.

    Attributes:
        key: short citation key, such as ``"yu2025nlm"``.
        title: title of the paper.
        authors: authors, family name first, separated by ``" and "``.
        year: year of the cited version.
        arxiv: arXiv identifier, or "".
        venue: journal or conference, or "".
        doi: DOI, or "".

    Example:
        >>> Paper("a2020b", "On b", "A, B. and C, D.", 2020, arxiv="2001.00001").reference
        'A and C, On b, 2020, arXiv:2001.00001'
    """

    key: str
    title: str
    authors: str
    year: int
    arxiv: str = ""
    venue: str = ""
    doi: str = ""

    @property
    def reference(self) -> str:
        """One line that names the paper."""
        where = f"arXiv:{self.arxiv}" if self.arxiv else self.venue
        first = self.authors.split(" and ")
        who = first[0].split(",")[0] + (" et al." if len(first) > 2 else "")
        if len(first) == 2:
            who += " and " + first[1].split(",")[0]
        return f"{who}, {self.title}, {self.year}, {where}"

    @property
    def bibtex(self) -> str:
        """BibTeX entry."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": self.authors,
            "year": str(self.year),
            "journal": self.venue,
            "doi": self.doi,
            "eprint": self.arxiv,
            "archiveprefix": "arXiv" if self.arxiv else "",
        }
        body = ",\n".join(f"  {key} = {{{value}}}" for key, value in fields.items() if value)
        return f"@article{{{self.key},\n{body}\n}}"


def papers_of(thing: Any) -> tuple[Paper, ...]:
    """Papers behind an object or class: its `papers` attribute, else those of its type."""
    found = getattr(thing, "papers", ())
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def cite(*things: Any) -> str:
    """BibTeX of every paper behind the given models, samplers, solvers or classes.

    Raises:
        InvalidInput: none of them carries a paper card.

    Example:
        >>> from driftwell.core.papers import Paper
        >>> cite(Paper("a2020b", "On b", "A, B.", 2020, arxiv="2001.00001")).splitlines()[0]
        '@article{a2020b,'
    """
    cards: dict[str, Paper] = {}
    for thing in things:
        for paper in (thing,) if isinstance(thing, Paper) else papers_of(thing):
            cards[paper.key] = paper
    if not cards:
        names = ", ".join(getattr(t, "__name__", type(t).__name__) for t in things)
        raise InvalidInput(f"no paper card is attached to {names or 'nothing'}")
    return "\n\n".join(card.bibtex for card in cards.values())
