"""Images from a run: new, in-painted, of one class, or denoised; a kill loses one portion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.world import World
from driftwell.data import read
from driftwell.models.langevin.generation import denoise, generate
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.models.langevin.trainer import label_code
from driftwell.sampling import largest_curvature
from driftwell.training.annealed import annealed_portion
from driftwell.training.portions import Portions
from driftwell.training.run import Run

PORTION = 256
"""Chains sampled together; what is done is saved after each portion."""

MASKS = ("top", "bottom", "left", "right")
Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True)
class Wish:
    """What is to be generated.

    Attributes:
        n: number of images.
        seed: of start states and noise.
        steps: Langevin steps; None: the recipe's.
        label: class of the images, for a model that learned labels.
        clamp: path of images of which a part is kept.
        mask: the part that is kept: ``top``, ``bottom``, ``left``, ``right``, or the path of an
            image that is white there.
        denoise: path of noisy images to settle from.

    Raises:
        InvalidInput: numbers below 1, or wishes that exclude each other.
    """

    n: int
    seed: int = 0
    steps: int | None = None
    label: int | None = None
    clamp: str | None = None
    mask: str | None = None
    denoise: str | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or (self.steps is not None and self.steps < 1):
            raise InvalidInput(
                f"images and steps must be at least 1, got n={self.n}, steps={self.steps}"
            )
        if (self.clamp is None) != (self.mask is None):
            raise InvalidInput(
                "in-painting needs both --clamp IMAGE and --mask top|bottom|left|right|FILE"
            )
        for other in ("label", "clamp"):
            if self.denoise is not None and getattr(self, other) is not None:
                raise InvalidInput(f"--denoise and --{other} exclude each other: give one")


@final
@dataclass(frozen=True)
class _Material:
    """What a wish names, read and checked: images, the mask and the class's place."""

    noisy: Tensor | None  # (k, height, width) in [0, 1]
    known: Tensor | None  # (k, height, width) in [0, 1]
    kept: Tensor | None  # (height * width,) bool
    label: int | None


