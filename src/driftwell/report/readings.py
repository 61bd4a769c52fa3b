"""What the measured numbers say, in sentences: each rule names the numbers it rests on."""

from __future__ import annotations

import math

from driftwell.report.likelihood import TRUSTED_CHAINS
from driftwell.report.measurements import Measurements
from driftwell.report.parts import Reading, Tone
from driftwell.report.rounding import measured, rounded

MIXED_RHAT = 1.1
"""Split R-hat above which chains have not yet seen one common distribution."""


def readings(found: Measurements) -> list[Reading]:
    """The readings of a run's measurements, most important first.

    Args:
        found: of `driftwell.report.measure_run`.
    """
    rules = (_resemblance, _baseline, _copying, _equilibrium, _mixing, _chains, _likelihood)
    return [reading for rule in rules if (reading := rule(found))]


def _resemblance(found: Measurements) -> Reading:
    row, floor = found.two_sample["generated"], found.two_sample["real"]
    value, error = row["aai"], row["aai_error"]
    bar = measured(floor["aai"], floor["aai_error"])
    text = f"AAI is {measured(value, error)}, against {bar} for real images"
    if value <= floor["aai"] + 2.0 * math.hypot(error, floor["aai_error"]):
        return Reading("Resemblance", f"{text}: at this sample size a nearest-neighbour test "
                       "cannot tell generated images from real ones.", "good")  # fmt: skip
    where = (
        "real images lie closest to real ones, so part of the data's variety is not reached"
        if row["accuracy_real"] - 0.5 > row["accuracy_generated"] - 0.5
        else "generated images lie closest to each other, so they form a cloud of their own"
    )
    return Reading("Resemblance", f"{text}: the two can be told apart; {where} (Acc real "
                   f"{row['accuracy_real']:.2f}, Acc generated {row['accuracy_generated']:.2f}).",
                   "neutral" if value < 0.1 else "bad")  # fmt: skip


def _baseline(found: Measurements) -> Reading:
    row, other = found.two_sample["generated"], found.two_sample["gaussian"]
    names = {"aai": "AAI", "e2": "E2", "energy_distance": "energy distance"}
    won = [name for key, name in names.items() if row[key] < other[key]]
    lost = [name for key, name in names.items() if row[key] >= other[key]]
    tone: Tone = "good" if not lost else "bad" if "AAI" in lost else "neutral"
    text = f"A Gaussian with the data's mean and covariance is beaten in {_listed(won)}"
    if lost and won:
        text += f", but not in {_listed(lost)}"
    return Reading("Baseline", f"{text}.", tone)


def _copying(found: Measurements) -> Reading:
    row = found.two_sample["generated"]
    share, error, ratio = row["copied"], row["copied_error"], row["nearest_ratio"]
    text = (
        f"{100 * share:.1f} % of generated images lie nearer to a training image than 99 % of "
        f"held-out ones do; the median distance is {ratio:.2f} times that of held-out images"
    )
    if share > 0.01 + 3.0 * error:
        return Reading("Memory", f"{text}: training images are being copied.", "bad")
    rest = "no sign of copying" + (
        ", but the images are farther from the data than real ones are" if ratio > 1.15 else ""
    )
    return Reading("Memory", f"{text}: {rest}.", "good" if ratio <= 1.15 else "neutral")


def _equilibrium(found: Measurements) -> Reading | None:
    value, error = (float(found.diagnostics[k]) for k in ("virial", "virial_error"))
    if not math.isfinite(value):
        return None
    text = f"The virial is {measured(value, error)}"
    if abs(value - 1.0) <= max(3.0 * error, 0.01):
        return Reading("Equilibrium", f"{text}: equipartition holds.", "good")
    if found.trace.levels:
        text += " at the lowest noise level"
    cause = (
        "the step size inflates stiff directions, or chains are still falling"
        if value > 1.0
        else "chains are still spreading and have not reached equilibrium"
    )
    return Reading("Equilibrium", f"{text} instead of 1: {cause}.",
                   "neutral" if abs(value - 1.0) < 0.05 else "bad")  # fmt: skip


def _mixing(found: Measurements) -> Reading | None:
    rhat, ess = (float(found.diagnostics[k]) for k in ("rhat", "ess"))
    if not math.isfinite(rhat):
        return None
    where = (
        "at the lowest noise level" if found.trace.levels else f"after {found.sample_steps} steps"
    )
    text = f"Split R-hat is {rhat:.2f} {where} (ESS {ess:.0f})"
    if rhat <= MIXED_RHAT:
        return Reading("Mixing", f"{text}: chains agree with each other.", "good")
    if found.trace.levels:
        return Reading("Mixing", f"{text}: each chain keeps the image it came down to, so variety "
                       "rests on the higher levels.", "neutral")  # fmt: skip
    return Reading("Mixing", f"{text}: single chains do not visit everything, so what is generated "
                   "depends on where chains start and how long they run.", "neutral")  # fmt: skip


def _chains(found: Measurements) -> Reading | None:
    gap = found.gap
    if gap is None:
        return None
    if gap.warns:
        sentence = gap.sentence()
        return Reading("Training", f"{sentence[0].upper()}{sentence[1:]}.", "bad")
    return Reading("Training", f"Persistent chains represent the model: their distance to fresh "
                   f"chains is {gap.distance:.2f} of their width.", "good")  # fmt: skip


def _likelihood(found: Measurements) -> Reading | None:
    got = found.likelihood
    if got is None:
        return None
    text = (
        f"Held-out log-likelihood is {measured(got.value, got.standard_error)} nats per image, "
        f"{rounded(abs(got.value - got.noise), got.standard_error)} "
        f"{'above' if got.value > got.noise else 'below'} noise around the mean image"
    )
    if got.effective_chains < TRUSTED_CHAINS:
        return Reading("Likelihood", f"{text}; the annealing rests on {got.effective_chains:.0f} "
                       "chains, so trust neither the number nor its error.", "bad")  # fmt: skip
    drop = got.train - got.value
    if drop > 3.0 * got.standard_error:
        text = f"{text}, but {drop:.1f} below that of training images: some overfitting"
    return Reading("Likelihood", f"{text}.", "good" if got.value > got.noise else "bad")


def _listed(words: list[str]) -> str:
    if not words:
        return "nothing"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
