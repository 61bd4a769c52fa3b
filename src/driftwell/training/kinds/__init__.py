"""Kinds of runs: what `train`, `measure` and `report` need to know of each kind of model."""

from __future__ import annotations

from importlib import import_module

from driftwell.training import toml
from driftwell.training.kinds.kind import Kind

__all__ = ["KINDS", "Kind", "find_kind"]

KINDS = ("nlm", "deq", "ignn", "lpn")


def find_kind(name: str) -> Kind:
    """The kind of that name; its module, and the models in it, are imported only now.

    Raises:
        InvalidInput: no such kind; the sentence names the nearest.

    Example:
        >>> find_kind("deq").title
        'Deep equilibrium classifier'
    """
    if name not in KINDS:
        raise toml.unknown(name, KINDS, "", "model")
    found: Kind = import_module(f"driftwell.training.kinds.{name}").KIND
    return found