def generate_images(
    run: Run,
    wish: Wish,
    *,
    partial: Path | None = None,
    world: World | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Tensor:
    """Images (n, height, width) in [0, 1], on every process.

    Chains are sampled in portions of `PORTION`; image i depends on the seed and on i, not on n,
    on the number of processes, or on a kill in between.

    Args:
        run: of `load_run`.
        wish: what is to be generated.
        partial: where finished portions are kept until all are done, so that the same wish goes
            on after a kill; None keeps none.
        world: processes that share the chains.
        progress: called as progress(images done, images of this process).
        note: called with sentences the user should read.

    Raises:
        InvalidInput: a wish this model cannot fulfil, or images that cannot be read.
        Diverged: the run's sampler diverges.
        RunFolderError: `partial` cannot be written.
    """
    world = world or World()
    material = _gather_material(run, wish)
    mine = world.slice(wish.n)
    count = mine.stop - mine.start
    portions = _portions(run, wish, partial if count > PORTION else None, world)
    done = portions.recall()
    if len(done) and note:
        note(f"going on with {len(done)} of {count} images that were finished before")
    while len(done) < count:
        before, size = len(done), min(PORTION, count - len(done))

        def told(step: int, steps: int, before: int = before, size: int = size) -> None:
            if progress:
                progress(before + size * step // max(steps, 1), count)

        states = _portion(run, wish, material, mine.start + before, size, told)
        done = torch.cat([done, states.to(done)])
        portions.keep(done, finished=len(done) == count)
        if progress:
            progress(len(done), count)
    images = run.images(world.gather(done, wish.n))
    world.wait()  # nobody forgets what another may still need to go on
    portions.forget()
    return _put_back(images, material)


def _portion(
    run: Run, wish: Wish, material: _Material, first: int, size: int, progress: Progress
) -> Tensor:
    noisy, known = (
        None if images is None else _cycled(images, first, size)
        for images in (material.noisy, material.known)
    )
    machine = run.sampled
    if isinstance(machine, NoiseConditionalMachine):
        return annealed_portion(
            run, first, size, wish.seed, steps=wish.steps, label=material.label, known=known,
            kept=material.kept, noisy=noisy, progress=progress,
        )  # fmt: skip
    recipe = with_step_size(run)
    if noisy is not None:
        states = _states(run, noisy)
        if wish.steps is None:
            return denoise(machine, recipe, states)
        return denoise(machine, recipe, states, steps=wish.steps)
    held, mask = _held(run, material, known)
    return generate(
        machine, recipe, size, wish.seed, steps=wish.steps, known=held, mask=mask,
        first_chain=first, progress=progress,
    )  # fmt: skip


def with_step_size(run: Run) -> Recipe:
    """The run's recipe with a number for its step size, the same for any number of images.

    An automatic step is the sampler's fraction of 1 / lambda_max at 256 fixed start states.
    """
    if run.recipe.step_size:
        return run.recipe
    start = run.machine.initial_state(256, seed=0)
    step = run.recipe.make_sampler().fraction / largest_curvature(run.machine, start)
    return replace(run.recipe, step_size=step)


def _held(
    run: Run, material: _Material, known: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """States and mask of the neurons that are held: known pixels, and one class's labels."""
    if known is None and material.label is None:
        return None, None
    layout, like = run.layout, next(run.machine.parameters())
    held = torch.zeros(1, layout.n).to(like) if known is None else _states(run, known)
    mask = torch.zeros(layout.n, dtype=torch.bool, device=like.device)
    if material.kept is not None:
        if len(material.kept) != layout.visible:
            raise InvalidInput(
                f"{run.path} was trained on principal components, whose neurons are no pixels: "
                "in-painting by clamped neurons needs the scaling atanh, plain or raw"
            )
        mask[: layout.visible] = material.kept.to(like.device)
    if material.label is not None:
        code = label_code(torch.tensor([material.label]), run.recipe.label_scale, layout.labels)
        held[:, layout.visible : layout.known] = code.to(like)
        mask[layout.visible : layout.known] = True
    return held, mask


def _states(run: Run, images: Tensor) -> Tensor:
    """Images as states with label and hidden neurons at zero, (n, N)."""
    visible = run.transform.forward(images.to(next(run.machine.parameters())))
    return torch.nn.functional.pad(visible, (0, run.layout.n - run.layout.visible)).detach()


def _gather_material(run: Run, wish: Wish) -> _Material:
    noisy = None if wish.denoise is None else _read(run, wish.denoise)
    known = None if wish.clamp is None else _read(run, wish.clamp)
    kept = None if wish.mask is None else _mask(run, wish.mask)
    return _Material(noisy, known, kept, _class_place(run, wish.label))


def _read(run: Run, path: str) -> Tensor:
    return read(path).resize(run.height, run.width).images


def _mask(run: Run, name: str) -> Tensor:
    """(height * width,) bool, True where the image is kept."""
    h, w = run.height, run.width
    kept = torch.zeros(h, w, dtype=torch.bool)
    if name in MASKS:
        half = {
            "top": (slice(0, h // 2), slice(None)), "bottom": (slice(h // 2, h), slice(None)),
            "left": (slice(None), slice(0, w // 2)), "right": (slice(None), slice(w // 2, w)),
        }[name]  # fmt: skip
        kept[half] = True
    else:
        kept = _read(run, name)[0] > 0.5
    if bool(kept.all()) or not bool(kept.any()):
        raise InvalidInput(
            f"mask {name} keeps {'everything' if bool(kept.all()) else 'nothing'}: it must be "
            "white where the image is kept and black elsewhere"
        )
    return kept.reshape(-1)


def _class_place(run: Run, label: int | None) -> int | None:
    if label is None:
        return None
    if not run.label_neurons:
        raise InvalidInput(
            f"{run.path} did not learn labels, so images of class {label} cannot be asked for: "
            "train with --set label_scale=1"
        )
    if label not in run.classes:
        there = ", ".join(str(c) for c in run.classes)
        raise InvalidInput(f"{run.path} did not learn class {label}: it has {there}")
    return run.classes.index(label)


def _put_back(images: Tensor, material: _Material) -> Tensor:
    """Known pixels to the last digit: transforms clip or round them."""
    if material.known is None or material.kept is None:
        return images
    known = _cycled(material.known, 0, len(images)).to(images)
    kept = material.kept.reshape(images.shape[1:]).to(images.device)
    return torch.where(kept, known, images)


def _cycled(rows: Tensor, first: int, size: int) -> Tensor:
    """Rows first..first+size-1 of the given ones, again and again."""
    return rows[torch.arange(first, first + size, device=rows.device) % len(rows)]


def _portions(run: Run, wish: Wish, path: Path | None, world: World) -> Portions:
    facts = {**asdict(wish), "model": run.meta["sha256"], "rank": world.rank, "of": world.size}
    facts |= {key: _content(getattr(wish, key)) for key in ("clamp", "mask", "denoise")}
    place = None if path is None else path.with_name(f"{path.name}.{world.rank}")
    empty = next(run.machine.parameters()).detach().new_empty((0, run.machine.n))
    return Portions(place, facts, empty)


def _content(path: Any) -> str | None:
    """Digest of a file that a wish names; the word itself for a mask such as ``top``."""
    if path is None or path in MASKS:
        return None if path is None else str(path)
    file = Path(path).expanduser()
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else str(path)
