"""Checkpoints: one safetensors file and one JSON file an update, whole or ignored. No pickle."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.atomic import write_atomically
from driftwell.core.errors import RunFolderError

SCHEMA = 1
KEEP = 2

_NAME = re.compile(r"update-(\d{10})\.json")


@final
@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back.

    Attributes:
        update: number of updates done.
        tensors: what was saved, on the CPU.
        meta: the JSON file's content.
        warning: a sentence if newer checkpoints had to be skipped, else None.
    """

    update: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    warning: str | None = None


def save_checkpoint(
    folder: Path, update: int, tensors: dict[str, Tensor], meta: dict[str, Any]
) -> Path:
    """Save `tensors` and `meta` so that a kill at any moment leaves this checkpoint or the last.

    The JSON file is written last and holds the tensors file's size and SHA-256: a checkpoint
    without it, or that does not match it, does not count. Older ones than the last two go.

    Args:
        folder: an existing folder.
        update: number of updates done, at least 0.
        tensors: by name.
        meta: plain values, such as seed and elapsed seconds; ``schema``, ``update``, ``file``,
            ``size``, ``sha256`` and ``versions`` are added.

    Returns:
        Path of the JSON file.

    Raises:
        RunFolderError: the files cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = save_checkpoint(Path(place), 7, {"J": torch.ones(2)}, {"seed": 1})
        ...     latest_checkpoint(Path(place)).update
        7
    """
    from safetensors.torch import save

    # copies: safetensors refuses tensors that share memory, as views of one buffer do
    content = save(
        {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    )
    stem = f"update-{update:010d}"
    # its name reaches the disk with the JSON file's; a pair that does not match is never used
    write_atomically(folder / f"{stem}.safetensors", content, durable_name=False)
    described = {
        **meta,
        "schema": SCHEMA,
        "update": update,
        "file": f"{stem}.safetensors",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": versions(),
    }
    path = folder / f"{stem}.json"
    write_atomically(path, (json.dumps(described, indent=2) + "\n").encode())
    _forget_old(folder)
    return path


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if none was ever finished.

    A tensors file without its JSON file (a save that was interrupted) is skipped silently; one
    that does not match its JSON file with a warning.

    Raises:
        RunFolderError: the newest has another schema version, or there are checkpoints and none
            of them is good.
    """
    reasons: list[str] = []
    for update in sorted(_updates(folder), reverse=True):
        try:
            found = _read(folder, update)
        except _Damaged as damage:
            reasons.append(str(damage))
            continue
        if not reasons:
            return found
        warning = f"{reasons[0]}: going back to the checkpoint of update {update}"
        return Checkpoint(found.update, found.tensors, found.meta, warning)
    if reasons:
        raise RunFolderError(
            f"no checkpoint in {folder} is good ({'; '.join(reasons)}): start again with "
            "--overwrite, or bring the files back from a copy"
        )
    return None


@cache
def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on.

    Example:
        >>> sorted(versions())
        ['driftwell', 'numpy', 'python', 'safetensors', 'torch']
    """
    from driftwell import __version__

    found = {"driftwell": __version__, "python": platform.python_version()}
    found |= {package: _installed(package) for package in ("numpy", "safetensors")}
    return {**found, "torch": str(torch.__version__)}


class _Damaged(Exception):
    """One checkpoint cannot be used; the text says why."""


def _updates(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(file.name) for file in folder.iterdir())
    return [int(match.group(1)) for match in matches if match]


def _read(folder: Path, update: int) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load

    meta = _read_meta(folder / f"update-{update:010d}.json")
    file = folder / f"update-{update:010d}.safetensors"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _Damaged(f"{file.name} cannot be read ({error.strerror or error})") from error
    if len(content) != meta.get("size"):
        raise _Damaged(
            f"{file.name} is truncated or damaged ({len(content)} bytes instead of "
            f"{meta.get('size')})"
        )
    if hashlib.sha256(content).hexdigest() != meta.get("sha256"):
        raise _Damaged(f"{file.name} is corrupt (its SHA-256 is not the one noted)")
    try:
        return Checkpoint(update, load(content), meta)
    except (SafetensorError, ValueError) as error:
        raise _Damaged(f"{file.name} is not a safetensors file ({error})") from error


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_bytes())
    except OSError as error:
        raise _Damaged(f"{path.name} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise _Damaged(f"{path.name} is truncated or no JSON") from error
    if not isinstance(meta, dict) or "schema" not in meta:
        raise _Damaged(f"{path.name} describes no checkpoint")
    if meta["schema"] != SCHEMA:
        raise RunFolderError(
            f"{path} has schema version {meta['schema']}, this driftwell reads version {SCHEMA}: "
            f"use the driftwell that wrote it ({_writer(meta)})"
        )
    return meta


def _writer(meta: dict[str, Any]) -> str:
    written = meta.get("versions")
    return f"version {written.get('driftwell', '?')}" if isinstance(written, dict) else "unknown"


def _forget_old(folder: Path) -> None:
    """Remove all but the newest checkpoints, JSON first, and what interrupted saves left."""
    keep = sorted(_updates(folder))[-KEEP:]
    names = {f"update-{update:010d}" for update in keep}
    stale = [f for f in folder.iterdir() if f.name.startswith((".update-", "update-"))]
    for file in sorted(stale, key=lambda f: f.suffix != ".json"):
        if file.stem not in names:
            try:
                file.unlink(missing_ok=True)
            except OSError:
                continue  # an old file that stays does no harm
