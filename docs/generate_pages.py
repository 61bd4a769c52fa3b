"""Pages of the documentation that are written from the code: the API, the papers, the claims."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import driftwell
from driftwell.claims import all_claims
from driftwell.core.papers import Paper, papers_of

ROOMS = {
    "core": "State, results, errors, noise, papers",
    "nn": "Bricks of networks",
    "dynamics": "Laws of motion",
    "paths": "Probability paths",
    "fixed_points": "Fixed points",
    "sampling": "Sampling",
    "integration": "Integration",
    "learning": "Learning",
    "models": "Models",
    "measures": "Measures",
    "quantization": "Quantization",
    "data": "Data",
    "training": "Training",
    "claims": "Claims",
    "report": "Report",
    "cli": "Command line",
    "studio": "Studio",
    "testing": "Conformance suites",
}


def write_all(docs: Path) -> None:
    """Write `api/*.md` and `papers.md` below the folder of the documentation."""
    modules = list(public_modules())
    write_api(docs / "api", modules)
    write_if_changed(docs / "papers.md", papers_page(modules))
    write_if_changed(docs / "claims.md", claims_page(docs / "claims.jsonl"))


def public_modules() -> Iterator[ModuleType]:
    """All modules of the package whose path holds no leading underscore."""
    for info in pkgutil.walk_packages(driftwell.__path__, prefix="driftwell."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            yield importlib.import_module(info.name)


def own_members(module: ModuleType) -> list[Any]:
    """Public classes and functions that the module itself defines."""
    return [
        thing
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
    ]


def write_api(folder: Path, modules: list[ModuleType]) -> None:
    """Write one page a room, one section a module that defines something public."""
    folder.mkdir(exist_ok=True)
    pages = {}
    for room, title in ROOMS.items():
        inside = [m for m in modules if m.__name__.split(".")[1] == room and own_members(m)]
        if inside:
            sections = [
                f"## {m.__name__}\n\n```{{eval-rst}}\n.. automodule:: {m.__name__}\n```"
                for m in inside
            ]
            about = f"```{{eval-rst}}\n.. automodule:: driftwell.{room}\n   :no-members:\n```"
            pages[room] = "\n\n".join([f"# {title}", about, *sections]) + "\n"
    listing = "\n".join(pages)
    pages["index"] = (
        "# API\n\nOne page a room of the package; rooms may only use rooms listed before them.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{listing}\n```\n"
    )
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        write_if_changed(folder / f"{name}.md", text)


def papers_page(modules: list[ModuleType]) -> str:
    """Markdown of the table of papers: each card and the things, or else modules, that carry it."""
    cards: dict[str, Paper] = {}
    carriers: dict[str, dict[str, str]] = {}
    homes: dict[str, dict[str, str]] = {}
    for module in modules:
        for thing in vars(module).values():
            if isinstance(thing, Paper):
                cards[thing.key] = thing
                if own_members(module):
                    home = f"{{py:mod}}`{module.__name__}`"
                    homes.setdefault(thing.key, {})[module.__name__] = home
        for thing in own_members(module):
            for paper in papers_of(thing):
                if isinstance(paper, Paper):
                    cards[paper.key] = paper
                    role = "class" if inspect.isclass(thing) else "func"
                    link = f"{{py:{role}}}`{thing.__name__} <{module.__name__}.{thing.__name__}>`"
                    carriers.setdefault(paper.key, {})[thing.__name__] = link
    claims = claims_of_papers()
    rows = [
        "| {} | {} | {} | {} |".format(
            reference_link(paper),
            paper.year,
            ", ".join((carriers.get(paper.key) or homes.get(paper.key, {})).values()),
            ", ".join(claims.get(paper.key, [])),
        )
        for paper in sorted(cards.values(), key=lambda card: (card.authors, card.year, card.title))
    ]
    return "\n".join(
        [
            "# Papers",
            "",
            "Written from the `Paper` cards in the code, so it cannot fall behind it;"
            " `driftwell.cite(thing)` prints the BibTeX of what a thing stands on.",
            "",
            "A claim in italics does not hold here; what was measured stands on the page of"
            " [claims](claims.md).",
            "",
            "| paper | year | in driftwell | claims |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def claims_of_papers() -> dict[str, list[str]]:
    """Links to the claims of each paper, by its key; in italics those known not to hold."""
    found: dict[str, list[str]] = {}
    for claim in all_claims():
        link = f"[{claim.id}](claims.md#{claim.id})"
        shown = link if claim.expected == "reproduced" else f"*{link}*"
        found.setdefault(claim.paper.key, []).append(shown)
    return found


def claims_page(results: Path) -> str:
    """Markdown of every claim: what it states, its bound, and what was measured."""
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    records = {record["id"]: record for record in lines}
    parts = [
        "# Claims",
        "Statements of the papers as functions that can fail, each with a control, a broken variant"
        " that must fail it. The figures are kept in `docs/claims.jsonl`, a line a claim, as this"
        " prints it, on one thread of two cores:",
        "```sh\ndriftwell claims run ID --seed 0 --json\n```",
    ]
    reproduced = sum(record["outcome"] == "reproduced" for record in records.values())
    parts.append(
        f"{reproduced} of {len(records)} hold; every control failed as it must. Those that do not"
        " hold are kept, with what was measured."
    )
    for claim in all_claims():
        parts.append(f"## {claim.id}")
        record = records.get(claim.id)
        outcome = "not run yet" if record is None else record["outcome"].replace("_", " ")
        parts.append(f"**{outcome}**: {claim.states} ({reference_link(claim.paper)})")
        if record is not None:
            parts.append(_figures(record))
    return "\n\n".join(parts) + "\n"


def _figures(record: dict[str, Any]) -> str:
    rows = {
        "stated": record["stated"],
        "bound": record["bound"],
        "measured": _numbers(record["measured"]),
        f"control ({record['control_is']})": _numbers(record.get("control_measured", {})),
        "seconds": f"{record['seconds']:.0f}",
    }
    cells = "\n".join(f"| {name} | {_cell(text)} |" for name, text in rows.items())
    return f"| | |\n|---|---|\n{cells}"


def _numbers(measured: dict[str, float | None]) -> str:
    return "; ".join(
        f"{name}: {'-' if value is None else f'{value:.4g}'}" for name, value in measured.items()
    )


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*").replace("_", r"\_").replace("\n", " ")


def reference_link(paper: Paper) -> str:
    """Markdown of a paper's reference, linked to its DOI or arXiv page where it has one."""
    text = paper.reference.replace("|", r"\|")
    if paper.arxiv:
        return f"[{text}](https://arxiv.org/abs/{paper.arxiv})"
    return f"[{text}](https://doi.org/{paper.doi})" if paper.doi else text


def write_if_changed(path: Path, text: str) -> None:
    """Write a page only when it differs, so that Sphinx rebuilds no more than it must."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
