"""Measurements of a deep equilibrium classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, permutation
from driftwell.data import ImageSet
from driftwell.fixed_points import Picard
from driftwell.models.equilibrium.classifier import DEQClassifier
from driftwell.report.parts import plain_values
from driftwell.report.reporter import Request
from driftwell.report.settling import (
    ResidualTrace,
    jacobian_eigenvalues,
    lyapunov_exponent,
    residual_trace,
)
from driftwell.report.wells import Wells, classes_at_a_temperature
from driftwell.training.images import held_out_images, training_images
from driftwell.training.kinds.deq import standardised
from driftwell.training.model_run import ModelRun

PORTION = 1000
CLOSELY = 48
"""Held-out images whose Jacobians, exponents and paths are looked at."""


@final
@dataclass(frozen=True, eq=False)
class DEQMeasurements:
    """What was measured of an equilibrium classifier.

    Attributes:
        images: held-out images it was measured on.
        labels: place of each one's class, (n,).
        classes: labels of the classes.
        logits: (n, classes).
        z: equilibria, (n, width).
        steps: evaluations of the layer each image took, (n,).
        residual: relative residual of each equilibrium, (n,).
        converged: which solves reached their tolerance, bool (n,).
        accuracy_train: accuracy on the training images.
        eigenvalues: of df/dz at the first equilibria, complex (k, width).
        exponents: largest Lyapunov exponent of the iteration for these images, (k,).
        traces: residuals of the run's solver and of plain iteration.
        path: iterates of these images from zero, (t, k, width).
        wells: classes read off at a temperature, of the first images and of wrong ones.
        norm: |W|_2.
        bound: its bound, or None.
        tol: tolerance of the solves.
        seed: of the choice of images and of all probes.
        overlap: whether the held-out images were trained on too.
    """

    images: ImageSet
    labels: Tensor
    classes: tuple[int, ...]
    logits: Tensor
    z: Tensor
    steps: Tensor
    residual: Tensor
    converged: Tensor
    accuracy_train: float
    eigenvalues: Tensor
    exponents: Tensor
    traces: tuple[ResidualTrace, ...]
    path: Tensor
    wells: Wells
    norm: float
    bound: float | None
    tol: float
    seed: int
    overlap: bool

    @property
    def predicted(self) -> Tensor:
        """Place of the class of the largest logit, (n,)."""
        return self.logits.argmax(1)

    @property
    def accuracy(self) -> tuple[float, float]:
        """Share of held-out images classified rightly, and its standard error."""
        share = float((self.predicted == self.labels).double().mean())
        return share, math.sqrt(share * (1.0 - share) / len(self.labels))

    @property
    def radius(self) -> Tensor:
        """Spectral radius of df/dz at the equilibria looked at, (k,)."""
        return self.eigenvalues.abs().amax(1)

    def confusion(self) -> Tensor:
        """Images of class i called class j, int64 (classes, classes)."""
        c = len(self.classes)
        return torch.bincount(self.labels * c + self.predicted, minlength=c * c).reshape(c, c)

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        accuracy, error = self.accuracy
        steps = self.steps.double()
        plain: dict[str, Any] = plain_values({
            "held_out_images": len(self.labels),
            "held_out_was_trained_on": self.overlap,
            "seed": self.seed,
            "accuracy": accuracy,
            "accuracy_error": error,
            "accuracy_train": self.accuracy_train,
            "steps": {
                "mean": float(steps.mean()), "median": float(steps.median()),
                "p95": float(steps.quantile(0.95)), "max": int(self.steps.max()),
            },
            "residual": {
                "median": float(self.residual.median()), "max": float(self.residual.max()),
            },
            "tol": self.tol,
            "converged": float(self.converged.double().mean()),
            "spectral_radius": {
                "images": len(self.radius), "mean": float(self.radius.mean()),
                "max": float(self.radius.max()),
            },
            "lyapunov": {
                "mean": float(self.exponents.mean()), "max": float(self.exponents.max()),
                "log_radius_mean": float(self.radius.log().mean()),
            },
            "norm": self.norm,
            "bound": self.bound,
            "at_a_temperature": self.wells.to_json(),
            "evaluations_to_tol": {t.solver: t.reached(self.tol) for t in self.traces},
            "confusion": self.confusion().tolist(),
        })  # fmt: skip
        return plain


def measure_classifier(run: ModelRun, request: Request) -> DEQMeasurements:
    """The classifier on held-out images, and a closer look at the first of them.

    Args:
        run: of `driftwell.training.kinds.deq`.
        request: how many held-out images, and the seed.

    Raises:
        InvalidInput: data of the run that are not there any more, or too few images.
    """
    model = classifier_of(run)
    train, held_out = training_images(run.config), held_out_images(run.config)
    if request.samples is not None and request.samples < len(held_out):
        held_out = _chosen(held_out, request.samples, request.seed)
    classes = tuple(int(c) for c in run.meta["data"]["classes"])
    right, _ = _solved(model, standardised(run, train))
    train_labels = _places(train, classes)
    request.tell(30)
    x = standardised(run, held_out)
    logits, solves = _solved(model, x)
    request.tell(50)
    near, law = x[:CLOSELY], model.layer()
    z, driven = solves["z"][:CLOSELY], model.inject(near)
    start = torch.zeros_like(driven)
    evaluations = min(model.max_steps, 60)
    traces = tuple(
        residual_trace(law, start, driven, solver, evaluations)
        for solver in _different(model.solver, Picard())
    )
    request.tell(60)
    labels = _places(held_out, classes)
    wrong = logits.argmax(1).cpu() != labels
    looked = torch.cat([(~wrong).nonzero()[:CLOSELY, 0], wrong.nonzero()[:CLOSELY, 0]])
    wells = classes_at_a_temperature(
        model, x[looked], solves["z"][looked], looked, wrong[looked], request.seed
    )
    request.tell(80)
    found = DEQMeasurements(
        images=held_out, labels=labels, classes=classes,
        logits=logits.cpu(), z=solves["z"].cpu(), steps=solves["steps"].cpu(),
        residual=solves["residual"].cpu(), converged=solves["status"].cpu() == 0,
        accuracy_train=float((right.argmax(1).cpu() == train_labels).double().mean()),
        eigenvalues=jacobian_eigenvalues(law, z, driven).cpu(),
        exponents=lyapunov_exponent(law, start, driven, seed=request.seed).cpu(),
        traces=traces,
        wells=wells, path=_path(law, start, driven, 24).cpu(),
        norm=float(torch.linalg.matrix_norm(law.W, 2)), bound=model.bound, tol=model.tol,
        seed=request.seed, overlap=run.config.data.split == "all",
    )  # fmt: skip
    request.tell(100)
    return found


def classifier_of(run: ModelRun) -> DEQClassifier:
    """The run's model, as what it is."""
    if not isinstance(run.model, DEQClassifier):
        raise InvalidInput(f"{run.path} does not hold an equilibrium classifier")
    return run.model


