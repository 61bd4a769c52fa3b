"""Reports of learned proximal networks."""

from __future__ import annotations

from typing import Any, final

from driftwell.report import lpn_figures as figures
from driftwell.report.lpn_measurements import (
    SETTLE_STEPS,
    SETTLE_TOL,
    ProximalMeasurements,
    measure_denoiser,
    network_of,
)
from driftwell.report.model_page import Page, Section, render_page
from driftwell.report.parts import OVERLAP, Plate, Reading, Table, plate
from driftwell.report.reporter import Reporter, Request
from driftwell.report.rounding import measured, spaced
from driftwell.training.model_run import ModelRun


@final
class ProximalReporter(Reporter):
    """Denoising against the best linear estimate, and the prior that was learned."""

    def measure(self, run: ModelRun, request: Request) -> ProximalMeasurements:
        """The network on held-out images with fresh noise."""
        return measure_denoiser(run, request)

    def headline(self, numbers: dict[str, Any]) -> str:
        """How many images, and the noise."""
        return f"{numbers['held_out_images']} held-out images, noise {numbers['sigma']:g}"

    def tables(self, numbers: dict[str, Any]) -> list[Table]:
        """Denoising and prior."""
        quality, prior, steps = numbers["psnr"], numbers["prior"], numbers["steps"]
        rows = [
            (f"{title}, dB", measured(quality[name], quality[f"{name}_error"]))
            for name, title in (("noisy", "PSNR of the noisy images"),
                                ("linear", "of the best linear estimate"),
                                ("denoised", "of the learned operator"))
        ]  # fmt: skip
        rows += [
            ("learned prior R: clean, noisy, shuffled pixels",
             ", ".join(f"{prior[name]:.2f}" for name in ("clean", "noisy", "shuffled"))),
            ("least <f(a)-f(b), a-b> / |a-b|^2 (never below 0)", f"{numbers['monotone']:.3f}"),
            (f"z <- f(z) at rest within {SETTLE_STEPS} evaluations",
             f"{100 * numbers['settled']:.0f} % (mean {steps['mean']:.1f})"),
        ]  # fmt: skip
        return [Table("denoising and prior", tuple(rows))]

    def draw(self, run: ModelRun, found: ProximalMeasurements) -> dict[str, Plate]:
        """All figures of the page."""
        metrics = run.metrics()
        plates = [
            plate(
                "pictures", figures.pictures(found),
                "Clean, noisy and denoised held-out images, one below the other",
                "The first held-out images of the choice, none left out. The linear estimate knows "
                "mean and covariance of the training images; what the learned operator does better "
                "it knows of their shape.",
            ),
            plate(
                "quality", figures.quality(found),
                "Histograms of the signal-to-noise ratio of noisy and denoised images",
                "Of each held-out image, at a peak of 1: noise is alike for all of them, so the "
                "spread of the estimates is that of the images.",
            ),
            plate(
                "prior", figures.prior(found),
                "Learned prior along lines between images, and where it is low",
                "The operator is the gradient of a convex function, so it is exactly the proximal "
                "operator of a function R, −σ² log p up to a constant, which can be evaluated: "
                "along lines between two images each (left; below, what f makes of the first), and "
                "at images, noisy ones, and ones with their pixels shuffled (right).",
            ),
            plate(
                "iterates", figures.iterates(found),
                "Noisy images after the operator was applied again and again",
                "z ← f(z) descends R: it comes to rest where R is stationary. These are the wells "
                "of what was learned, which need not be images.",
            ),
        ]  # fmt: skip
        if len(metrics) > 1:
            plates.append(plate(
                "training", figures.training(metrics), "Loss and signal-to-noise over updates",
                "The loss changes its meaning from stage to stage: l1 first, then proximal "
                "matching with a width that halves. The signal-to-noise ratio may fall in the "
                "latter, as a mode is no mean.",
            ))  # fmt: skip
        return {each.name: each for each in plates}

    def render(self, run: ModelRun, found: ProximalMeasurements, plates: dict[str, Plate]) -> str:
        """HTML of the page."""
        model, data = network_of(run), run.meta["data"]
        value = found.psnr("denoised")[0]
        return render_page(run, Page(
            lead="A denoiser that is exactly a proximal operator: f = ∇ψ with a convex network ψ "
            f"of {model.psi.depth} layers. It learned {spaced(data['images'])} images of "
            f"{data['height']}×{data['width']} pixels under noise of σ = {found.sigma:g}, and with "
            "them the function it is the proximal operator of.",
            facts=(("PSNR, noisy", f"{found.psnr('noisy')[0]:.1f} dB"),
                   ("denoised", f"{value:.1f} dB")),
            readings=readings(found),
            tables=self.tables(found.to_json()),
            sections=(
                Section("images", "Images", ("pictures", "quality")),
                Section("wells", "The learned prior", ("prior", "iterates")),
                Section("learning", "Training", ("training",)),
            ),
            data=f"{data['source'] or data['name']}; measured on {spaced(len(found.clean))} "
            "held-out images",
            warnings=(OVERLAP,) if found.overlap else (),
            command=f" --seed {found.seed}",
        ), plates)  # fmt: skip


def readings(found: ProximalMeasurements) -> list[Reading]:
    """What the numbers of a learned proximal network say."""
    (ours, error), (linear, other), (noisy, _) = (
        found.psnr(name) for name in ("denoised", "linear", "noisy")
    )
    margin = 3.0 * (error**2 + other**2) ** 0.5
    said = [
        Reading(
            "Denoising", f"Noise of {noisy:.1f} dB is brought to {ours:.1f} ± {error:.1f} dB; the "
            f"best linear estimate reaches {linear:.1f} dB.",
            "good" if ours > linear + margin else "neutral" if ours > linear - margin else "bad",
        ),
        Reading(
            "Monotone", f"<f(a) − f(b), a − b> is {found.monotone:.3f} |a − b|² at least: a "
            "proximal operator never reverses a direction, and this one cannot.",
            "good" if found.monotone >= 0 else "bad",
        ),
    ]  # fmt: skip
    clean, noise = (float(found.prior[name].mean()) for name in ("clean", "shuffled"))
    lower = clean < noise
    said.append(Reading(
        "Prior", f"R is {clean:.2f} at images and {noise:.2f} at images with shuffled pixels: "
        f"{'it knows one from the other' if lower else 'it does not know one from the other'}.",
        "good" if lower else "bad",
    ))  # fmt: skip
    share = float(found.settled.double().mean())
    said.append(Reading(
        "Wells", f"{100 * share:.0f} % of iterations z ← f(z) came to rest at {SETTLE_TOL:g} "
        f"within {SETTLE_STEPS} evaluations.", "good" if share == 1.0 else "neutral",
    ))  # fmt: skip
    return said


REPORTER = ProximalReporter()
