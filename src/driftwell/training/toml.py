"""TOML as run folders need it: flat keys, lists of numbers, one level of tables."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from driftwell.core.errors import InvalidInput

_ESCAPES = {
    '"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r",
}  # fmt: skip


def dumps(table: Mapping[str, Any]) -> str:
    """TOML text of a table; sub-tables come last, values that are None are left out.

    Raises:
        InvalidInput: a value that is no text, number, truth value, list of these, or table.

    Example:
        >>> print(dumps({"seed": 3, "recipe": {"scaling": "atanh"}}), end="")
        seed = 3
        <BLANKLINE>
        [recipe]
        scaling = "atanh"
    """
    plain = [(k, v) for k, v in table.items() if not isinstance(v, Mapping) and v is not None]
    lines = [f"{key} = {_value(value)}" for key, value in plain]
    for name, sub in table.items():
        if isinstance(sub, Mapping):
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {_value(value)}" for key, value in sub.items() if value is not None]
    return "\n".join(lines) + "\n"


def read(path: Path) -> dict[str, Any]:
    """Content of a TOML file.

    Raises:
        InvalidInput: the file is not there, cannot be read, or is no TOML; the line is named.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(f"{path} does not exist: check the path of the settings") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text: {error.reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not valid TOML: {error}") from error


def unknown(name: str, known: Iterable[str], where: str, what: str = "key") -> InvalidInput:
    """The error of a name that does not exist, with the nearest that does.

    Example:
        >>> print(unknown("sede", ["seed", "data"], "run.toml"))
        run.toml: unknown key 'sede', did you mean 'seed'?
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    return InvalidInput(f"{prefix(where)}unknown {what} {name!r}, {hint}")


def prefix(where: str) -> str:
    """Beginning of a sentence about a value that `where` gave; nothing for the command line."""
    return f"{where}: " if where else ""


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return f'"{"".join(_character(c) for c in value)}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(entry) for entry in value)}]"
    raise InvalidInput(f"{value!r} of type {type(value).__name__} cannot be written as TOML")


def _float(value: float) -> str:
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    text = repr(value)
    return text if any(mark in text for mark in ".e") else f"{text}.0"


def _character(c: str) -> str:
    if c in _ESCAPES:
        return _ESCAPES[c]
    return f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c
