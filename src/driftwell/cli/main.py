"""The entry point: one command in, an exit status out, never a traceback.

Status 0: done; 2: the command or its input cannot be used; 1: it failed; 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from driftwell.cli.parser import parse
from driftwell.core.errors import DriftwellError, InvalidInput, MissingExtra

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after ``driftwell``; None takes the process's own.

    Returns:
        The exit status.

    Example:
        >>> main(["--version"])
        driftwell ...
        0
    """
    debugging = os.environ.get("DRIFTWELL_DEBUG", "") not in ("", "0")
    try:
        return _run(parse(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as leave:  # argparse, after --help or --version
        return leave.code if isinstance(leave.code, int) else 0
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debugging:
            raise
        return _report(error)


def _run(options: argparse.Namespace) -> int:
    # threads that wait must not spin: on a shared machine that costs a factor of ten. Only read
    # when torch is loaded, and only if the user has not chosen
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = import_module(f"driftwell.cli.{options.command}")
    status: int = command.run(options)
    sys.stdout.flush()
    return status


def _report(error: Exception) -> int:
    """One line on standard error."""
    if isinstance(error, (InvalidInput, MissingExtra)):
        # all processes of a run are given the same input: one of them says what is wrong with it
        return _say(f"error: {error}", 2, leader_only=True)
    if isinstance(error, DriftwellError):
        return _say(f"error: {error}", 1)
    if isinstance(error, MemoryError):
        return _say("error: out of memory: use fewer chains, images or processes", 1)
    first = (str(error).splitlines() or [""])[0]
    return _say(
        f"error: {type(error).__name__}: {first} (unexpected; set DRIFTWELL_DEBUG=1 to see where)",
        1,
    )


def _say(text: str, status: int, leader_only: bool = False) -> int:
    rank = os.environ.get("RANK", "0")
    if rank == "0" or not leader_only:
        where = "" if rank == "0" else f" (process {rank})"
        one_line = " ".join(text.split())
        print(f"driftwell{where}: {one_line}", file=sys.stderr, flush=True)
    return status
