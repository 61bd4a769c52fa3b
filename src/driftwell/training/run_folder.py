"""Run folders: settings, metrics and checkpoints of one training, in one place."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from torch import Tensor

from driftwell.core.atomic import cannot_write, write_atomically
from driftwell.core.errors import RunFolderError
from driftwell.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from driftwell.training.config import RunConfig

CONFIG, METRICS, CHECKPOINTS = "config.toml", "metrics.jsonl", "checkpoints"


@final
class RunBusy(RunFolderError):
    """A run folder in which another process is training."""


@final
@dataclass
class RunFolder:
    """A folder with ``config.toml``, ``metrics.jsonl`` and ``checkpoints/``.

    Make one with `create` or `open`. Metrics are one JSON object a line, one line an update.

    Attributes:
        path: where it is.
        config: the settings in config.toml.
    """

    path: Path
    config: RunConfig
    _made: list[Path] = field(default_factory=list, repr=False)
    _lock: int | None = field(default=None, repr=False)

    @classmethod
    def create(cls, path: Path, config: RunConfig, overwrite: bool = False) -> RunFolder:
        """A new run folder, with its settings written.

        Args:
            path: an absent or empty folder, or with `overwrite` a run folder, which is emptied.
            config: the settings.
            overwrite: whether an existing run may be deleted.

        Raises:
            RunFolderError: the folder is not empty, or cannot be written; then nothing of it
                is left behind.
        """
        check_free(path, overwrite)
        made = [p for p in (path, *path.parents) if not p.exists()]
        folder = cls(path, config, made)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder.lock()
            _empty(path)
            (path / CHECKPOINTS).mkdir()
            folder.save_config(config)
        except RunBusy:
            raise
        except OSError as error:
            folder.discard()
            if isinstance(error, RunFolderError):
                raise
            raise cannot_write(path, error) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder.

        Raises:
            RunFolderError: there is none at `path`, or its settings cannot be read.
        """
        file = path / CONFIG
        if not path.exists():
            raise RunFolderError(f"{path} does not exist: there is no run to read there")
        if not file.is_file():
            raise RunFolderError(f"{path} is not a run folder: it has no {CONFIG}")
        return cls(path, RunConfig.read(file))

    def save_config(self, config: RunConfig) -> None:
        """Write `config` as the folder's settings."""
        write_atomically(self.path / CONFIG, config.to_toml().encode())
        self.config = config

    def discard(self) -> None:
        """Take back a creation that failed: nothing that `create` made stays."""
        self.unlock()
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)
        for name in (CONFIG, METRICS):
            with suppress(OSError):
                (self.path / name).unlink()
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                return

    def sweep(self) -> None:
        """Remove temporary files of writes that a kill interrupted."""
        for entry in self.path.iterdir():
            if _is_leftover(entry):
                with suppress(OSError):
                    entry.unlink()

    def lock(self) -> None:
        """Claim the folder for this process until it ends.

        Raises:
            RunBusy: another process is training in it.
        """
        try:
            import fcntl
        except ImportError:  # not POSIX: no claim, the rest works
            return
        try:
            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.unlock()
            raise RunBusy(
                f"another process is training in {self.path}: wait for it or choose another folder"
            ) from error
        except OSError as error:
            self.unlock()
            raise cannot_write(self.path, error) from error

    def unlock(self) -> None:
        """Give the claim of `lock` back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save_checkpoint(
        self, update: int, tensors: dict[str, Tensor], meta: dict[str, Any]
    ) -> None:
        """Save a checkpoint, after the metrics up to it have reached the disk."""
        metrics = self.path / METRICS
        if metrics.exists():
            with metrics.open("ab") as file:
                os.fsync(file.fileno())
        save_checkpoint(self.path / CHECKPOINTS, update, tensors, meta)

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest good checkpoint, see `driftwell.training.checkpoint.latest_checkpoint`."""
        return latest_checkpoint(self.path / CHECKPOINTS)

    def latest_good_checkpoint(self) -> Checkpoint:
        """The newest good checkpoint.

        Raises:
            RunFolderError: there is none.
        """
        found = self.latest_checkpoint()
        if found is None:
            raise RunFolderError(
                f"{self.path} has no checkpoint yet: train it with `driftwell train "
                f"{self.config.model} --out {self.path} --resume`"
            )
        return found

    def check_kind(self, *names: str) -> None:
        """Raise one sentence unless the run is of one of these kinds.

        Raises:
            RunFolderError: it is of another kind.
        """
        if self.config.model not in names:
            raise RunFolderError(
                f"{self.path} holds a run of {self.config.model}, and this is done with runs of "
                f"{' or '.join(names)}: give the folder of one"
            )

    def metrics(self) -> list[dict[str, float]]:
        """All lines of metrics.jsonl; a last line that was cut off is left out."""
        try:
            lines = (self.path / METRICS).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def truncate_metrics(self, update: int) -> None:
        """Drop lines after `update`, so that a resumed run writes the file of an unbroken one."""
        path = self.path / METRICS
        if not path.exists():
            return
        kept = bytearray()
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                if json.loads(line)["update"] > update:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept += line + b"\n"
        write_atomically(path, bytes(kept))

    def append_metrics(self, update: int, metrics: dict[str, float]) -> None:
        """Add one line, in one write."""
        line = json.dumps({"update": update, **metrics}) + "\n"
        try:
            with (self.path / METRICS).open("ab", buffering=0) as file:
                file.write(line.encode())
        except OSError as error:
            raise cannot_write(self.path / METRICS, error) from error


def check_free(path: Path, overwrite: bool) -> None:
    """Raise one sentence unless a run may be created at `path`.

    Raises:
        RunFolderError: a file, a folder that is not empty, or not a run folder to overwrite.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise RunFolderError(f"{path} is a file: give the name of a folder for the run")
    try:
        # a creation that was killed before it had written the settings leaves no more than this
        found = [
            entry
            for entry in path.iterdir()
            if not (_is_leftover(entry) or (entry.name == CHECKPOINTS and not any(entry.iterdir())))
        ]
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error
    if not found:
        return
    if not is_run_folder(path):
        raise RunFolderError(
            f"{path} is not empty and not a run folder, so it is left alone: choose another --out"
        )
    if not overwrite:
        raise RunFolderError(
            f"{path} already holds a run: use --resume to go on with it, "
            "--overwrite to replace it, or another --out"
        )


def is_run_folder(path: Path) -> bool:
    """Whether `path` has the config.toml of a run, readable by this version or not."""
    try:
        head = (path / CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return head.startswith(RunConfig.HEADER)


def _is_leftover(entry: Path) -> bool:
    """Temporary file of a write that was killed."""
    return entry.name.startswith(".") and entry.name.endswith(".tmp")


def _empty(path: Path) -> None:
    # settings last: as long as anything is left, the folder is recognised as a run
    for entry in sorted(path.iterdir(), key=lambda e: e.name == CONFIG):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
