"""What the image benchmark comes to: who reaches the other's best values when, and the goals."""

from __future__ import annotations

from typing import Any

from timing import Goal

OURS, PAPER = "default", "yu2025-pcd"
SOONER_HEAD = ["measure", "paper's best", "after s", "default as good after s", "times sooner",
               "default's best", "paper as good after s"]  # fmt: skip
SOONER, LATEST = 30.0, 1.05 * 900.0
# Measures that are compared, with the value of a perfect model.
COMPARED = {"aai": 0.0, "accuracy_real": 0.5, "accuracy_generated": 0.5, "e2": 0.0,
            "nearest_ratio": 1.0}  # fmt: skip


def compare(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """For each measure: who reaches the other's best value, and when."""
    lines = []
    for key, perfect in COMPARED.items():
        ours, paper = (
            sorted((row["seconds"], abs(row[key] - perfect), row[key])
                   for row in rows if row["mode"] == mode and key in row)
            for mode in (OURS, PAPER)
        )  # fmt: skip
        if not ours or not paper:
            continue
        best, theirs = (min(points, key=lambda p: (p[1], p[0])) for points in (ours, paper))
        at, reached = _first(ours, theirs[1]), _first(paper, best[1])
        sooner = None if at is None else theirs[0] / at
        lines.append([key, theirs[2], theirs[0], at, sooner, best[2], reached])
    return lines


def _first(points: list[tuple[float, float, float]], gap: float) -> float | None:
    return next((seconds for seconds, own, _ in points if own <= gap), None)


def _sooner(line: list[Any], rows: list[dict[str, Any]]) -> Goal:
    """The goal on one measure, from its line of `compare`."""
    key, theirs, at_paper, _, sooner, _, _ = line
    text = f"{key}: default reaches paper mode's best {SOONER:g}x sooner"
    first = min(row["seconds"] for row in rows if row["mode"] == PAPER and key in row)
    if at_paper == first:  # how long it took is not known, only that it was less than that
        text += f" (paper mode never improved on {theirs:.3g}, its first look at {first:.0f} s)"
        return Goal(text, None, None)
    return Goal(text, sooner or 0.0, (sooner or 0.0) >= SOONER)


def goals_of(rows: list[dict[str, Any]], comparison: list[list[Any]]) -> list[Goal]:
    goals = [_sooner(line, rows) for line in comparison]
    ours = [
        row for row in rows if row["mode"] == OURS and "aai" in row and row["seconds"] <= LATEST
    ]
    if not ours:
        return goals
    good = [row for row in ours if _is_good(row)]
    # a run that has it all, else the nearest by AAI
    row = min(good, key=lambda r: r["seconds"]) if good else min(ours, key=lambda r: r["aai"])
    at = f"default after {row['seconds']:.0f} s"
    inside = all(0.35 <= row[k] <= 0.65 for k in ("accuracy_real", "accuracy_generated"))
    return [
        *goals,
        Goal(f"{at}: AAI <= .03", row["aai"], row["aai"] <= 0.03),
        Goal(f"{at}: both Acc in [.35, .65], Acc_gen", row["accuracy_generated"], inside),
        Goal(f"{at}: no copying, share nearer than 1 % of held-out images", row["copied"],
             _copies_nothing(row)),
        Goal(f"{at}: label recognised >= 90 %", row["recognised"],
             row["recognised"] is not None and row["recognised"] >= 0.9),
    ]  # fmt: skip


def _is_good(row: dict[str, Any]) -> bool:
    inside = all(0.35 <= row[k] <= 0.65 for k in ("accuracy_real", "accuracy_generated"))
    clear = row["recognised"] is not None and row["recognised"] >= 0.9
    return row["aai"] <= 0.03 and inside and clear and _copies_nothing(row)


def _copies_nothing(row: dict[str, Any]) -> bool:
    """1 % of real images are that near to a training image; three errors more are chance."""
    return bool(row["copied"] <= 0.01 + 3.0 * row["copied_error"])
