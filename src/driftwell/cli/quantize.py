"""`driftwell quantize`: a run of few bits a weight."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from driftwell.cli.measure import print_tables
from driftwell.cli.settings import info, note, use_machine
from driftwell.report.parts import plain_values
from driftwell.report.quantization import layer_table, score_table, scores_of, skipped_table
from driftwell.training.quantization_plan import QuantizationPlan
from driftwell.training.quantized_run import QuantizedRun, quantize_run
from driftwell.training.run_folder import RunFolder


def run(options: argparse.Namespace) -> int:
    """Quantize a run into another folder and say what became of its layers; the exit status."""
    path, out = Path(options.run).expanduser(), Path(options.out).expanduser()
    config = RunFolder.open(path).config
    plan = plan_of(options, config.kind.activations)
    threads = config.threads if options.threads is None else options.threads
    use_machine(threads, config.precision)
    made = quantize_run(
        path, out, plan, overwrite=options.overwrite, device=options.device,
        scores=None if options.no_scores else scores_of(plan, note),
    )  # fmt: skip
    if options.json:
        sys.stdout.write(json.dumps(_plain(made), indent=2) + "\n")
        return 0
    tables = [layer_table([asdict(layer) for layer in made.weights.layers])]
    if made.scores:
        tables.append(score_table(made.scores))
    tables += skipped_table(made.weights.skipped)
    head = f"{out}: {plan.bits} bits by {plan.method}, "
    print_tables(head + f"{made.float_bytes:,} -> {made.nbytes:,} bytes of weights", tables)
    info(options, f"use it as any run: `driftwell report {out}`, `driftwell measure {out}`")
    return 0


def plan_of(options: argparse.Namespace, usual: str) -> QuantizationPlan:
    """The plan that the options give, with the kind's usual activations.

    Raises:
        InvalidInput: options that do not go together.
    """
    per = options.per or ("group" if options.group_size else "channel")
    return QuantizationPlan(**{
        "bits": options.bits, "method": options.method, "format": options.format, "per": per,
        "group_size": options.group_size, "activations": options.activations or usual,
        "samples": options.samples, "seed": options.seed,
    })  # fmt: skip


def _plain(made: QuantizedRun) -> object:
    return plain_values({
        "run": str(made.path), "float_bytes": made.float_bytes, "nbytes": made.nbytes,
        "layers": [asdict(layer) for layer in made.weights.layers],
        "skipped": made.weights.skipped, "scores": made.scores,
    })  # fmt: skip
