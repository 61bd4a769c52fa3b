"""`driftwell measure`: numbers of a run, as tables or as JSON, and in measures.json."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from driftwell.cli.progress import Bar
from driftwell.cli.settings import info, note, use_machine
from driftwell.report.measurements import LIKELIHOOD_LIMIT, measure_run
from driftwell.training.atomic import write_atomically
from driftwell.training.run import load_run
from driftwell.training.run_folder import RunFolder

MEASURES = "measures.json"


def run(options: argparse.Namespace) -> int:
    """Measure a run, print and store the numbers; the exit status."""
    path = Path(options.run).expanduser()
    config = RunFolder.open(path).config
    use_machine(options.threads or config.threads, config.precision)
    trained = load_run(path, options.device)
    if trained.warning:
        note(trained.warning)
    limit = trained.machine.n if options.log_likelihood else LIKELIHOOD_LIMIT
    with Bar("measuring", 100, "%", quiet=options.quiet) as bar:
        found = measure_run(
            trained, samples=options.n, seed=options.seed, likelihood_limit=limit,
            progress=lambda done, _: bar.show(done),
        ).to_json()  # fmt: skip
    numbers = {"run": str(path), "update": trained.update, "preset": config.preset, **found}
    text = json.dumps(numbers, indent=2) + "\n"
    write_atomically(path / MEASURES, text.encode())
    if options.json:
        sys.stdout.write(text)
    else:
        print_tables(numbers)
        info(options, f"all numbers are in {path / MEASURES}")
    return 0


def print_tables(numbers: dict[str, Any]) -> None:
    """The measures as tables for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"{numbers['run']}: preset {numbers['preset']}, update {numbers['update']}, "
        f"{numbers['samples']} samples after {numbers['sample_steps']} steps "
        f"({numbers['sampler']}), seed {numbers['seed']}"
    )
    quality = Table(
        title="generated against held-out images",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for head in ("", "AAI", "Acc_real", "Acc_gen", "E2", "nearest", "ratio", "copied"):
        quality.add_column(head, justify="left" if not head else "right", no_wrap=True)
    for name in ("generated", "gaussian", "real"):
        quality.add_row(*_quality_row(name, numbers["two_sample"][name]))
    console.print(quality)
    console.print(
        f"AAI: 0 is indistinguishable, compared at {numbers['two_sample']['size']} images a side; "
        "nearest: distance to the nearest training image, ratio: against that of held-out ones; "
        "real: training images, the floor of a perfect model",
        style="dim",
    )
    physics = Table(
        title="physics", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    for name, value in _physics(numbers):
        physics.add_row(name, value)
    console.print(physics)
    if numbers["held_out_was_trained_on"]:
        console.print("the held-out images were trained on too (the run took the split all)")


def _quality_row(name: str, row: dict[str, float | None]) -> list[str]:
    titles = {"generated": "generated", "gaussian": "Gaussian", "real": "real"}
    columns = (("aai", 4), ("accuracy_real", 3), ("accuracy_generated", 3), ("e2", 5),
               ("nearest_median", 2), ("nearest_ratio", 3), ("copied", 3))  # fmt: skip
    cells = [titles[name]]
    for key, digits in columns:
        error = row.get(f"{key}_error")
        tail = "" if error is None else f"\n±{error:.{digits}f}"
        cells.append(_number(row.get(key), digits) + tail)
    return cells


def _physics(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    d, s, likelihood = numbers["diagnostics"], numbers["spectrum"], numbers["likelihood"]
    virial = f"{_number(d['virial'], 3)} ± {_number(d['virial_error'], 3)}"
    rows = [
        ("virial (1 at equilibrium)", virial),
        ("effective samples", _number(d["ess"], 0)),
        ("split R-hat", _number(d["rhat"], 3)),
        ("Metropolis acceptance", _number(d["acceptance"], 3)),
        ("step size", f"{d['step_size']:.4g}"),
        ("E/N of training, held-out images",
         f"{_number(numbers['energy_train'], 3)}, {_number(numbers['energy_held_out'], 3)}"),
        ("J: max Re, max |.|, antisymmetric share",
         f"{s['max_real']:.3f}, {s['radius']:.3f}, {s['antisymmetric_share']:.3f}"),
    ]  # fmt: skip
    if likelihood:
        rows += [
            ("held-out log-likelihood, nats an image",
             f"{_number(likelihood['value'], 2)} ± {_number(likelihood['standard_error'], 2)}"),
            ("of training images, of J = 0",
             f"{_number(likelihood['train'], 2)}, {_number(likelihood['noise'], 2)}"),
        ]  # fmt: skip
    gap = numbers["chain_gap"]
    if gap:
        rows.append(
            ("persistent against fresh chains",
             f"{_number(gap['distance'], 3)} (floor {_number(gap['floor'], 3)})")
        )  # fmt: skip
    return rows


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
