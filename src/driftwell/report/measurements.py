"""Measurements of a trained run: everything the report and the command `measure` print."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, permutation
from driftwell.data import ImageSet
from driftwell.measures import nearest_training_distance, two_sample_table
from driftwell.models.langevin.monitor import ChainGap
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.report.annealed import sampled_by_annealing
from driftwell.report.likelihood import Likelihood
from driftwell.report.parts import plain_values
from driftwell.report.sampled import image_space, sampled_from_noise
from driftwell.report.spectrum import Spectrum, coupling_spectrum
from driftwell.report.trajectories import FollowedWalk, Trace
from driftwell.training.images import held_out_images, training_images
from driftwell.training.run import Run

Progress = Callable[[int, int], None]

LIKELIHOOD_LIMIT = 256
"""Largest number of neurons N for which log Z is estimated unless asked."""
# Share of the progress bar each part takes, and in this order.
_PARTS = {"sampling": 55, "likelihood": 20, "walk": 10, "comparison": 15}


@final
@dataclass(frozen=True, eq=False)
class Nearest:
    """Nearest training image of each generated one, in image space [-1, 1].

    Attributes:
        distance: Euclidean, (n,).
        index: place in the training set, (n,).
        held_out: the distance of held-out images to theirs, (k,).
    """

    distance: Tensor
    index: Tensor
    held_out: Tensor


@final
@dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured of a run, with what is needed to draw it.

    Attributes:
        samples: number of generated images.
        seed: of all noise.
        sample_steps: Langevin steps from noise.
        sampler: the run's own, with its step size, in words.
        diagnostics: virial and its error, ESS, R-hat, acceptance, step size, backend.
        trace: energy and virial from noise on.
        energy_train: mean E/N of training images (with their labels, if there are label
            neurons), energy units; NaN with free hidden neurons, whose states no image fixes;
            with noise levels, of images plus the lowest level's noise.
        energy_held_out: mean E/N of held-out images.
        two_sample: of `driftwell.measures.two_sample_table`.
        nearest: nearest training images.
        spectrum: of J.
        likelihood: of held-out images (and labels); None with hidden neurons or noise levels,
            or if N is above the limit.
        gap: persistent against fresh chains; None without persistent chains.
        walk: one chain followed in time, its visible part.
        generated: images in [0, 1], (n, height, width).
        by_class: images with each class's label held, (classes, n, height, width); None without
            label neurons.
        train: what was trained on.
        held_out: what was not, at most as many as the comparison needs.
        overlap: whether the held-out images were trained on too (the run took all data).
    """

    samples: int
    seed: int
    sample_steps: int
    sampler: str
    diagnostics: dict[str, float | str]
    trace: Trace
    energy_train: float
    energy_held_out: float
    two_sample: dict[str, Any]
    nearest: Nearest
    spectrum: Spectrum
    likelihood: Likelihood | None
    gap: ChainGap | None
    walk: FollowedWalk
    generated: Tensor
    by_class: Tensor | None
    train: ImageSet
    held_out: ImageSet
    overlap: bool

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values, NaN as None; images and states are left out."""
        gap = None if self.gap is None else {**asdict(self.gap), "warns": self.gap.warns}
        found = {
            "samples": self.samples,
            "seed": self.seed,
            "sample_steps": self.sample_steps,
            "sampler": self.sampler,
            "training_images": len(self.train),
            "held_out_images": len(self.held_out),
            "held_out_was_trained_on": self.overlap,
            "diagnostics": self.diagnostics,
            "energy_train": self.energy_train,
            "energy_held_out": self.energy_held_out,
            "two_sample": self.two_sample,
            "likelihood": None if self.likelihood is None else self.likelihood.to_json(),
            "chain_gap": gap,
            "spectrum": self.spectrum.to_json(),
            "trace": self.trace.to_json(),
        }
        plain: dict[str, Any] = plain_values(found)
        return plain


def measure_run(
    run: Run,
    *,
    samples: int = 1000,
    seed: int = 0,
    likelihood_limit: int = LIKELIHOOD_LIMIT,
    progress: Progress | None = None,
) -> Measurements:
    """Measure a run: samples from noise by its own sampler, against its data.

    Real images enter comparisons clipped by the run's scaling, as generated ones are, but not
    projected.

    Args:
        run: of `driftwell.training.run.load_run`.
        samples: number of generated images, at least 2.
        seed: of all noise.
        likelihood_limit: largest N for which the log-likelihood is estimated.
        progress: called as progress(done, 100).

    Raises:
        InvalidInput: fewer than two samples, or data that are not there or of another size.
        Diverged: the run's sampler diverges.
    """
    if samples < 2:
        raise InvalidInput(f"at least 2 samples are needed to measure a run, got {samples}")
    bar = _Bar(progress)
    train, held_out = _images(run, samples)
    machine = run.machine
    if isinstance(machine, NoiseConditionalMachine):
        made = sampled_by_annealing(
            run, machine, train, held_out, samples=samples, seed=seed, part=bar.part
        )
    else:
        made = sampled_from_noise(
            run, machine, train, held_out, samples=samples, seed=seed,
            likelihood_limit=likelihood_limit, part=bar.part,
        )  # fmt: skip
    ours = run.transform.to_symmetric(made.visible)
    real, other = (image_space(run.transform, s.images.to(ours)) for s in (train, held_out))
    nearest = nearest_training_distance(ours, real)
    table = two_sample_table(real, other, ours, seed)
    by_class = made.by_class
    if by_class is not None:
        shown = run.transform.inverse(by_class.flatten(0, 1)).cpu()
        by_class = shown.reshape(*by_class.shape[:2], run.height, run.width)
    found = Measurements(
        samples=samples,
        seed=seed,
        sample_steps=run.recipe.sample_steps,
        sampler=made.sampler,
        diagnostics=made.diagnostics,
        trace=made.trace,
        energy_train=made.energy_train,
        energy_held_out=made.energy_held_out,
        two_sample=table,
        nearest=Nearest(
            nearest.distance, nearest.index, nearest_training_distance(other, real).distance
        ),
        spectrum=coupling_spectrum(made.couplings),
        likelihood=made.likelihood,
        gap=made.gap,
        walk=made.walk,
        generated=run.transform.inverse(made.visible).reshape(-1, run.height, run.width).cpu(),
        by_class=by_class,
        train=train,
        held_out=held_out,
        overlap=run.config.data.split == "all",
    )
    bar.end()
    return found


class _Bar:
    """Progress of all parts together, in percent."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress

    def part(self, name: str) -> Progress | None:
        """Progress of one part, or None if nobody listens."""
        listener = self.progress
        if listener is None:
            return None
        names = list(_PARTS)
        before = sum(_PARTS[other] for other in names[: names.index(name)])

        def told(done: int, total: int) -> None:
            listener(before + _PARTS[name] * done // max(total, 1), 100)

        return told

    def end(self) -> None:
        """Say that all is done."""
        if self.progress:
            self.progress(100, 100)


def _images(run: Run, samples: int) -> tuple[ImageSet, ImageSet]:
    """Training images, and as many held-out ones as the comparison needs, by a keyed choice."""
    train, held_out = training_images(run.config), held_out_images(run.config)
    for images in (train, held_out):
        if (images.height, images.width) != (run.height, run.width):
            raise InvalidInput(
                f"{images.name} has images of {images.height}x{images.width}, this run was "
                f"trained on {run.height}x{run.width}: bring the run's data back"
            )
    wanted = max(samples, 1000)
    if len(held_out) <= wanted:
        return train, held_out
    order = permutation(len(held_out), seed=0, purpose=Purpose.DATA, step=20)[:wanted]
    rows = order.sort().values
    labels = None if held_out.labels is None else held_out.labels[rows]
    source = f"{held_out.source}; keyed choice of {wanted}"
    return train, ImageSet(held_out.images[rows], labels, held_out.name, source)
