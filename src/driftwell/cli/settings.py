"""Machine settings, which the command line may change and the library never does."""

from __future__ import annotations

import argparse
import sys

import torch

from driftwell.core.errors import InvalidInput


def use_machine(threads: int | None, precision: str = "highest") -> str:
    """Set threads and the precision of float32 products for this process.

    Args:
        threads: of the processor; None leaves torch's choice.
        precision: as in `RunConfig`; ``"bfloat16"`` is the sampler's own, products elsewhere
            stay at the highest.

    Returns:
        What was set, in words, to be shown.

    Raises:
        InvalidInput: fewer than one thread.
    """
    if threads is not None:
        if threads < 1:
            raise InvalidInput(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    level = "highest" if precision == "bfloat16" else precision
    torch.set_float32_matmul_precision(level)  # noqa: TID251 (the one place that may)
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count > 1 else ''}, precision {precision}"


def note(sentence: str) -> None:
    """A sentence for the user on standard error, on one line."""
    print(f"driftwell: note: {' '.join(sentence.split())}", file=sys.stderr, flush=True)


def info(options: argparse.Namespace, sentence: str) -> None:
    """A line of news on standard error, unless the user wants quiet."""
    if not options.quiet:
        print(sentence, file=sys.stderr, flush=True)
