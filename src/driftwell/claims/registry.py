"""Executable claims: a paper's statement as a function that can fail, with a control that must."""

from __future__ import annotations

import difflib
import importlib
import math
import pkgutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper


@dataclass(frozen=True)
class Outcome:
    """What a claim measured, and whether it met its bound.

    Attributes:
        holds: whether every bound was met.
        measured: numbers by name.
        bound: the bound in words and numbers, fixed before the run.
        series: optional curves for the report, name -> (x values, y values).
    """

    holds: bool
    measured: dict[str, float]
    bound: str
    series: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)


Run = Callable[[int], Outcome]


@dataclass(frozen=True)
class Claim:
    """A registered claim; call it with a seed.

    Attributes:
        id: name on the command line.
        paper: where the statement comes from.
        states: the statement, in our words.
        stated: the figures the paper or card gives, in words.
        cpu_minutes: declared cost with its control on two cores.
        run: seed -> Outcome.
        fast: whether it belongs to the subset that runs in continuous integration.
        expected: ``"reproduced"`` or ``"not_reproduced"``.
        control: the deliberately broken variant, seed -> Outcome, which must not hold.
        control_is: what was broken.
    """

    id: str
    paper: Paper
    states: str
    stated: str
    cpu_minutes: float
    run: Run
    fast: bool
    expected: str
    control: Run
    control_is: str

    def __call__(self, seed: int) -> Outcome:
        """What the claim measures with this seed."""
        return self.run(seed)


_CLAIMS: dict[str, Claim] = {}


def claim(
    *,
    id: str,
    paper: Paper,
    states: str,
    stated: str,
    cpu_minutes: float,
    control: Run,
    control_is: str,
    fast: bool = False,
    expected: str = "reproduced",
) -> Callable[[Run], Claim]:
    """Register a function seed -> `Outcome` as a claim; see `Claim` for the arguments.

    Raises:
        InvalidInput: the id is taken, or `expected` is not one of the two words.
    """

    def register(run: Run) -> Claim:
        if id in _CLAIMS:
            raise InvalidInput(f"two claims are named {id!r}; ids must be unique")
        if expected not in ("reproduced", "not_reproduced"):
            raise InvalidInput(
                f"claim {id}: expected must be 'reproduced' or 'not_reproduced', got {expected!r}"
            )
        made = Claim(
            id, paper, states, stated, cpu_minutes, run, fast, expected, control, control_is
        )
        _CLAIMS[id] = made
        return made

    return register


def all_claims() -> list[Claim]:
    """Every claim of every family, by id."""
    import driftwell.claims as room

    for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        importlib.import_module(module.name)
    return [_CLAIMS[id] for id in sorted(_CLAIMS)]


def find_claims(ids: list[str]) -> list[Claim]:
    """Claims by id, in the order asked for.

    Raises:
        InvalidInput: an unknown id; the sentence names the nearest.
    """
    known = {each.id: each for each in all_claims()}
    for id in ids:
        if id not in known:
            near = difflib.get_close_matches(id, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InvalidInput(f"no claim {id!r}: {hint}`driftwell claims list` shows all of them")
    return [known[id] for id in ids]


def run_claim(made: Claim, seed: int) -> dict[str, Any]:
    """Run a claim and its control; one JSON-ready record.

    Returns:
        ``id, paper, states, seed, outcome`` (reproduced | not_reproduced | error)``, expected,
        measured, stated, bound, control_failed, control_is, control_measured, series, seconds,
        ok`` and, for an error, ``error``.
    """
    began = time.perf_counter()
    record: dict[str, Any] = {
        "id": made.id,
        "paper": made.paper.reference,
        "states": made.states,
        "seed": seed,
        "expected": made.expected,
        "stated": made.stated,
        "control_is": made.control_is,
    }
    try:
        outcome, broken = made.run(seed), made.control(seed)
    except Exception as error:  # a claim may fail in any way; the record says how
        record |= {
            "outcome": "error",
            "error": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
            "measured": {},
            "bound": "",
            "control_failed": False,
        }
    else:
        record |= {
            "outcome": "reproduced" if outcome.holds else "not_reproduced",
            "measured": _finite(outcome.measured),
            "bound": outcome.bound,
            "control_failed": not broken.holds,
            "control_measured": _finite(broken.measured),
            "series": {k: [list(x), list(y)] for k, (x, y) in outcome.series.items()},
        }
    record["seconds"] = round(time.perf_counter() - began, 2)
    record["ok"] = record["outcome"] == made.expected and record["control_failed"]
    return record


def run_claims(claims: list[Claim], seed: int) -> Iterator[dict[str, Any]]:
    """Records of several claims, one after another."""
    for made in claims:
        yield run_claim(made, seed)


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a number that is not finite becomes null."""
    return {k: float(v) if math.isfinite(v) else None for k, v in numbers.items()}
