"""Reports of deep equilibrium classifiers."""

from __future__ import annotations

from typing import Any, final

import torch

from driftwell.report import deq_figures as figures
from driftwell.report.class_figures import confusion_matrix
from driftwell.report.deq_measurements import DEQMeasurements, classifier_of, measure_classifier
from driftwell.report.model_page import Page, Section, render_page
from driftwell.report.parts import OVERLAP, Plate, Reading, Table, plate
from driftwell.report.reporter import Reporter, Request
from driftwell.report.rounding import measured, spaced
from driftwell.report.settling_figures import training_panels
from driftwell.training.model_run import ModelRun


@final
class DEQReporter(Reporter):
    """Accuracy, and how the states settle."""

    def measure(self, run: ModelRun, request: Request) -> DEQMeasurements:
        """The classifier on held-out images; a closer look at the first of them."""
        return measure_classifier(run, request)

    def headline(self, numbers: dict[str, Any]) -> str:
        """How many images."""
        return f"{numbers['held_out_images']} held-out images"

    def tables(self, numbers: dict[str, Any]) -> list[Table]:
        """Accuracy and settling."""
        steps, radius, residual = (numbers[k] for k in ("steps", "spectral_radius", "residual"))
        bound = "free" if numbers["bound"] is None else f"at most {numbers['bound']:g}"
        rows = [
            ("accuracy, held out", measured(numbers["accuracy"], numbers["accuracy_error"])),
            ("accuracy, training", measured(numbers["accuracy_train"], digits=4)),
            ("converged solves", f"{100 * numbers['converged']:.2f} %"),
            ("evaluations an image: mean, 95 %, most",
             f"{steps['mean']:.1f}, {steps['p95']:.0f}, {steps['max']}"),
            ("residual: median, largest (tolerance)",
             f"{residual['median']:.1e}, {residual['max']:.1e} ({numbers['tol']:.0e})"),
            ("spectral radius at rest: mean, largest",
             f"{radius['mean']:.3f}, {radius['max']:.3f}"),
            ("Lyapunov exponent: mean, largest",
             f"{numbers['lyapunov']['mean']:.3f}, {numbers['lyapunov']['max']:.3f}"),
            ("|W|_2", f"{numbers['norm']:.3f} ({bound})"),
        ]  # fmt: skip
        return [Table("accuracy and settling", tuple(rows))]

    def draw(self, run: ModelRun, found: DEQMeasurements) -> dict[str, Plate]:
        """All figures of the page."""
        metrics = run.metrics()
        plates = [
            plate(
                "settling", figures.settling(found),
                "Paths of states from zero to their equilibria, in two principal components",
                f"States of {found.path.shape[1]} held-out images under plain iteration from zero "
                "(the common start), over all equilibria (dots, one hue a class, names at the "
                "class medians), in the principal components of the equilibria. Every image has "
                "a well of its own; what the classes are read off from is where wells gather.",
            ),
            plate(
                "residuals", figures.residuals(found),
                "Relative residuals over evaluations of the layer, and histogram of evaluations",
                "Left, the relative residual |f(z) − z| / |f(z)| of the best iterate: line, "
                "median; band, from the 10 % quantile to the worst image. Below the dashed line a "
                "solve stops. Right, evaluations each held-out image took: hard images take more.",
            ),
            plate(
                "spectrum", figures.jacobian_disc(found),
                "Eigenvalues of the Jacobian at equilibria, and Lyapunov exponents",
                f"Left, eigenvalues of df/dz at the equilibria of {len(found.eigenvalues)} images. "
                "Inside the unit circle an equilibrium attracts; the nearer to it, the slower. "
                "Right, the iteration's largest Lyapunov exponent against log ρ(df/dz): on the "
                "diagonal the orbit forgets its start as fast as the linearisation says.",
            ),
            plate(
                "confusion", confusion_matrix(found.confusion(), found.classes, "Held-out images"),
                "Confusion matrix of held-out images",
                "Rows: what an image shows; columns: what it was called. Numbers are images; "
                "the diagonal is right.",
            ),
            plate(
                "wells", figures.wells(found),
                "Classes that Langevin chains around equilibria are read as, and their stability",
                "An equilibrium is the bottom of a well of the speed energy "
                "E(z) = ½|f(z, x) − z|². Langevin chains at temperature "
                f"T = {found.wells.temperature:.3g} shake the state in it; bars are the shares in "
                "which the shaken states are read as each class (green: the true one), for the "
                "images whose wells lie nearest to a border. Right, how often the class stays, for "
                "images that were classified rightly and wrongly.",
            ),
            plate(
                "examples", figures.examples(found),
                "Held-out images that took most evaluations, and those it got wrong",
                "Above, the images whose states took longest to settle; below, those it got wrong "
                "with most confidence: what it said, and in brackets what they are.",
            ),
        ]  # fmt: skip
        if len(metrics) > 1:
            plates.append(plate(
                "training", training_panels(metrics),
                "Loss, accuracy and evaluations over updates",
                "Of each update's batch, pale, and the running median. Evaluations are those of "
                "the forward solve: a layer that is pushed to the edge of its bound takes more.",
            ))  # fmt: skip
        return {each.name: each for each in plates}

    def render(self, run: ModelRun, found: DEQMeasurements, plates: dict[str, Plate]) -> str:
        """HTML of the page."""
        numbers, model = found.to_json(), classifier_of(run)
        data = run.meta["data"]
        lead = (
            f"One layer of {model.width} units, tied to itself, is brought to rest: "
            f"z* = {'tanh' if model.activation == 'tanh' else 'relu'}(W z* + U x + b). The classes "
            f"are read off where it rests. It learned {spaced(data['images'])} images of "
            f"{data['height']}×{data['width']} pixels by the implicit gradient, whose memory does "
            "not grow with the number of steps."
        )
        return render_page(run, Page(
            lead=lead,
            facts=(("accuracy", measured(found.accuracy[0], digits=3)),
                   ("evaluations an image", f"{numbers['steps']['mean']:.1f}")),
            readings=readings(found),
            tables=self.tables(numbers),
            sections=(
                Section("rest", "Coming to rest", ("settling", "residuals")),
                Section("stability", "Stability", ("spectrum",)),
                Section("classes", "Classes", ("confusion", "examples")),
                Section("temperature", "At a temperature", ("wells",)),
                Section("learning", "Training", ("training",)),
            ),
            data=f"{data['source'] or data['name']}; measured on {spaced(len(found.labels))} "
            "held-out images",
            warnings=(OVERLAP,) if found.overlap else (),
            command=f" --seed {found.seed}",
        ), plates)  # fmt: skip


