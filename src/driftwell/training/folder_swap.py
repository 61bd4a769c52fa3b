"""A folder that takes the place of another whole, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from driftwell.core.errors import InvalidInput


def partial_of(place: Path) -> Path:
    """Where a folder is made that is to stand at `place`: beside it, and hidden.

    What a kill in the middle of `swap_in` took away is put back first.

    Raises:
        InvalidInput: the folder that the user stands in, which cannot be moved under their feet.

    Example:
        >>> partial_of(Path("/runs/a")).as_posix()
        '/runs/.a.partial'
    """
    place = place.resolve()
    if place == Path.cwd() or place in Path.cwd().parents:
        raise InvalidInput(f"{place} is the folder you are in: give another with --out")
    old = _old(place)
    if old.exists() and not place.exists():
        old.rename(place)
    return place.with_name(f".{place.name}.partial")


def swap_in(place: Path) -> None:
    """Put the folder at `partial_of(place)` in place of what is there, which goes.

    Raises:
        OSError: it cannot be moved; what was there stays.
    """
    partial, place = partial_of(place), place.resolve()
    old = _old(place)
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    try:
        partial.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def make_with_parents(folder: Path) -> list[Path]:
    """Make a folder and the parents it lacks; what was made, the innermost first."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True)
    return made


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")
