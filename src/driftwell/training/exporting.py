"""`export_run`: the model of a run, written for use elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from driftwell.core.errors import InvalidInput, RunFolderError
from driftwell.training.folder_swap import make_with_parents, partial_of, swap_in
from driftwell.training.run_folder import RunFolder

Target = Literal["safetensors", "onnx", "c"]
TARGETS: tuple[Target, ...] = ("safetensors", "onnx", "c")
MARK = "driftwell-export.json"
"""File that says a folder was written by an export, so that another may replace it."""


@final
@dataclass(frozen=True)
class Shipped:
    """What an export wrote.

    Attributes:
        files: all of them.
        facts: what was measured or checked, as words.
        next_step: a sentence: what to do with the folder.
    """

    files: tuple[Path, ...]
    facts: dict[str, str] = field(default_factory=dict)
    next_step: str = ""

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        files = {file.name: file.stat().st_size for file in self.files}
        return {"files": files, "facts": self.facts, "next_step": self.next_step}


@final
@dataclass(frozen=True)
class ExportWish:
    """What an export is asked.

    Attributes:
        target: format.
        folder: where to; absent or empty.
        name: of files and C functions.
        seed: of test vectors.
    """

    target: Target
    folder: Path
    name: str
    seed: int = 0


def export_run(
    path: Path,
    out: Path,
    target: Target,
    *,
    name: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    device: str | None = None,
    note: Callable[[str], None] | None = None,
) -> Shipped:
    """Write the model of a run into a folder.

    It is written beside its place first, so that the folder is whole or absent.

    Args:
        path: the run folder.
        out: an absent or empty folder.
        target: "safetensors", "onnx" or "c".
        name: of files and C functions; None: of the kind.
        seed: of test vectors.
        overwrite: whether what an earlier export wrote may be replaced.
        device: where to compute.
        note: called with sentences the user should read.

    Raises:
        InvalidInput: a target that this kind of run does not have, a name that is no C name, or
            an operator that the target cannot carry; nothing is written.
        RunFolderError: a folder that cannot be read or written.
    """
    if target not in TARGETS:
        raise InvalidInput(f"--to is {', '.join(TARGETS)}, not {target!r}")
    config = RunFolder.open(path).config
    name = config.model if name is None else name
    if not name.isidentifier() or not name.isascii():
        raise InvalidInput(f"{name!r} cannot name a C function: take letters, digits and _")
    _check_free(out, overwrite)
    run = config.kind.load(path, device)
    if run.warning and note:
        note(run.warning)
    made: list[Path] = []
    try:
        partial = partial_of(out)
        shutil.rmtree(partial, ignore_errors=True)
        made = make_with_parents(partial)
        shipped = config.kind.exported(run, ExportWish(target, partial, name, seed))
        (partial / MARK).write_text(f'{{"of": "{config.model}", "to": "{target}"}}\n')
        swap_in(out)
    except OSError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        for folder in made[:1]:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in made[1:]:
            with suppress(OSError):  # not empty: the export stands in it
                folder.rmdir()
    files = tuple(sorted(file for file in out.rglob("*") if file.is_file() and file.name != MARK))
    return Shipped(files, shipped.facts, shipped.next_step.replace(str(partial), str(out)))


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise RunFolderError(f"{out} is a file: give a folder with --out")
    if not any(out.iterdir()):
        return
    if not (out / MARK).is_file():
        raise RunFolderError(f"{out} is not empty and no export of driftwell: give another folder")
    if not overwrite:
        raise RunFolderError(f"{out} holds an export already: add --overwrite, or give another")
