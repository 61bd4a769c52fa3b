"""`driftwell export`: a run as packed safetensors, an ONNX graph, or plain C."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from driftwell.cli.measure import print_tables
from driftwell.cli.settings import info, note, use_machine
from driftwell.report.parts import Table
from driftwell.training.exporting import export_run
from driftwell.training.run_folder import RunFolder


def run(options: argparse.Namespace) -> int:
    """Write a run's model for use elsewhere and say what was written; the exit status."""
    path, out = Path(options.run).expanduser(), Path(options.out).expanduser()
    config = RunFolder.open(path).config
    threads = config.threads if options.threads is None else options.threads
    use_machine(threads, config.precision)
    shipped = export_run(
        path, out, options.to, name=options.name, seed=options.seed, overwrite=options.overwrite,
        device=options.device, note=note,
    )  # fmt: skip
    if options.json:
        sys.stdout.write(json.dumps(shipped.to_json(), indent=2) + "\n")
        return 0
    print_tables(
        f"{out}: {options.to} of {path}",
        [
            Table("files", tuple((f.name, f"{f.stat().st_size:,}") for f in shipped.files),
                  ("", "bytes")),
            Table("what was checked", tuple(shipped.facts.items())),
        ],
    )  # fmt: skip
    info(options, shipped.next_step)
    return 0
