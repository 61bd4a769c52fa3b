"""Files that are whole or absent: written beside their place, flushed to the disk, then moved."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from driftwell.core.errors import RunFolderError


def write_atomically(path: Path, content: bytes, *, durable_name: bool = True) -> None:
    """Write `content` to `path` so that a kill at any moment leaves the old file or the new one.

    The temporary name starts with a dot and ends in ``.tmp``, so no reader takes it for a result.

    Args:
        path: the file.
        content: all of it.
        durable_name: have the folder's list of names on the disk before returning, too.

    Raises:
        RunFolderError: the file cannot be written; nothing of it is left behind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder, "a.txt"), b"whole")
        ...     [file.name for file in Path(folder).iterdir()]
        ['a.txt']
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable_name:
            sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Have the folder's list of names on the disk too, where the system offers that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> RunFolderError:
    """The error of a file or folder that cannot be written, with the system's reason."""
    return RunFolderError(
        f"{path} cannot be written: {error.strerror or error}; "
        "free some space or choose a folder you may write to"
    )
