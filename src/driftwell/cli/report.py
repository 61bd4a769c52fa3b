"""`driftwell report`: a run's page."""

from __future__ import annotations

import argparse
from pathlib import Path

from driftwell.cli.progress import Bar
from driftwell.cli.settings import use_machine
from driftwell.report import write_report
from driftwell.training.run_folder import RunFolder


def run(options: argparse.Namespace) -> int:
    """Write the page and print where it is; the exit status."""
    path = Path(options.run).expanduser()
    config = RunFolder.open(path).config
    use_machine(options.threads or config.threads, config.precision)
    with Bar("reporting", 100, "%", quiet=options.quiet) as bar:
        page = write_report(
            path, samples=options.n, seed=options.seed, progress=lambda done, _: bar.show(done)
        )
    print(page)
    return 0
