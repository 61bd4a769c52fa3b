"""Reports of Neural Langevin Machines."""

from __future__ import annotations

from typing import Any, final

from driftwell.report.measurements import LIKELIHOOD_LIMIT, Measurements, measure_run
from driftwell.report.page import render
from driftwell.report.parts import Plate, Table, number
from driftwell.report.plates import draw
from driftwell.report.reporter import Reporter, Request
from driftwell.training.run import Run


@final
class LangevinReporter(Reporter):
    """Generated against held-out images, and the physics of the chains."""

    samples = 1000

    def measure(self, run: Run, request: Request) -> Measurements:
        """Samples from noise by the run's own sampler, against its data."""
        return measure_run(
            run, samples=self.samples if request.samples is None else request.samples,
            seed=request.seed, progress=request.progress,
            likelihood_limit=run.machine.n if request.likelihood else LIKELIHOOD_LIMIT,
        )  # fmt: skip

    def headline(self, numbers: dict[str, Any]) -> str:
        """Samples, steps, sampler and seed."""
        return (
            f"{numbers['samples']} samples after {numbers['sample_steps']} steps "
            f"({numbers['sampler']}), seed {numbers['seed']}"
        )

    def tables(self, numbers: dict[str, Any]) -> list[Table]:
        """Quality of the images, and physics."""
        table = numbers["two_sample"]
        note = (
            f"AAI: 0 is indistinguishable, compared at {table['size']} images a side; "
            "nearest: distance to the nearest training image, ratio: against that of held-out "
            "ones; real: training images, the floor of a perfect model"
        )
        after = (
            "the held-out images were trained on too (the run took the split all)"
            if numbers["held_out_was_trained_on"]
            else ""
        )
        head = ("", "AAI", "Acc_real", "Acc_gen", "E2", "nearest", "ratio", "copied")
        rows = tuple(_quality(name, table[name]) for name in ("generated", "gaussian", "real"))
        return [
            Table("generated against held-out images", rows, head, note),
            Table("physics", tuple(_physics(numbers)), note=after),
        ]

    def draw(self, run: Run, found: Measurements) -> dict[str, Plate]:
        """All figures of the page."""
        return draw(run, found)

    def render(self, run: Run, found: Measurements, plates: dict[str, Plate]) -> str:
        """HTML of the page."""
        return render(run, found, plates)


def _quality(name: str, row: dict[str, float | None]) -> tuple[str, ...]:
    titles = {"generated": "generated", "gaussian": "Gaussian", "real": "real"}
    columns = (("aai", 4), ("accuracy_real", 3), ("accuracy_generated", 3), ("e2", 5),
               ("nearest_median", 2), ("nearest_ratio", 3), ("copied", 3))  # fmt: skip
    cells = [titles[name]]
    for key, digits in columns:
        error = row.get(f"{key}_error")
        tail = "" if error is None else f"\n±{error:.{digits}f}"
        cells.append(number(row.get(key), digits) + tail)
    return tuple(cells)


def _physics(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    d, s, likelihood = numbers["diagnostics"], numbers["spectrum"], numbers["likelihood"]
    virial = f"{number(d['virial'], 3)} ± {number(d['virial_error'], 3)}"
    rows = [
        ("virial (1 at equilibrium)", virial),
        ("effective samples", number(d["ess"], 0)),
        ("split R-hat", number(d["rhat"], 3)),
        ("Metropolis acceptance", number(d["acceptance"], 3)),
        ("step size", f"{d['step_size']:.4g}"),
        ("E/N of training, held-out images",
         f"{number(numbers['energy_train'], 3)}, {number(numbers['energy_held_out'], 3)}"),
        ("J: max Re, max |.|, antisymmetric share",
         f"{s['max_real']:.3f}, {s['radius']:.3f}, {s['antisymmetric_share']:.3f}"),
    ]  # fmt: skip
    if likelihood:
        rows += [
            ("held-out log-likelihood, nats an image",
             f"{number(likelihood['value'], 2)} ± {number(likelihood['standard_error'], 2)}"),
            ("of training images, of J = 0",
             f"{number(likelihood['train'], 2)}, {number(likelihood['noise'], 2)}"),
        ]  # fmt: skip
    gap = numbers["chain_gap"]
    if gap:
        rows.append(
            ("persistent against fresh chains",
             f"{number(gap['distance'], 3)} (floor {number(gap['floor'], 3)})")
        )  # fmt: skip
    return rows


REPORTER = LangevinReporter()
