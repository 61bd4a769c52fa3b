"""`driftwell measure`: numbers of a run, as tables or as JSON, and in measures.json."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from driftwell.cli.progress import Bar
from driftwell.cli.settings import info, note, use_machine
from driftwell.core.atomic import write_atomically
from driftwell.report.parts import Table
from driftwell.report.reporter import Request, find_reporter
from driftwell.training.run_folder import RunFolder

MEASURES = "measures.json"


def run(options: argparse.Namespace) -> int:
    """Measure a run, print and store the numbers; the exit status."""
    path = Path(options.run).expanduser()
    config = RunFolder.open(path).config
    use_machine(options.threads or config.threads, config.precision)
    trained = config.kind.load(path, options.device)
    if trained.warning:
        note(trained.warning)
    reporter = find_reporter(config.model)
    with Bar("measuring", 100, "%", quiet=options.quiet) as bar:
        found = reporter.measure(
            trained,
            Request(
                options.n,
                options.seed,
                bool(options.log_likelihood),
                lambda done, _: bar.show(done),
            ),
        ).to_json()
    numbers = {"run": str(path), "update": trained.update, "preset": config.preset, **found}
    text = json.dumps(numbers, indent=2) + "\n"
    write_atomically(path / MEASURES, text.encode())
    if options.json:
        sys.stdout.write(text)
    else:
        head = f"{path}: preset {config.preset}, update {trained.update}, "
        print_tables(head + reporter.headline(numbers), reporter.tables(numbers))
        info(options, f"all numbers are in {path / MEASURES}")
    return 0


def print_tables(headline: str, tables: list[Table]) -> None:
    """The measures as tables for people."""
    from rich.console import Console
    from rich.table import Table as Shown

    console = Console(highlight=False)
    console.print(headline)
    for table in tables:
        shown: Any = Shown(
            title=table.title, title_justify="left", show_header=bool(table.head), box=None,
            padding=(0, 2, 0, 0),
        )  # fmt: skip
        for head in table.head:
            shown.add_column(head, justify="left" if not head else "right", no_wrap=True)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        if table.note:
            console.print(table.note, style="dim")
