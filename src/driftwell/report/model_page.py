"""The page of a model trained by gradients: what its template is filled with."""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import dataclass
from typing import final

from driftwell.core.papers import papers_of
from driftwell.report.parts import Plate, Reading, Table
from driftwell.report.quantization import quantization_section, quantize_commands
from driftwell.report.rounding import spaced
from driftwell.report.style import colour_variables
from driftwell.report.templates import environment
from driftwell.training.model_run import ModelRun
from driftwell.training.run_folder import CONFIG


@final
@dataclass(frozen=True)
class Section:
    """A heading and the figures under it, by their names."""

    anchor: str
    title: str
    plates: tuple[str, ...]


@final
@dataclass(frozen=True)
class Page:
    """What one kind of run has to say on its page.

    Attributes:
        lead: what the model is, in two sentences.
        facts: names and values beside the run's own.
        readings: what the numbers say.
        tables: the numbers.
        sections: the figures.
        data: what it was trained and measured on.
        warnings: sentences beside those of the run.
        command: words after ``driftwell measure`` that print the same numbers.
    """

    lead: str
    facts: tuple[tuple[str, str], ...]
    readings: list[Reading]
    tables: list[Table]
    sections: tuple[Section, ...]
    data: str
    warnings: tuple[str, ...] = ()
    command: str = ""


def render_page(run: ModelRun, page: Page, plates: dict[str, Plate]) -> str:
    """HTML of the page."""
    config = tomllib.loads((run.path / CONFIG).read_text(encoding="utf-8"))
    recipe = config.pop("recipe", {})
    classes = run.config.data.classes
    chosen = f", classes {', '.join(map(str, classes))}" if classes else ""
    there = [
        Section(s.anchor, s.title, tuple(n for n in s.plates if n in plates)) for s in page.sections
    ]
    seconds = f"{run.seconds:.0f} s" if run.seconds < 120 else f"{run.seconds / 60:.0f} min"
    text: str = environment().get_template("frame.html.j2").render(
        title=f"{run.config.kind.title} on {run.meta['data']['name']}{chosen}",
        run=run, plates=plates, lead=page.lead, readings=page.readings, tables=page.tables,
        sections=[section for section in there if section.plates],
        facts=[
            ("preset", run.config.preset), ("updates", spaced(run.update)),
            ("training time", seconds), *page.facts, ("seed", str(run.config.seed)),
        ],
        warnings=[*run.meta.get("warnings", []), *page.warnings,
                  *([run.warning] if run.warning else [])],
        quantized=quantization_section(run), config=config, recipe=recipe,
        data_words=page.data, papers=papers_of(run.model),
        versions={
            k: str(v)
            for k, v in {**run.meta.get("versions", {}), "threads": run.meta["threads"],
                         "processes": run.meta["processes"]}.items()
        },
        commands=[*quantize_commands(run), *_commands(run, page)],
        light=colour_variables(dark=False), dark=colour_variables(dark=True),
    )  # fmt: skip
    return text


def _commands(run: ModelRun, page: Page) -> list[tuple[str, str]]:
    folder, model = shlex.quote(str(run.path)), run.config.model
    data = run.config.data
    words = [f"driftwell train {model}", f"--data {shlex.quote(data.source)}"]
    if data.classes:
        words.append(f"--classes {','.join(map(str, data.classes))}")
    if data.limit is not None:
        words.append(f"--limit {data.limit}")
    words += [f"--preset {run.config.preset}", f"--updates {run.update}",
              f"--seed {run.config.seed}", f"--out {folder}"]  # fmt: skip
    same = f"{folder}{page.command}"
    return [
        ("trains it (all settings: config.toml)", " ".join(words)),
        ("the same, from the settings file",
         f"driftwell train {model} --config {folder}/{CONFIG} --out ANOTHER"),
        ("prints every number here", f"driftwell measure {same} --json"),
        ("writes this page", f"driftwell report {same}"),
    ]  # fmt: skip
