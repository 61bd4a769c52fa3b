"""`RunConfig`: everything a run is made from, as a frozen value and as config.toml."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final

from driftwell.core.errors import InvalidInput, RunFolderError
from driftwell.training import toml
from driftwell.training.kinds import Kind, find_kind

SCHEMA = 1
DEFAULT_MODEL = "nlm"
SPLITS = ("train", "all")
PRECISIONS = ("highest", "high", "medium", "bfloat16")

_TYPES: dict[str, Any] = {
    "schema": int, "model": str, "data": str, "labels": str, "classes": list[int], "resize": int,
    "limit": int, "split": str, "preset": str, "seed": int, "updates": int, "minutes": float,
    "checkpoint_every": int, "device": str, "threads": int, "precision": str, "recipe": dict,
}  # fmt: skip
KEYS = tuple(_TYPES)
_NAMES_OF_TYPES = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
    dict: "a table", list[int]: "a list of whole numbers",
}  # fmt: skip


@final
@dataclass(frozen=True)
class DataConfig:
    """Which images a run learns from.

    Attributes:
        source: a name of the kind's, such as ``digits``, ``mnist`` or ``fashion``, or a path.
        labels: path of a file with labels, for a source that has none of its own.
        classes: labels to keep; empty for all.
        resize: side of the square images that are made of them; None leaves them.
        limit: only the first so many, in file order; None leaves it to the recipe.
        split: ``"train"``, the training part, the rest being held out; ``"all"``, everything.

    Raises:
        InvalidInput: an unknown split, or a number below 1.
    """

    source: str = "digits"
    labels: str | None = None
    classes: tuple[int, ...] = ()
    resize: int | None = None
    limit: int | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise toml.unknown(self.split, SPLITS, "", "part of the data (split)")
        for name in ("resize", "limit"):
            _at_least(name, getattr(self, name), 1)


@final
@dataclass(frozen=True)
class RunConfig:
    """Settings of a run; what config.toml holds.

    Attributes:
        data: which images.
        preset: name of the preset the recipe started from.
        recipe: all training settings, a frozen dataclass of the model's own.
        seed: of everything random, 0 <= seed < 2^64.
        updates: stop after so many updates.
        minutes: stop after so much wall-clock time; without both, `recipe.updates` updates.
        checkpoint_every: updates between checkpoints; None: every half minute.
        device: torch's name of it, such as ``"cpu"``.
        threads: of the processor; None leaves it to torch.
        precision: of float32 products, ``highest``, ``high`` or ``medium`` as torch names them,
            or ``bfloat16``.
        model: kind of model, one of `driftwell.training.kinds.KINDS`.
        schema: version of this format.

    Raises:
        InvalidInput: a value out of range, both updates and minutes, or a recipe of another kind.

    Example:
        >>> RunConfig(seed=3).budget_updates == RunConfig().recipe.updates
        True
    """

    HEADER: ClassVar[str] = "# driftwell run"

    data: DataConfig = field(default_factory=DataConfig)
    preset: str = "default"
    recipe: Any = field(default_factory=lambda: find_kind(DEFAULT_MODEL).preset("default"))
    seed: int = 0
    updates: int | None = None
    minutes: float | None = None
    checkpoint_every: int | None = None
    device: str = "cpu"
    threads: int | None = None
    precision: str = "highest"
    model: str = DEFAULT_MODEL
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        kind = self.kind
        if not isinstance(self.recipe, kind.recipe):
            raise InvalidInput(
                f"a run of {self.model} needs a {kind.recipe.__name__}, got "
                f"{type(self.recipe).__name__}: take one of its presets"
            )
        kind.check(self)
        if self.precision not in PRECISIONS:
            raise toml.unknown(self.precision, PRECISIONS, "", "precision")
        if not 0 <= self.seed < 2**64:
            raise InvalidInput(f"the seed must be in 0..2^64-1, got {self.seed}")
        if self.updates is not None and self.minutes is not None:
            raise InvalidInput(
                f"a run stops by updates or by minutes: give one, not both ({self.updates} "
                f"updates and {self.minutes:g} minutes)"
            )
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise InvalidInput(f"minutes must be positive and finite, got {self.minutes:g}")
        for name in ("updates", "checkpoint_every", "threads"):
            _at_least(name, getattr(self, name), 1)

    @property
    def kind(self) -> Kind:
        """What this kind of model is trained and read back by."""
        return find_kind(self.model)

    @property
    def budget_updates(self) -> int | None:
        """Updates to stop at; None if time decides."""
        if self.minutes is not None:
            return None
        length: int = self.recipe.updates
        return length if self.updates is None else self.updates

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str) -> RunConfig:
        """The settings that keys of config.toml describe; what is absent keeps its default.

        Args:
            values: keys as in `KEYS`; `recipe` is a table of what differs from the preset.
            where: the file that has them, to begin error sentences with; empty for options.

        Raises:
            InvalidInput: an unknown key (the nearest is named), a wrong type or a bad value.

        Example:
            >>> RunConfig.from_values({"seed": 1, "recipe": {"chains": 8}}, "here").recipe.chains
            8
        """
        for key, value in values.items():
            if key not in _TYPES:
                raise toml.unknown(key, KEYS, where)
            _check_type(key, value, _TYPES[key], where)
        if values.get("schema", SCHEMA) != SCHEMA:
            raise RunFolderError(
                f"{toml.prefix(where)}schema version {values['schema']}, this driftwell reads "
                f"version {SCHEMA}: use the driftwell that wrote it"
            )
        data = {k: values[k] for k in ("labels", "resize", "limit", "split") if k in values}
        name = values.get("preset", "default")
        own = ("seed", "updates", "minutes", "checkpoint_every", "device", "threads",
               "precision", "model")  # fmt: skip
        try:
            kind = find_kind(values.get("model", DEFAULT_MODEL))
            return cls(
                data=DataConfig(
                    source=values.get("data", kind.sources[0]),
                    classes=tuple(values.get("classes", ())),
                    **data,
                ),
                preset=name,
                recipe=_recipe(kind, name, values, where),
                **{key: values[key] for key in own if key in values},
            )
        except InvalidInput as error:
            if str(error).startswith(toml.prefix(where)):
                raise
            raise InvalidInput(f"{toml.prefix(where)}{error}") from error

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """The settings in a TOML file.

        Raises:
            InvalidInput: not there, no TOML, or a bad key or value; the sentence names the file.
            RunFolderError: another schema version.
        """
        return cls.from_values(read_values(path), str(path))

    def to_values(self) -> dict[str, Any]:
        """Keys and values that `from_values` reads back, the recipe in full."""
        data = self.data
        return {
            "schema": self.schema, "model": self.model, "data": data.source,
            "labels": data.labels, "classes": list(data.classes), "resize": data.resize,
            "limit": data.limit, "split": data.split, "preset": self.preset, "seed": self.seed,
            "updates": self.updates, "minutes": self.minutes,
            "checkpoint_every": self.checkpoint_every, "device": self.device,
            "threads": self.threads, "precision": self.precision,
            "recipe": _settings_of(self.recipe),
        }  # fmt: skip

    def to_toml(self) -> str:
        """Text of config.toml."""
        return f"{self.HEADER}\n{toml.dumps(self.to_values())}"

    def with_budget(self, updates: int | None, minutes: float | None) -> RunConfig:
        """The same run with another budget; the old one if both are None."""
        if updates is None and minutes is None:
            return self
        return replace(self, updates=updates, minutes=minutes)


def read_values(path: Path) -> dict[str, Any]:
    """Keys and values of a settings file.

    A run's own config.toml has its recipe in full. Settings that this version knows and that one
    did not are set to their defaults, not to what the preset says today: the run stays the same.

    Raises:
        InvalidInput: not there, or no TOML.
    """
    values = toml.read(path)
    of_a_run = path.read_text(encoding="utf-8").startswith(RunConfig.HEADER)
    if of_a_run and isinstance(values.get("recipe"), dict):
        plain = find_kind(values.get("model", DEFAULT_MODEL)).recipe()
        values["recipe"] = {**_settings_of(plain), **values["recipe"]}
    return values


R = TypeVar("R")


def change_recipe(recipe: R, changes: Mapping[str, Any], where: str) -> R:
    """`recipe` with some settings changed, names and types checked.

    Raises:
        InvalidInput: an unknown setting (the nearest is named), a wrong type or a bad value.

    Example:
        >>> change_recipe(find_kind("nlm").preset("default"), {"chains": 8}, "here").chains
        8
    """
    hints = typing.get_type_hints(type(recipe))
    checked = {}
    for key, value in changes.items():
        if key not in hints:
            raise toml.unknown(key, hints, where, "setting of the recipe")
        checked[key] = _check_type(key, value, hints[key], where)
    changed: R = replace(recipe, **checked)  # type: ignore[type-var]
    return changed


def _recipe(kind: Kind, name: str, values: Mapping[str, Any], where: str) -> Any:
    changes = {**values.get("recipe", {}), **kind.changes_for(values.get("precision", ""))}
    plain = kind.recipe()
    complete = set(_settings_of(plain)) <= set(changes)
    return change_recipe(plain if complete else kind.preset(name), changes, where)


def _settings_of(recipe: Any) -> dict[str, Any]:
    return {f.name: getattr(recipe, f.name) for f in fields(recipe)}


def parse_setting(text: str, model: str = DEFAULT_MODEL) -> tuple[str, Any]:
    """Name and value of a ``--set name=value``, the value of the setting's own type.

    Raises:
        InvalidInput: no ``=``, an unknown setting, or a value of another type.

    Example:
        >>> parse_setting("chains=8"), parse_setting("bias=false")
        (('chains', 8), ('bias', False))
    """
    name, separator, value = text.partition("=")
    name, value = name.strip().replace("-", "_"), value.strip()
    if not separator:
        raise InvalidInput(f"--set wants name=value, such as --set chains=200, got {text!r}")
    hints = typing.get_type_hints(find_kind(model).recipe)
    if name not in hints:
        raise toml.unknown(name, hints, "--set", "setting of the recipe")
    kind = _plain_type(hints[name])
    try:
        if kind is bool:
            return name, {"true": True, "false": False}[value.lower()]
        return name, kind(value)
    except (ValueError, KeyError):
        raise InvalidInput(
            f"--set {name} must be {_NAMES_OF_TYPES.get(kind, kind.__name__)}, got {value!r}"
        ) from None


def _plain_type(hint: Any) -> Any:
    """int of ``int`` and of ``int | None``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return type(typing.get_args(hint)[0])
    return hint


def _check_type(key: str, value: Any, hint: Any, where: str) -> Any:
    kind = _plain_type(hint)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind == list[int]:
        fits = isinstance(value, list) and all(type(entry) is int for entry in value)
    elif kind is dict:
        fits = isinstance(value, Mapping)
    else:
        fits = type(value) is kind or (value is None and kind is not hint)
    if not fits:
        expected = _NAMES_OF_TYPES.get(kind, str(kind))
        raise InvalidInput(f"{toml.prefix(where)}{key} must be {expected}, got {value!r}")
    return value


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise InvalidInput(f"{name} must be at least {least}, got {value}")