def _solved(model: DEQClassifier, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the parts of the solves, in portions."""
    logits, parts = [], []
    with torch.no_grad():
        for some in x.split(PORTION):
            value, found = model(some)
            logits.append(value)
            parts.append(
                {"z": found.z, "steps": found.steps, "residual": found.residual,
                 "status": found.status}
            )  # fmt: skip
    return torch.cat(logits), {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _chosen(images: ImageSet, n: int, seed: int) -> ImageSet:
    if n < 2:
        raise InvalidInput(f"at least 2 images are needed to measure a run, got {n}")
    order = permutation(len(images), seed=seed, purpose=Purpose.DATA, step=20)[:n]
    rows = order.sort().values
    labels = None if images.labels is None else images.labels[rows]
    return ImageSet(images.images[rows], labels, images.name, f"{images.source}; {n} of them")


def _places(images: ImageSet, classes: tuple[int, ...]) -> Tensor:
    """Place of each image's class among the learned ones."""
    new = sorted(set(images.classes) - set(classes))
    if images.labels is None or new:
        what = f"the classes {new}, which were not learned" if new else "no labels"
        raise InvalidInput(f"{images.name} has {what}: bring the run's data back")
    return torch.searchsorted(torch.tensor(classes), images.labels.cpu())


def _different(own: Any, plain: Any) -> list[Any]:
    return [own] if type(own) is type(plain) else [own, plain]


def _path(law: Any, z: Tensor, x: Tensor, steps: int) -> Tensor:
    """Iterates z_0 .. z_steps, (steps + 1, B, D)."""
    path = [z]
    with torch.no_grad():
        for _ in range(steps):
            path.append(law(path[-1], x))
    return torch.stack(path)
