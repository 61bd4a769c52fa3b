"""The errors driftwell raises: one sentence each, that a user can act on."""

from __future__ import annotations

import importlib
from types import ModuleType


class DriftwellError(Exception):
    """Any error driftwell raises on purpose; its text is one sentence a user can act on."""


class InvalidInput(DriftwellError, ValueError):
    """An argument, a file or a setting that cannot be used as given."""


class Diverged(DriftwellError, ArithmeticError):
    """A run whose state left the finite numbers; the text names the bound that was broken."""


class NotConverged(DriftwellError, RuntimeError):
    """A run that used up its budget before it reached its tolerance."""


class RunFolderError(DriftwellError, OSError):
    """A run folder or checkpoint that cannot be read, written or continued."""


class MissingExtra(DriftwellError, ImportError):
    """An optional package that is not installed; the text names the extra that brings it."""


def require(package: str, extra: str, purpose: str) -> ModuleType:
    """Import the optional `package`, or say which extra brings it.

    Args:
        package: importable name, such as ``"matplotlib.figure"``.
        extra: name of driftwell's extra, such as ``"plot"``.
        purpose: what the package is needed for, as the object of "needed".

    Raises:
        MissingExtra: the package is not installed.

    Example:
        >>> require("json", "plot", "to draw figures").__name__
        'json'
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        root = package.partition(".")[0]
        raise MissingExtra(
            f"{root} is needed {purpose} and is not installed: "
            f"run `pip install 'driftwell[{extra}]'`"
        ) from error
