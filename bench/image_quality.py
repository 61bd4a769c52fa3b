"""Quality for time: preset `default` against the faithful `yu2025-pcd`, on MNIST {1, 3, 6}.

Both train on the training split at 28x28 with the same kernels. 1,000 samples from fresh noise
are judged against 1,000 held-out images; the clock stops meanwhile. Paper mode is one continuous
run at its constant rate. The rate of `default` decays over its number of updates, so each budget
is a run from scratch, with as many updates as this machine makes in that time.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from image_figures import draw_quality, draw_samples
from image_judge import CLASSES, Classifier, Digits, judged, mnist_digits, shares
from image_training import Trained, from_noise, of_label, one_run, run_per_budget
from image_verdict import OURS, PAPER, SOONER_HEAD, compare, goals_of
from timing import RESULTS, Goal, options, say_goals, say_machine, table, write_results
from torch import Tensor

from driftwell.core.errors import Diverged, InvalidInput
from driftwell.models.langevin.presets import preset

TIMES = (5, 10, 20, 30, 60, 120, 240, 480, 900, 1800, 3600, 7200)
BUDGETS = (2, 5, 10, 30, 100, 300, 900)
PAPER_STEPS = 2000


@dataclass
class Bench:
    """What an evaluation needs, and what was found so far.

    Attributes:
        digits: training and held-out images.
        classifier: knows all ten digits.
        count: samples judged.
        rows: one of each evaluation.
        floors: rows `gaussian` and `real`, the same for all.
        pictures: samples to be drawn, by title.
        headed: whose lines stand under the last header.
    """

    digits: Digits
    classifier: Classifier
    count: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    floors: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    headed: str = ""


def main(given: list[str] | None = None) -> int:
    chosen = _options(given)
    torch.set_float32_matmul_precision(chosen.precision)
    total = 60.0 * chosen.minutes
    say_machine()
    try:
        bench = _prepare(chosen)
    except InvalidInput as reason:
        print(f"image_quality was left out: {reason}")
        return 0
    longest = min(total, chosen.longest or total)
    _default(bench, [b for b in BUDGETS if b < 0.7 * longest] + [longest])
    _paper(bench, [t for t in TIMES if t < 0.9 * total] + [total],
           200 if chosen.quick else PAPER_STEPS, full=not chosen.quick)  # fmt: skip
    comparison = compare(bench.rows)
    print("\n" + table(f"{PAPER} against {OURS}", SOONER_HEAD, comparison))
    goals = goals_of(bench.rows, comparison)
    say_goals(goals)
    _save(bench, {"precision": chosen.precision, "compared": [SOONER_HEAD, *comparison]}, goals)
    if not bench.floors:
        return 1  # every sampler diverged, as the lines above say
    draw_quality(RESULTS / "image_quality.png", bench.rows, bench.floors)
    bench.pictures["held-out images"] = bench.digits.held_out.images
    draw_samples(RESULTS / "image_samples.png", bench.pictures)
    print(f"\npictures: {RESULTS.name}/image_quality.png, {RESULTS.name}/image_samples.png")
    return 0


def _options(given: list[str] | None) -> argparse.Namespace:
    chosen = options(
        __doc__,
        ("--minutes", {"type": float, "help": "of training for each of the two (15)"}),
        ("--longest", {"type": float, "help": "longest training of default in seconds"}),
        ("--precision", {"choices": ("highest", "medium"), "default": "highest",
                         "help": "of torch's float32 products, for both"}),
        given=given,
    )  # fmt: skip
    if chosen.minutes is None:
        chosen.minutes = 1.0 / 3.0 if chosen.quick else (120.0 if chosen.long else 15.0)
    if not chosen.minutes > 0.0:
        raise SystemExit(f"--minutes must be above 0, got {chosen.minutes}")
    return chosen


def _prepare(chosen: argparse.Namespace) -> Bench:
    count = 200 if chosen.quick else 1000
    digits = mnist_digits(count)
    began = time.perf_counter()
    classifier = Classifier(epochs=1 if chosen.quick else 6)
    print(
        f"{len(digits.train)} training images, {count} held out; an independent classifier of all "
        f"ten digits has a test accuracy of {classifier.test_accuracy:.4f} "
        f"({time.perf_counter() - began:.0f} s)"
    )
    return Bench(digits, classifier, count)


# ---------------------------------------------------------------- the two contestants


def _default(bench: Bench, budgets: list[float]) -> None:
    recipe = preset(OURS)
    spent = sum(budgets)
    print(f"\n{OURS}: {len(budgets)} trainings, {spent:.0f} s together, {recipe.sample_steps} "
          "steps from noise", flush=True)  # fmt: skip
    for trained in run_per_budget(recipe, bench.digits.train, budgets):
        _evaluate(bench, OURS, trained, recipe.sample_steps)


def _paper(bench: Bench, times: list[float], steps: int, *, full: bool) -> None:
    recipe = preset(PAPER)
    print(
        f"\n{PAPER}: one training of {times[-1]:.0f} s; {steps} steps from noise instead of its "
        f"{recipe.sample_steps}, to save evaluation time"
        + (", and at the end its full number too" if full else ""),
        flush=True,
    )
    last = None
    for last in one_run(recipe, bench.digits.train, times):
        _evaluate(bench, PAPER, last, steps)
    if full and last is not None:
        _evaluate(bench, PAPER, last, recipe.sample_steps, extra=True)


# ---------------------------------------------------------------- one evaluation


def _evaluate(bench: Bench, mode: str, trained: Trained, steps: int, extra: bool = False) -> None:
    row: dict[str, Any] = {"mode": mode, "seconds": trained.seconds, "updates": trained.updates,
                           "steps": steps, "extra": extra}  # fmt: skip
    for title in [title for title in bench.pictures if title.startswith(mode)]:
        del bench.pictures[title]  # of its evaluation before
    try:
        states = from_noise(trained, bench.count, steps)
    except Diverged as reason:
        row["note"] = f"its sampler diverged: {reason}"
    else:
        found = judged(bench.digits, trained.transform, states)
        row |= found["generated"]
        row["shares"] = shares(bench.classifier(_pictures(trained, states)))
        row |= _recognised(bench, mode, trained)
        title = f"{mode}, {trained.seconds:.0f} s, {steps} steps from noise"
        bench.pictures[title] = _pictures(trained, states)
        _note_floors(bench, found)
    bench.rows.append(row)
    _say(bench, row)
    _save(bench, {"complete": False}, [])


def _pictures(trained: Trained, states: Tensor) -> Tensor:
    return trained.transform.inverse(states).reshape(-1, 28, 28)


def _recognised(bench: Bench, mode: str, trained: Trained) -> dict[str, Any]:
    """Share of samples with a clamped label that the classifier sees as that digit."""
    each, shown = {}, []
    per_class = -(-bench.count // len(CLASSES))
    for place, digit in enumerate(CLASSES):
        states = of_label(trained, place, per_class)
        if states is None:
            return {"recognised": None}
        images = _pictures(trained, states)
        each[str(digit)] = float((bench.classifier(images) == digit).double().mean())
        shown.append(images[:20])
    bench.pictures[f"{mode}, {trained.seconds:.0f} s, label clamped to 1, 3, 6"] = torch.cat(shown)
    share = sum(each.values()) / len(each)
    error = (max(share * (1.0 - share), 1e-4) / (per_class * len(each))) ** 0.5
    return {"recognised": share, "recognised_error": error, "recognised_each": each}


def _note_floors(bench: Bench, found: dict[str, Any]) -> None:
    if bench.floors:
        return
    bench.floors = {name: dict(found[name]) for name in ("gaussian", "real")}
    held_out = bench.digits.held_out
    seen = bench.classifier(held_out.images)
    bench.floors["real"]["recognised_real"] = float((seen == held_out.labels).double().mean())
    bench.floors["real"]["shares"] = shares(seen)
    _say_header(bench, "floors")
    for name, row in bench.floors.items():
        print(f"{name:>20}  " + _cells(row), flush=True)
    bench.headed = OURS  # its lines follow


_COLUMNS = (("aai", "AAI", 4), ("accuracy_real", "Acc_real", 3),
            ("accuracy_generated", "Acc_gen", 3), ("e2", "E2", 5),
            ("nearest_median", "nearest", 2), ("nearest_ratio", "ratio", 3),
            ("copied", "copied", 3), ("recognised", "recognised", 3))  # fmt: skip
_HEAD = f"{'seconds, updates':>20}  " + "".join(f"{name:>18}" for _, name, _ in _COLUMNS)


def _cells(row: dict[str, Any]) -> str:
    text = ""
    for key, _, digits in _COLUMNS:
        value, error = row.get(key), row.get(f"{key}_error")
        cell = "-" if value is None else f"{value:.{digits}f}"
        text += f"{cell if error is None else f'{cell} ({error:.{digits}f})':>18}"
    mix = row.get("shares")
    return text + ("" if mix is None else "   " + " ".join(f"{k}:{v:.2f}" for k, v in mix.items()))


def _say_header(bench: Bench, whose: str) -> None:
    if bench.headed != whose:
        print(_HEAD + "   digits seen by the classifier")
    bench.headed = whose


def _say(bench: Bench, row: dict[str, Any]) -> None:
    _say_header(bench, row["mode"])
    head = f"{row['seconds']:.1f}, {row['updates']}"
    if row["extra"]:
        head = f"{row['steps']} steps"
    print(f"{head:>20}  " + row.get("note", _cells(row)), flush=True)


# ---------------------------------------------------------------- results


def _save(bench: Bench, more: dict[str, Any], goals: list[Goal]) -> None:
    write_results(
        "image_quality",
        {"rows": bench.rows, "floors": bench.floors, "samples": bench.count,
         "classifier_test_accuracy": bench.classifier.test_accuracy, **more},
        goals,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
