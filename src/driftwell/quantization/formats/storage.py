"""Packed weights in one safetensors file, read back bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from driftwell.core.atomic import write_atomically
from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats.quantized import Packed

FORMAT = "driftwell-packed-1"


@final
@dataclass(frozen=True, eq=False)
class PackedFile:
    """What a file of packed weights holds.

    Attributes:
        weights: packed weights by name.
        extra: tensors kept as they were, by name.
        notes: plain values kept beside them.
    """

    weights: dict[str, Packed]
    extra: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def save_packed(
    path: str | Path,
    weights: Mapping[str, Packed],
    extra: Mapping[str, Tensor] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write packed weights, and what was not quantized, to one safetensors file, whole or not.

    Args:
        path: the file.
        weights: packed weights by name.
        extra: other tensors by name.
        notes: values that JSON can hold.

    Raises:
        InvalidInput: two tensors would have one name.
        RunFolderError: the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from driftwell.quantization.formats import Uniform
        >>> packed = Uniform(3).encode(torch.randn(4, 16)).pack()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_packed(folder + "/w.safetensors", {"layer": packed})
        ...     again = load_packed(folder + "/w.safetensors").weights["layer"]
        >>> torch.equal(again.data, packed.data)
        True
    """
    tensors = {name: part.detach().contiguous().cpu() for name, part in (extra or {}).items()}
    for name, packed in weights.items():
        for part, value in packed.tensors().items():
            key = f"{name}.{part}"
            if key in tensors:
                raise InvalidInput(f"two tensors of the file would be called {key}")
            tensors[key] = value.detach().contiguous().cpu()
    metadata = {
        "format": FORMAT,
        "packed": json.dumps({name: packed.description() for name, packed in weights.items()}),
        "notes": json.dumps(dict(notes or {})),
        "sha256": _digest(tensors),
    }
    write_atomically(Path(path), save(tensors, metadata))


def load_packed(path: str | Path) -> PackedFile:
    """What `save_packed` wrote.

    Raises:
        InvalidInput: there is no such file, or it is damaged or of another kind.

    Example:
        >>> load_packed("no-such.file")
        Traceback (most recent call last):
        ...
        driftwell.core.errors.InvalidInput: there is no file of packed weights at no-such.file
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"there is no file of packed weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"{path} is damaged or not a safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise InvalidInput(f"{path} is a safetensors file without packed weights of driftwell")
    if metadata.get("sha256") != _digest(tensors):
        raise InvalidInput(f"{path} is damaged: its bytes are not the ones that were written")
    weights = {}
    for name, description in json.loads(metadata["packed"]).items():
        parts = {
            part: tensors.pop(f"{name}.{part}")
            for part in ("codes", "scale", "zero", "levels")
            if f"{name}.{part}" in tensors
        }
        weights[name] = Packed.from_tensors(parts, description)
    return PackedFile(weights, tensors, json.loads(metadata["notes"]))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.contiguous().reshape(-1).view(uint8).numpy().tobytes())
    return digest.hexdigest()
