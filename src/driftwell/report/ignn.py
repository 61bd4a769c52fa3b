"""Reports of implicit graph neural networks."""

from __future__ import annotations

from typing import Any, final

from driftwell.report import ignn_figures as figures
from driftwell.report.class_figures import confusion_matrix
from driftwell.report.ignn_measurements import GraphMeasurements, measure_graph, network_of
from driftwell.report.model_page import Page, Section, render_page
from driftwell.report.parts import Plate, Reading, Table, plate
from driftwell.report.reporter import Reporter, Request
from driftwell.report.rounding import measured, spaced
from driftwell.report.settling_figures import training_panels
from driftwell.training.model_run import ModelRun


@final
class GraphReporter(Reporter):
    """Accuracy of nodes, the solve, and how far a node is heard."""

    def measure(self, run: ModelRun, request: Request) -> GraphMeasurements:
        """The network on its graph."""
        return measure_graph(run, request)

    def headline(self, numbers: dict[str, Any]) -> str:
        """How large the graph is."""
        return f"{numbers['nodes']} nodes, {numbers['edges']} edges"

    def tables(self, numbers: dict[str, Any]) -> list[Table]:
        """Accuracy and settling."""
        rows = [
            (f"accuracy, {name} ({part['nodes']} nodes)",
             measured(part["accuracy"], part["error"]))
            for name, part in numbers["parts"].items()
        ]  # fmt: skip
        ends = ", ".join(
            f"{name} {'-' if n is None else n}" for name, n in numbers["evaluations_to_tol"].items()
        )
        rows += [
            ("converged", "yes" if numbers["converged"] else "no"),
            ("evaluations of the solve", str(numbers["steps"])),
            ("evaluations to the tolerance", ends),
            ("residual (tolerance)", f"{numbers['residual']:.1e} ({numbers['tol']:.0e})"),
            ("spectral radius at rest", f"{numbers['spectral_radius']:.3f}"),
            ("Lyapunov exponent", f"{numbers['lyapunov']:.3f}"),
            ("largest row sum of |W|", f"{numbers['row_sum']:.3f} (at most {numbers['kappa']:g})"),
        ]
        return [Table("accuracy and settling", tuple(rows))]

    def draw(self, run: ModelRun, found: GraphMeasurements) -> dict[str, Plate]:
        """All figures of the page."""
        metrics = run.metrics()
        plates = [
            plate(
                "states", figures.states(found),
                "Node states in the principal components of the equilibrium",
                "The equilibrium's node states, dots, one hue a class, in their principal "
                "components. Classes were given for the training nodes only; the others were "
                "pulled along by their neighbours.",
            ),
            plate(
                "residuals", figures.settling(found),
                "Relative residual over evaluations, and eigenvalues of W",
                "Left, the relative residual of the best iterate; below the dashed line the solve "
                "stops. Right, eigenvalues of W, inside the circle that its row sums allow.",
            ),
            plate(
                "reach", figures.reach(found),
                "Response of node states to one node's features against distance",
                f"The features of one node are erased and the equilibrium found again, for "
                f"{len(found.sources)} nodes: mean change of a state, against its distance in "
                "edges and relative to the change at the node itself. A network of L explicit "
                "layers hears nothing beyond L edges; an equilibrium has no such horizon.",
            ),
            plate(
                "confusion", confusion_matrix(found.confusion(), found.classes, "Test nodes"),
                "Confusion matrix of test nodes",
                "Rows: the class of a node; columns: what it was called. Numbers are nodes.",
            ),
        ]  # fmt: skip
        if len(metrics) > 1:
            plates.append(plate(
                "training", training_panels(metrics), "Loss, accuracy and evaluations over updates",
                "Loss and accuracy on the training nodes, with dropout; evaluations of the solve.",
            ))  # fmt: skip
        return {each.name: each for each in plates}

    def render(self, run: ModelRun, found: GraphMeasurements, plates: dict[str, Plate]) -> str:
        """HTML of the page."""
        numbers, model, data = found.to_json(), network_of(run), run.meta["data"]
        share = found.accuracy("test")[0]
        return render_page(run, Page(
            lead="Every node's state rests where its neighbours' states leave it: "
            f"Z* = relu(A Z* W + A X B), {model.width} numbers a node. One equilibrium of the "
            f"whole graph carries what {spaced(int(numbers['parts']['train']['nodes']))} labelled "
            f"nodes say to all {spaced(data['nodes'])}.",
            facts=(("test accuracy", measured(share)), ("evaluations", str(found.steps))),
            readings=readings(found),
            tables=self.tables(numbers),
            sections=(
                Section("nodes", "Nodes", ("states", "confusion")),
                Section("rest", "Coming to rest", ("residuals",)),
                Section("horizon", "How far a node is heard", ("reach",)),
                Section("learning", "Training", ("training",)),
            ),
            data=f"{data['source']}: {spaced(data['nodes'])} nodes, {spaced(data['edges'])} edges, "
            f"{spaced(data['features'])} features",
            command=f" --seed {found.seed}",
        ), plates)  # fmt: skip


def readings(found: GraphMeasurements) -> list[Reading]:
    """What the numbers of a graph network say."""
    numbers = found.to_json()
    share, error = found.accuracy("test")
    said = [
        Reading(
            "Accuracy", f"{100 * share:.1f} ± {100 * error:.1f} % of test nodes are classified "
            f"rightly, on validation nodes {100 * found.accuracy('validation')[0]:.1f} %; calling "
            f"all by the commonest class gives {100 * found.commonest:.1f} %.",
            "good" if share > found.commonest + 5 * error else "bad",
        ),
        Reading(
            "Convergence", f"The solve reached {found.residual:.0e} in {found.steps} evaluations."
            if found.converged else f"The solve stopped at {found.residual:.0e} after "
            f"{found.steps} evaluations: what is read off does not rest.",
            "good" if found.converged else "bad",
        ),
    ]  # fmt: skip
    ends = numbers["evaluations_to_tol"]
    names = list(ends)
    if len(names) > 1 and ends[names[0]] is not None:
        plain = f"{ends['Picard']}" if ends["Picard"] is not None else f"over {found.most}"
        said.append(Reading(
            "Speed", f"{names[0]} needs {ends[names[0]]} evaluations to the tolerance, plain "
            f"iteration {plain}.", "good",
        ))  # fmt: skip
    far = [(hop, value) for hop, value in enumerate(found.response) if hop and value > 1e-3]
    if far:
        said.append(Reading(
            "Reach", f"Erasing a node changes states {far[-1][0]} edges away by more than a "
            "thousandth of its own change.", "neutral",
        ))  # fmt: skip
    return said


REPORTER = GraphReporter()
