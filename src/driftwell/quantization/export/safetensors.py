"""Quantized models as packed safetensors files, read back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Packed, load_packed, save_packed
from driftwell.quantization.modules import PackedWeight
from driftwell.quantization.post_training.restoring import packed_settings, restored

SETTINGS = "settings"


def export_safetensors(
    model: nn.Module, path: str | Path, notes: Mapping[str, Any] | None = None
) -> int:
    """Write a quantized model to one safetensors file; its bytes.

    Packed weights take their real bits; everything else in the state dict is kept as it is.

    Args:
        model: quantized.
        path: the file.
        notes: plain values to keep beside it.

    Raises:
        InvalidInput: a model without packed weights, or notes under the key "settings".
        RunFolderError: the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from driftwell.quantization.post_training import Inputs, quantize
        >>> small = quantize(nn.Linear(8, 4), Inputs([torch.eye(8)])).model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = export_safetensors(small, folder + "/m.safetensors")
        ...     again = load_safetensors(nn.Linear(8, 4), folder + "/m.safetensors")
        >>> torch.equal(again(torch.eye(8)), small(torch.eye(8)))
        True
    """
    if SETTINGS in (notes or {}):
        raise InvalidInput(f"notes cannot use the key {SETTINGS!r}: give it another name")
    state = dict(model.state_dict())
    weights: dict[str, Packed] = {}
    for prefix, module in model.named_modules():
        if not isinstance(module, PackedWeight):
            continue
        weights[prefix] = module.packed
        for name in [name for name in state if name.startswith(f"{prefix}.")]:
            del state[name]
    if not weights:
        raise InvalidInput(
            f"this {type(model).__name__} has no packed weights: quantize it before it is shipped"
        )
    noted = {SETTINGS: packed_settings(model), **(notes or {})}
    save_packed(path, weights, state, noted)
    return Path(path).stat().st_size


def load_safetensors(model: nn.Module, path: str | Path) -> nn.Module:
    """The quantized model that `export_safetensors` wrote.

    Args:
        model: a float model of the settings that the quantized one was made of; it is left as is.
        path: the file.

    Raises:
        InvalidInput: no such file, a damaged one, or one of another model.
    """
    found = load_packed(path)
    if SETTINGS not in found.notes:
        raise InvalidInput(f"{path} holds packed weights but no model")
    state: dict[str, Tensor] = dict(found.extra)
    for prefix, packed in found.weights.items():
        state |= {f"{prefix}.{name}": t for name, t in PackedWeight(packed).state_dict().items()}
    return restored(model, state, found.notes[SETTINGS])
