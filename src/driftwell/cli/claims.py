"""`driftwell claims`: the papers' statements, listed, run, and put on one page."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from driftwell.claims import Claim, all_claims, find_claims, run_claims
from driftwell.cli.settings import info, use_machine
from driftwell.core.errors import InvalidInput, RunFolderError

# kept for the page; too long for a line of JSON
_LONG = ("series", "traceback")


def run(options: argparse.Namespace) -> int:
    """List, run, or run and report; status 1 if a claim came out otherwise than expected."""
    if options.action == "list":
        return _list(options)
    chosen = _chosen(options)
    page = None
    if options.action == "report":
        page = Path(options.out).expanduser()
        if not page.parent.is_dir():
            raise RunFolderError(f"{page} cannot be written: there is no folder {page.parent}")
    machine = use_machine(options.threads)
    minutes = sum(each.cpu_minutes for each in chosen)
    info(options, f"{_counted(len(chosen))}, about {minutes:.3g} minutes on two cores, {machine}")
    records = []
    for record in run_claims(chosen, options.seed):
        records.append(record)
        _print(record, options.json)
    if page is not None:
        from driftwell.report import write_claims_page

        print(write_claims_page(records, page))
    return 0 if all(record["ok"] for record in records) else 1


def _chosen(options: argparse.Namespace) -> list[Claim]:
    asked = [bool(options.ids), options.all, options.fast]
    if sum(asked) > 1:
        raise InvalidInput("give claims by id, or --all, or --fast: one of them")
    if options.ids:
        return find_claims(options.ids)
    if options.fast:
        return [each for each in all_claims() if each.fast]
    if options.all or options.action == "report":
        return all_claims()
    raise InvalidInput(
        "which claims? give ids (`driftwell claims list` shows them), --fast or --all"
    )


def _list(options: argparse.Namespace) -> int:
    claims = all_claims()
    if options.json:
        rows = [
            {
                "id": each.id, "paper": each.paper.key, "states": each.states,
                "stated": each.stated, "cpu_minutes": each.cpu_minutes, "fast": each.fast,
                "expected": each.expected, "control_is": each.control_is,
            }
            for each in claims
        ]  # fmt: skip
        print(json.dumps(rows, indent=2))
        return 0
    for each in claims:
        fast = ", fast" if each.fast else ""
        print(f"{each.id}  ({each.cpu_minutes:g} min{fast}; {each.paper.key})")
        print(textwrap.fill(each.states, 96, initial_indent="    ", subsequent_indent="    "))
    return 0


def _print(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({k: v for k, v in record.items() if k not in _LONG}), flush=True)
        return
    mark = "ok  " if record["ok"] else "FAIL"
    control = "its control fails" if record["control_failed"] else "its control PASSES"
    print(f"{mark} {record['id']}: {record['outcome']}, {control} ({record['seconds']:.1f} s)")
    if "error" in record:
        print(f"     {record['error']}")
    if record["measured"]:
        print(f"     measured {_numbers(record['measured'])}")
        print(f"     stated   {record['stated']}")
        print(f"     bound    {record['bound']}")
    sys.stdout.flush()


def _numbers(measured: dict[str, float | None]) -> str:
    return ", ".join(
        f"{name} {'-' if value is None else f'{value:.4g}'}" for name, value in measured.items()
    )


def _counted(n: int) -> str:
    return f"{n} claim{'' if n == 1 else 's'}"
