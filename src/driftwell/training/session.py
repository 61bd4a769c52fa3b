"""`train_run`: a run folder from settings, begun or resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from driftwell.core import native
from driftwell.core.errors import Diverged, InvalidInput, NotConverged, RunFolderError
from driftwell.core.world import World
from driftwell.training.checkpoint import Checkpoint, versions
from driftwell.training.config import RunConfig
from driftwell.training.fit import Budget, Fitted, fit
from driftwell.training.images import with_absolute_paths
from driftwell.training.quantized_run import refuse_quantized
from driftwell.training.run_folder import RunFolder, check_free

OnUpdate = Callable[[int, float, dict[str, float]], None]


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
        NotConverged: a solve that the model cannot do without failed; likewise.
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
        except (Diverged, NotConverged):
            if self.world.leader and self.saved == 0:
                self.folder.discard()  # there is nothing in it worth keeping
            raise

    def resume(self, on_update: OnUpdate | None, interrupted: Callable[[], bool] | None) -> Trained:
        self.folder = RunFolder.open(self.out)
        found = self.folder.latest_checkpoint()
        if found is not None:
            refuse_quantized(self.out, found.meta, "trained further")
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
        self.task = self.config.kind.task(self.config, self.world)
        self.trainer = self.task.trainer

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
            "seed": self.config.seed, "elapsed_seconds": seconds, "data": self.task.data,
            **self.task.notes, "processes": self.world.size,
            "threads": torch.get_num_threads(), "kernels": kernels(), "warnings": warnings,
        }  # fmt: skip
        try:
            self.folder.save_checkpoint(done, {**tensors, **self.task.constants}, meta)
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
        data = self.task.data
        if before != data["fingerprint"]:
            raise RunFolderError(
                f"the training {self.task.noun} of {data['name']} have changed since this run "
                f"began (SHA-256 {data['fingerprint'][:12]} instead of {str(before)[:12]}): bring "
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
        advice = self.task.advice(None if kept is None else kept.tensors)
        return f"training diverged: {error}: {advice}{where}"


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
