"""What the benchmarks share: interleaved timing, text tables, goals, and result files."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


# ---------------------------------------------------------------- timing


@dataclass(frozen=True)
class Variant:
    """One way to do the work.

    Attributes:
        name: shown in tables.
        call: does the work once.
        work: units of work a call does (steps, numbers), what times are divided by.
        precision: of torch's float32 products during the call, a global setting of torch's.
    """

    name: str
    call: Callable[[], Any]
    work: float = 1.0
    precision: str = "highest"


@dataclass(frozen=True)
class Timing:
    """Seconds per unit of work over the repeats of one variant."""

    median: float
    best: float
    repeats: int


def interleave(
    variants: Sequence[Variant], *, seconds: float, least: int = 9, most: int = 400
) -> dict[str, Timing]:
    """Time variants in turn, A B C A B C ..., so that a disturbance meets all of them alike.

    Args:
        variants: with different names.
        seconds: when to stop, if `least` rounds are done.
        least: rounds at least.
        most: rounds at most.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    found: dict[str, list[float]] = {variant.name: [] for variant in variants}
    try:
        for variant in variants:  # packing, compiling, first touch of memory
            torch.set_float32_matmul_precision(variant.precision)
            variant.call()
        began = time.perf_counter()
        for done in range(most):
            if done >= least and time.perf_counter() - began > seconds:
                break
            for variant in variants:
                torch.set_float32_matmul_precision(variant.precision)
                start = time.perf_counter()
                variant.call()
                found[variant.name].append((time.perf_counter() - start) / variant.work)
    finally:
        torch.set_float32_matmul_precision(before)
    return {
        name: Timing(statistics.median(times), min(times), len(times))
        for name, times in found.items()
    }


# ---------------------------------------------------------------- goals and tables


@dataclass(frozen=True)
class Goal:
    """What a benchmark wants to see, and what it saw.

    Attributes:
        text: the goal in words, with its bound.
        value: as measured; None if it could not be.
        met: None if it could not be measured.
    """

    text: str
    value: float | None
    met: bool | None

    def line(self) -> str:
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        value = "" if self.value is None else f": {self.value:.3g}"
        return f"{verdict:>12}  {self.text}{value}"


def at_most(text: str, value: float | None, bound: float) -> Goal:
    return Goal(text, value, None if value is None else value <= bound)


def at_least(text: str, value: float | None, bound: float) -> Goal:
    return Goal(text, value, None if value is None else value >= bound)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned text: the first column to the left, the others to the right.

    Example:
        >>> print(table("t", ["a", "b"], [["x", 1]]))
        t
        a  b
        x  1
    """
    cells = [list(head), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = []
    for first, *others in cells:
        right = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *right]))
    return "\n".join([title, *(line.rstrip() for line in lines)])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------- options and results


def options(
    about: str | None, *more: tuple[str, dict[str, Any]], given: list[str] | None = None
) -> argparse.Namespace:
    """Options that every benchmark takes, `--quick` and `--long`, and its own."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean nothing")
    parser.add_argument("--long", action="store_true", help="more repeats, longer trainings")
    for name, settings in more:
        parser.add_argument(name, **settings)
    return parser.parse_args(given)


def duration(chosen: argparse.Namespace, normal: float, quick: float) -> float:
    """Seconds for one part of a benchmark."""
    return quick if chosen.quick else normal * (3.0 if chosen.long else 1.0)


def write_results(name: str, measured: dict[str, Any], goals: Sequence[Goal] = ()) -> Path:
    """Write results/NAME.json with the machine it was measured on, whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    content = {
        "benchmark": name,
        "machine": machine(),
        "goals": [{"goal": g.text, "value": g.value, "met": g.met} for g in goals],
        **measured,
    }
    path = RESULTS / f"{name}.json"
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)
    return path


def say_goals(goals: Sequence[Goal]) -> None:
    if goals:
        print("\ngoals", *(goal.line() for goal in goals), sep="\n", flush=True)


def machine() -> dict[str, Any]:
    """Processor, software, threads and load: what a figure depends on."""
    import torch

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "load_average": load,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def say_machine() -> None:
    """One line on what the figures below were measured on."""
    m = machine()
    load = "" if m["load_average"] is None else f", load {m['load_average']:.1f} at the start"
    print(
        f"{m['processor']}, {m['threads']} of {m['cores']} cores, torch {m['torch']}{load}\n",
        flush=True,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _plain(value: Any) -> Any:
    """JSON has no NaN or infinity: null instead."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