def readings(found: DEQMeasurements) -> list[Reading]:
    """What the numbers of an equilibrium classifier say, most important first."""
    numbers = found.to_json()
    accuracy, error = found.accuracy
    gap = found.accuracy_train - accuracy
    shares = torch.bincount(found.labels, minlength=len(found.classes)).double()
    guess = float(shares.max() / shares.sum())
    said = [Reading(
        "Accuracy", f"{100 * accuracy:.1f} ± {100 * error:.1f} % of held-out images are classified "
        f"rightly; calling all by the commonest class gives {100 * guess:.1f} %, and on training "
        f"images it is {100 * found.accuracy_train:.1f} %.",
        "bad" if accuracy < guess + 3 * error else "neutral" if gap > 0.1 else "good",
    )]  # fmt: skip
    failed = int((~found.converged).sum())
    if failed:
        said.append(Reading(
            "Convergence", f"{failed} of {len(found.labels)} solves did not reach their tolerance: "
            "their classes are those of states that do not rest.", "bad",
        ))  # fmt: skip
    else:
        said.append(Reading(
            "Convergence", f"All {len(found.labels)} solves reached their tolerance of "
            f"{found.tol:g}, in {numbers['steps']['mean']:.1f} evaluations on average and "
            f"{numbers['steps']['max']} at most.", "good",
        ))  # fmt: skip
    radius = float(found.radius.max())
    bounded = "" if found.bound is None else (
        f"; the bound |W| ≤ {found.bound:g} makes every equilibrium unique")  # fmt: skip
    said.append(Reading(
        "Stability", f"The spectral radius at rest is {radius:.2f} at most{bounded}."
        if radius < 1.0 else f"The spectral radius at rest is {radius:.2f}: some equilibria repel "
        "plain iteration, and only the solver holds on to them.", "good" if radius < 1.0 else "bad",
    ))  # fmt: skip
    ends = {trace.solver: trace.reached(found.tol) for trace in found.traces}
    own = found.traces[0].solver
    plain = ends.get("Picard")
    mine = ends[own]
    if own != "Picard" and mine is not None:
        text = f"{own} brings the slowest of {found.path.shape[1]} images to rest in {mine}"
        tail = f"{plain}" if plain is not None else f"more than {len(found.traces[-1].high)}"
        said.append(Reading("Speed", f"{text} evaluations, plain iteration in {tail}.",
                            "good" if plain is None or mine <= plain else "neutral"))  # fmt: skip
    warm = numbers["at_a_temperature"]
    if warm["errors_found"] is not None:
        said.append(Reading(
            "Doubt", f"Shaken by Langevin noise, {100 * warm['stability_right']:.0f} % of states "
            f"keep their class where it is right and {100 * warm['stability_wrong']:.0f} % where "
            f"it is wrong; that tells an error from a right answer "
            f"{100 * warm['errors_found']:.0f} % of the time, the softmax does "
            f"{100 * warm['errors_found_by_softmax']:.0f} %.",
            "good" if warm["errors_found"] > 0.7 else "neutral",
        ))  # fmt: skip
    return said


REPORTER = DEQReporter()
