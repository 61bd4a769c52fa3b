"""Measurements of a learned proximal network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, permutation
from driftwell.core.state import leaves
from driftwell.data import ImageSet
from driftwell.fixed_points import Anderson, fixed_point
from driftwell.models.proximal import LPN
from driftwell.report.parts import plain_values
from driftwell.report.reporter import Request
from driftwell.training.images import held_out_images, training_images
from driftwell.training.kinds.lpn import LPNRecipe, psnr
from driftwell.training.model_run import ModelRun

MOST, PORTION, SETTLED, LINES = 1000, 200, 32, 6
SETTLE_TOL, SETTLE_STEPS = 1e-3, 200
ALONG = 41
ITERATES = (0, 1, 2, 4, 8, 16, 32)


@final
@dataclass(frozen=True, eq=False)
class ProximalMeasurements:
    """What was measured of a learned proximal network.

    Attributes:
        clean: held-out images, (n, height, width).
        noisy: the same with noise.
        denoised: f of them.
        linear: the linear (Wiener) estimate from the training images' mean and covariance.
        sigma: of the noise, grey levels.
        prior: R at f of clean images, of noisy ones, and of clean ones with pixels shuffled.
        shift: places t along lines between two held-out images, from 0 to 1 and beyond, (k,).
        lines: R along them, (lines, k).
        line: f at places along the first, (k, height, width).
        iterates: of z <- f(z) from noisy images, by number of applications.
        settled: which of the iterations came to rest, bool (m,).
        steps: evaluations until then, (m,).
        monotone: smallest <f(a) - f(b), a - b> / |a - b|^2 over pairs of noisy images.
        seed: of the noise and all choices.
        overlap: whether the held-out images were trained on too.
    """

    clean: Tensor
    noisy: Tensor
    denoised: Tensor
    linear: Tensor
    sigma: float
    prior: dict[str, Tensor]
    shift: Tensor
    lines: Tensor
    line: Tensor
    iterates: dict[int, Tensor]
    settled: Tensor
    steps: Tensor
    monotone: float
    seed: int
    overlap: bool

    def psnr(self, name: str) -> tuple[float, float]:
        """Mean peak signal-to-noise ratio against the clean images, dB, and its error."""
        values = psnr(getattr(self, name), self.clean).double()
        return float(values.mean()), float(values.std()) / len(values) ** 0.5

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        quality = {}
        for name in ("noisy", "linear", "denoised"):
            quality[name], quality[f"{name}_error"] = self.psnr(name)
        plain: dict[str, Any] = plain_values({
            "held_out_images": len(self.clean),
            "held_out_was_trained_on": self.overlap,
            "seed": self.seed,
            "sigma": self.sigma,
            "psnr": quality,
            "prior": {name: float(values.mean()) for name, values in self.prior.items()},
            "prior_along_lines": {"t": self.shift.tolist(), "R": self.lines.tolist()},
            "settled": float(self.settled.double().mean()),
            "steps": {"mean": float(self.steps.double().mean()), "max": int(self.steps.max())},
            "monotone": self.monotone,
        })  # fmt: skip
        return plain


def measure_denoiser(run: ModelRun, request: Request) -> ProximalMeasurements:
    """The network on held-out images with fresh noise.

    Args:
        run: of `driftwell.training.kinds.lpn`.
        request: how many held-out images (1000 at most unless asked), and the seed.

    Raises:
        InvalidInput: data of the run that are not there any more, or too few images.
    """
    model, recipe = network_of(run), run.config.recipe
    train, held_out = training_images(run.config), held_out_images(run.config)
    _check_size(run, held_out)
    like = next(model.parameters())
    clean = _chosen(held_out, request.samples, request.seed).to(like)
    noise = normal(
        tuple(clean.shape), seed=request.seed, purpose=Purpose.PROBE, chains=len(clean), step=0
    ).to(like)
    noisy = clean + recipe.sigma * noise
    denoised = _denoised(model, noisy)
    request.tell(40)
    near = noisy[:SETTLED].reshape(-1, *model.shape)
    with torch.no_grad():
        rest = fixed_point(
            model, near, solver=Anderson(), tol=SETTLE_TOL, max_steps=SETTLE_STEPS, throw=False
        )
    request.tell(70)
    shift, lines, line = _lines(model, clean)
    shuffled = clean[:SETTLED].flatten(1)
    shuffled = shuffled[:, permutation(shuffled.shape[1], seed=request.seed, purpose=Purpose.PROBE,
                                       step=1)]  # fmt: skip
    places = {"clean": clean[:SETTLED], "noisy": noisy[:SETTLED], "shuffled": shuffled}
    found = ProximalMeasurements(
        clean=clean.cpu(), noisy=noisy.cpu(), denoised=denoised.cpu(),
        linear=_linear(train, noisy, recipe).cpu(), sigma=recipe.sigma,
        prior={name: _prior(model, y) for name, y in places.items()}, shift=shift, lines=lines,
        line=line.reshape(-1, *clean.shape[1:]).cpu(), iterates=_iterates(model, noisy[:8]),
        settled=(rest.status == 0).cpu(), steps=rest.steps.cpu(),
        monotone=_monotone(noisy, denoised), seed=request.seed,
        overlap=run.config.data.split == "all",
    )  # fmt: skip
    request.tell(100)
    return found


def network_of(run: ModelRun) -> LPN:
    """The run's model, as what it is."""
    if not isinstance(run.model, LPN):
        raise InvalidInput(f"{run.path} does not hold a learned proximal network")
    return run.model


