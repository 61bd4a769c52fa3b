"""The plates of the report: each figure with its description and caption."""

from __future__ import annotations

from driftwell.report.figures import (
    against_floors,
    coupling_plane,
    energy_and_virial,
    neuron_activity,
    training_curves,
)
from driftwell.report.measurements import Measurements
from driftwell.report.parts import Plate, plate
from driftwell.report.pictures import class_grid, nearest_pairs, sample_grid, wandering_chain
from driftwell.training.run import Run

_TRACES = (
    "From noise on. Chains that have settled are level; where their energy meets that of held-out "
    "images, the machine finds real and generated images equally likely. The virial is 1 at "
    "equilibrium: above, the step size is too large or chains still fall; below, they still "
    "spread. It is necessary, not sufficient: each basin has its own equipartition."
)
_ANNEALED_TRACES = (
    "At the end of each noise level, from high to low, energy and virial of that level's own law. "
    "Where the energy of chains meets that of held-out images with the same noise, the machine "
    "finds both equally likely. A virial away from 1 says that a level's few steps do not reach "
    "its equilibrium; annealing does not need it to, but then samples are not those of the law."
)
_SPECTRUM = (
    "Right of the line Re λ = 1 the bare network dx/dt = −x + J φ(x) leaves x = 0. Away from the "
    "real axis the couplings are asymmetric: the bare network would turn, while the Langevin "
    "dynamics of its speed, a gradient flow, does not."
)
_CURVATURES = (
    " The squares of the singular values are the energy's curvatures at x = 0: the largest limits "
    "the step size, the smallest are what relaxes last."
)
_CONTRASTIVE_TRAINING = (
    "Left, the paper's monitor: mean square entry of the gradient of J. Right, energies of data "
    "and of the free phase. A small gradient is no proof of learning: persistent chains that lag "
    "behind the parameters keep it small too, which only fresh chains reveal."
)
_TRAINING = "The objective over the updates, pale, and its running median."


def draw(run: Run, found: Measurements) -> dict[str, Plate]:
    """All figures of the report by name.

    Args:
        run: the run.
        found: its measurements.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    table, metrics, annealed = found.two_sample, run.metrics(), bool(found.trace.levels)
    dt = float(found.diagnostics["step_size"])
    side = 10 if min(len(found.generated), len(found.held_out)) >= 100 else 8
    plates = [
        plate(
            "samples", sample_grid(found.generated, found.held_out.images, side),
            "Grid of generated images beside a grid of real ones",
            f"Left, chains started from noise and run for {found.sample_steps} Langevin steps, in "
            "the order they were made; right, images the machine was not trained on. " + (
                "Chains descend through noise levels; what is shown is the mean of the clean "
                "image given the last state." if annealed else
                "Each generated image is a state at temperature T, so some grain is thermal "
                "noise and belongs to the model."),
        ),
        plate(
            "walk", wandering_chain(found, run.transform),
            "Path of one chain through the principal components of the training images",
            f"One chain from noise, chain {found.samples}, chosen before it was looked at, over "
            f"{int(found.walk.steps[-1])} steps {_at_level(found)}(line, dark to bright in time), "
            "over the training images (dots, one hue a class, names at the class medians). "
            "Numbered circles are the states shown below. A chain that wanders "
            "between classes mixes; one that stays in one place only looks good because many "
            "chains were started.",
        ),
        plate(
            "comparison", against_floors(table),
            "Dot plot of two-sample measures of generated images, other real images and a Gaussian",
            f"Each set against the same {table['size']} held-out images; bars are standard "
            "errors. Green is the floor: what real images score at this size. Orange is a Gaussian "
            "with the data's mean and covariance. AAI alone is a poor judge: that Gaussian and "
            "noisy copies can both score well, so read it with the accuracies, E2 and the "
            "distance to the nearest training image.",
        ),
        plate(
            "nearest", nearest_pairs(found),
            "Closest generated images above their nearest training images, and histograms of "
            "the distances of all generated and held-out images",
            "The generated images nearest to a training image, closest first, with their "
            "distance. Copies would show as pairs that are alike pixel by pixel and as a blue "
            "peak left of the green one. Much farther right than green, images are noisier or "
            "stranger than real ones.",
        ),
        plate(
            "traces", energy_and_virial(
                found.trace, found.energy_train, found.energy_held_out, run.machine.n),
            "Energy per neuron and virial of the chains, from noise on",
            _ANNEALED_TRACES if annealed else _TRACES,
        ),
        plate(
            "neuron", neuron_activity(found.walk, run.height, run.width),
            "State of one neuron against time",
            f"The coordinate that varies most in the data, {len(found.walk.neuron_times)} steps "
            "of the same chain. Long stays with rare jumps mean slow mixing.",
        ),
        plate(
            "spectrum", coupling_plane(found.spectrum, 0.0 if annealed else dt),
            "Eigenvalues of the couplings J in the complex plane, and singular values of I − J",
            _SPECTRUM + ("" if annealed else _CURVATURES),
        ),
    ]  # fmt: skip
    if found.by_class is not None:
        plates.append(plate(
            "classes", class_grid(found.by_class, found.train.classes),
            "Images generated with the label of each class held",
            "Each row with the label neurons of one class held at its code and all else from "
            "noise, in the order made. Images of another class in a row show how weakly the label "
            "holds.",
        ))  # fmt: skip
    if len(metrics) > 1:
        plates.append(plate(
            "training", training_curves(metrics),
            "Measures of learning against updates",
            _CONTRASTIVE_TRAINING if "gradient" in metrics[0] else _TRAINING,
        ))  # fmt: skip
    return {plate.name: plate for plate in plates}


def _at_level(found: Measurements) -> str:
    if not found.walk.level:
        return ""
    return f"at the noise level {found.walk.level:.3g}, each state cleaned of its noise "
