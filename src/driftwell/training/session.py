"""`train_run`: a run folder from settings, begun or resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from driftwell.core import native
from driftwell.core.errors import Diverged, InvalidInput, RunFolderError
from driftwell.core.world import World
from driftwell.data import ImageSet, Transform
from driftwell.models.langevin.generation import build_transform
from driftwell.models.langevin.kinds import machine_from, make_trainer
from driftwell.sampling import largest_curvature
from driftwell.training.checkpoint import Checkpoint, versions
from driftwell.training.config import RunConfig
from driftwell.training.fit import Budget, Fitted, fit
from driftwell.training.images import training_images, with_absolute_paths
from driftwell.training.run_folder import RunFolder, check_free

OnUpdate = Callable[[int, float, dict[str, float]], None]
TRANSFORM = "transform."


@final
@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Attributes:
        path: the run folder.
        updates: done, all sessions together.
        seconds: spent, all sessions together.
        reason: ``"finished"``, ``"interrupted"``, or ``"nothing to do"`` for a run that had
            already spent its budget.
    """

    path: Path
    updates: int
    seconds: float
    reason: Literal["finished", "interrupted", "nothing to do"]


def train_run(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    world: World | None = None,
    on_update: OnUpdate | None = None,
    note: Callable[[str], None] | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> Trained:
    """Train a model as `config` says, in the run folder `out`.

    Kill it at any moment: with `resume` it goes on from the last checkpoint, and at equal update
    counts the result is bit for bit that of a run that was never stopped.

    Args:
        config: the settings; to resume, those of the folder with perhaps another budget.
        out: the run folder.
        resume: go on with the run in `out`.
        overwrite: replace the run in `out`.
        world: processes that train together; the leader writes.
        on_update: called as on_update(updates done, seconds, metrics).
        note: called with sentences the user should read.
        interrupted: asked after each update; True saves and stops.

    Raises:
        InvalidInput: data or settings that cannot be used; nothing is written then.
        RunFolderError: a folder that cannot be written or resumed.
        Diverged: numbers left the finite range; the last good checkpoint stays.
    """
    session = _Session(with_absolute_paths(config), out, world or World(), note or _ignore)
    if resume:
        return session.resume(on_update, interrupted)
    return session.begin(overwrite, on_update, interrupted)


class _Session:
    """One call of `train_run`."""

    def __init__(
        self, config: RunConfig, out: Path, world: World, note: Callable[[str], None]
    ) -> None:
        self.config, self.out, self.world, self.note = config, out, world, note
        self.told: set[str] = set()
        self.saved = 0

    def begin(
        self,
        overwrite: bool,
        on_update: OnUpdate | None,
        interrupted: Callable[[], bool] | None,
    ) -> Trained:
        check_free(self.out, overwrite)
        self._prepare()
        tensors = self.trainer.tensors()
        self.world.wait()  # no process may look at the folder after the leader has made it
        if self.world.leader:
            self.folder = RunFolder.create(self.out, self.config, overwrite)
            try:
                # shows before the first update whether there is room for a checkpoint
                self._checkpoint(0, 0.0, tensors)
            except RunFolderError:
                self.folder.discard()
                raise
        try:
            return self._fit(0, 0.0, on_update, interrupted)
        except Diverged:
            if self.world.leader and self.saved == 0:
                self.folder.discard()  # there is nothing in it worth keeping
            raise

    def resume(self, on_update: OnUpdate | None, interrupted: Callable[[], bool] | None) -> Trained:
        self.folder = RunFolder.open(self.out)
        found = self.folder.latest_checkpoint()
        start = 0 if found is None else found.update
        seconds = 0.0 if found is None else float(found.meta.get("elapsed_seconds", 0.0))
        if self._budget().spent(start, seconds):
            return Trained(self.out, start, seconds, "nothing to do")
        self._prepare()
        if self.world.leader:
            self.folder.lock()
        if found is not None:
            self._compare(found)
            self.trainer.restore(found.tensors)
        self.world.wait()  # all have read before the leader writes
        if self.world.leader:
            self.folder.sweep()
            if self.config != self.folder.config:
                self.folder.save_config(self.config)
            self.folder.truncate_metrics(start)
        return self._fit(start, seconds, on_update, interrupted)

    def _prepare(self) -> None:
        """Everything that can be refused, before anything is written."""
        config = self.config
        self.images = training_images(config)
        pixels = self.images.images.to(device_of(config.device))
        self.transform = build_transform(config.recipe, pixels)
        self.states = self.transform.forward(pixels)
        self.trainer = make_trainer(
            config.recipe, self.transform, self.states, config.seed,
            class_indices(self.images), self.world,
        )  # fmt: skip

    def _budget(self) -> Budget:
        return Budget(self.config.budget_updates, self.config.minutes)

    def _fit(
        self,
        start: int,
        seconds: float,
        on_update: OnUpdate | None,
        interrupted: Callable[[], bool] | None,
    ) -> Trained:
        def record(done: int, now: float, metrics: dict[str, float]) -> None:
            if self.world.leader:
                self.folder.append_metrics(done, metrics)
            if on_update:
                on_update(done, now, metrics)

        try:
            fitted: Fitted = fit(
                self.trainer, self._budget(), start=start, seconds=seconds, on_update=record,
                checkpoint=self._checkpoint, checkpoint_every=self.config.checkpoint_every,
                interrupted=interrupted, world=self.world,
            )  # fmt: skip
        except Diverged as error:
            raise Diverged(self._explain(error)) from error
        finally:
            if self.world.leader:
                self.folder.unlock()
        return Trained(self.out, fitted.updates, fitted.seconds, fitted.reason)

    def _checkpoint(self, done: int, seconds: float, tensors: dict[str, Tensor]) -> None:
        warnings = self.trainer.warnings()
        for sentence in warnings:
            if sentence not in self.told:
                self.told.add(sentence)
                self.note(sentence)
        meta = {
            "seed": self.config.seed, "elapsed_seconds": seconds, "data": describe(self.images),
            "transform": self.transform.to_config(), "processes": self.world.size,
            "threads": torch.get_num_threads(), "kernels": kernels(), "warnings": warnings,
        }  # fmt: skip
        try:
            self.folder.save_checkpoint(done, {**tensors, **_tensors_of(self.transform)}, meta)
            self.saved = done
        except RunFolderError as error:
            if done == 0:
                raise
            raise RunFolderError(
                f"{error}; the last checkpoint is kept, and --resume goes on from it"
            ) from error

    def _compare(self, found: Checkpoint) -> None:
        if found.warning:
            self.note(found.warning)
        before = found.meta.get("data", {}).get("fingerprint")
        if before != self.images.fingerprint:
            raise RunFolderError(
                f"the training images of {self.images.name} have changed since this run began "
                f"(SHA-256 {self.images.fingerprint[:12]} instead of {str(before)[:12]}): bring "
                "the old ones back, or start a new run"
            )
        now: dict[str, Any] = {
            **versions(), "threads": torch.get_num_threads(), "kernels": kernels(),
            "processes": self.world.size,
        }  # fmt: skip
        then = {**found.meta.get("versions", {}), **found.meta}
        changed = [k for k in now if k in then and then[k] != now[k]]
        if changed:
            self.note(
                f"resumed under other conditions ({', '.join(changed)} differ): "
                "results may differ from the unbroken run in the last digits"
            )

    def _explain(self, error: Diverged) -> str:
        """What broke, which bound, what to lower, and what is kept."""
        kept = self.folder.latest_checkpoint() if self.world.leader else None
        if kept is None or kept.update == 0:
            where = ""
        else:
            where = f"; the checkpoint of update {kept.update} is kept"
        recipe = self.config.recipe
        advice = f"lower learning_rate ({recipe.learning_rate:g})"
        if kept is not None and recipe.learning == "contrastive":
            advice = self._advice(kept.tensors, advice)
        return f"training diverged: {error}: {advice}{where}"

    def _advice(self, tensors: dict[str, Tensor], otherwise: str) -> str:
        """The step size against its bound at the last good checkpoint."""
        dt = self.config.recipe.step_size
        machine = machine_from(self.config.recipe, tensors)
        x = torch.cat([machine.initial_state(64, self.config.seed), tensors["chains"][:64]])
        try:
            bound = 2.0 / largest_curvature(machine, x)
        except Diverged:
            return otherwise
        if dt < bound:
            return (
                f"{otherwise} or step_size ({dt:g}, stability bound 2 / lambda_max = {bound:.3g})"
            )
        return (
            f"step_size {dt:g} breaks the stability bound 2 / lambda_max = {bound:.3g}; "
            f"lower it with --set step_size={bound / 4:.2g}"
        )


def kernels() -> dict[str, str]:
    """Compiled kernels by source, each with the name of its build; empty where none works.

    The name changes with source, compiler, flags and processor: where it is the same, results
    are the same bits.
    """
    found = {}
    for source in sorted(native.PACKAGE.rglob("*.c")):
        name = source.relative_to(native.PACKAGE).as_posix()
        path = native.status(name).path
        if path is not None:
            found[name] = Path(path).stem
    return found


def describe(images: ImageSet) -> dict[str, Any]:
    """What a checkpoint notes of the images: size, provenance, fingerprint."""
    return {
        "name": images.name, "source": images.source, "images": len(images),
        "height": images.height, "width": images.width, "classes": list(images.classes),
        "fingerprint": images.fingerprint,
    }  # fmt: skip


def class_indices(images: ImageSet) -> Tensor | None:
    """Place of each image's label among the classes that occur, (n,) int64; None without labels.

    Example:
        >>> class_indices(ImageSet(torch.rand(3, 2, 2), torch.tensor([6, 1, 6])))
        tensor([1, 0, 1])
    """
    if images.labels is None:
        return None
    return torch.searchsorted(torch.tensor(images.classes), images.labels.cpu())


def _tensors_of(transform: Transform) -> dict[str, Tensor]:
    if not isinstance(transform, nn.Module):
        return {}
    return {f"{TRANSFORM}{name}": t for name, t in transform.state_dict().items()}


def device_of(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InvalidInput: no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"device {name!r} cannot be used here ({reason}): try cpu") from error
    return device


def _ignore(sentence: str) -> None:
    del sentence