def _check_size(run: ModelRun, images: ImageSet) -> None:
    size = tuple(int(run.meta["data"][key]) for key in ("height", "width"))
    if (images.height, images.width) != size:
        raise InvalidInput(
            f"{images.name} has images of {images.height}x{images.width}, this run was trained on "
            f"{size[0]}x{size[1]}: bring the run's data back"
        )


def _chosen(images: ImageSet, n: int | None, seed: int) -> Tensor:
    if n is not None and n < 2:
        raise InvalidInput(f"at least 2 images are needed to measure a run, got {n}")
    order = permutation(len(images), seed=seed, purpose=Purpose.DATA, step=20)
    return images.images[order[: MOST if n is None else n].sort().values]


def _denoised(model: LPN, noisy: Tensor) -> Tensor:
    with torch.no_grad():
        parts = [model.prox(some.reshape(-1, *model.shape)) for some in noisy.split(PORTION)]
    return torch.cat(parts).reshape(noisy.shape)


def _linear(train: ImageSet, noisy: Tensor, recipe: LPNRecipe) -> Tensor:
    """mean + C (C + sigma^2)^-1 (y - mean), the best linear estimate."""
    x = train.flat().double()
    mean = x.mean(0)
    C = (x - mean).T @ (x - mean) / len(x)
    gain = torch.linalg.solve(C + recipe.sigma**2 * torch.eye(len(C), dtype=C.dtype), C)
    y = noisy.flatten(1).cpu().double()
    estimate: Tensor = mean + (y - mean) @ gain
    return estimate.reshape(noisy.shape).float()


def _prior(model: LPN, y: Tensor) -> Tensor:
    _, R = model.prior_at(y.reshape(-1, *model.shape))
    return R.double().cpu()


def _lines(model: LPN, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R at f(y(t)) for y(t) = (1 - t) a + t b, and f along the first line."""
    t = torch.linspace(-0.5, 1.5, ALONG)
    values, first = [], torch.empty(0)
    pairs = min(LINES, len(clean) // 2)
    for k in range(pairs):
        a, b = clean[2 * k], clean[2 * k + 1]
        w = t.to(clean)[:, None, None]
        f, R = model.prior_at(((1 - w) * a + w * b).reshape(-1, *model.shape))
        values.append(R.double().cpu())
        first = f if k == 0 else first
    return t, torch.stack(values), first


def _iterates(model: LPN, noisy: Tensor) -> dict[int, Tensor]:
    z, kept = noisy.reshape(-1, *model.shape), {}
    for step in range(max(ITERATES) + 1):
        if step in ITERATES:
            kept[step] = z.reshape(noisy.shape).cpu()
        with torch.no_grad():
            (z,) = leaves(model(z))
    return kept


def _monotone(y: Tensor, f: Tensor) -> float:
    a, b = y.flatten(1).double(), f.flatten(1).double()
    dy, df = a[1:] - a[:-1], b[1:] - b[:-1]
    return float(((dy * df).sum(1) / dy.square().sum(1)).min())
