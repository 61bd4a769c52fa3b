"""A quantized model built again from its state dict, around a float model of its settings."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Grid, Packed
from driftwell.quantization.modules import PackedWeight, QuantizedParameter
from driftwell.quantization.post_training.sites import Root, replace, sites, taken_apart

_HELD, _FORM = "packed_weight", "form"
_PARAMETER = re.compile(r"(?:(.*)\.)?parametrizations\.([^.]+)\.0")

Settings = Mapping[str, Mapping[str, Any]]


def packed_settings(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What a state dict does not say of a quantized model's weights, as plain values by name.

    Example:
        >>> from driftwell.quantization.post_training import Inputs, quantize
        >>> packed_settings(quantize(nn.Linear(8, 4), Inputs([torch.eye(8)])).model)
        {'': {'activations': 'float', 'exact': False, 'transposed': False}}
    """
    found = {}
    for prefix, holder in model.named_modules():
        held = getattr(holder, _HELD, None)
        if isinstance(held, PackedWeight):
            found[_name(prefix)] = {
                "activations": held.activations,
                "exact": held.exact,
                "transposed": isinstance(holder, QuantizedParameter) and holder.transposed,
            }
    return found


def restored(model: nn.Module, state: Mapping[str, Tensor], settings: Settings) -> nn.Module:
    """A copy of a float model with the packed weights and all else that `state` holds.

    Args:
        model: a model of the settings that the quantized one was made of; its values do not
            matter, and it is left as it is.
        state: the state dict of a quantized model.
        settings: of its weights, as `packed_settings` gives them.

    Raises:
        InvalidInput: the state holds weights that this model has no place for, or lacks some.

    Example:
        >>> from driftwell.quantization.post_training import Inputs, quantize
        >>> small = quantize(nn.Linear(8, 4), Inputs([torch.eye(8)])).model
        >>> again = restored(nn.Linear(8, 4), small.state_dict(), packed_settings(small))
        >>> torch.equal(again(torch.eye(8)), small(torch.eye(8)))
        True
    """
    root = Root(copy.deepcopy(model))
    taken_apart(root)
    places = {name: site for site in sites(root) for name in site.names}
    done: set[int] = set()
    for name, chosen in settings.items():
        site = places.get(name if name else "weight")
        if site is None:
            raise InvalidInput(
                f"the stored weight {name!r} has no place in this {type(model).__name__}: build "
                "the model with the settings it was quantized with"
            )
        if id(site) not in done:
            done.add(id(site))
            site.transposed = bool(chosen["transposed"])
            packed = _packed(state, name, site.weight)
            replace(root, site, PackedWeight(packed, chosen["activations"], exact=chosen["exact"]))
    try:
        root.model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise InvalidInput(
            f"the stored weights are not those of a quantized {type(model).__name__}: {error}"
        ) from error
    return root.model


def _name(prefix: str) -> str:
    """Name of the layer, or of the parameter, whose packed weight the module `prefix` holds."""
    parameter = _PARAMETER.fullmatch(prefix)
    return ".".join(filter(None, parameter.groups())) if parameter else prefix


def _packed(state: Mapping[str, Tensor], name: str, like: Tensor) -> Packed:
    owner, _, own = name.rpartition(".")
    parameter = ".".join(filter(None, (owner, "parametrizations", own, "0")))
    prefixes = [".".join(filter(None, (place, _HELD, ""))) for place in (name, parameter)]
    for prefix in (p if p.endswith(".") else f"{p}." for p in prefixes):
        if f"{prefix}{_FORM}" in state:
            bits, group_size, columns, count, *shape = state[f"{prefix}{_FORM}"].tolist()
            scale = state[f"{prefix}scale"]
            levels = state.get(f"{prefix}levels", torch.arange(count).to(scale))
            grid = Grid(levels, scale, state[f"{prefix}zero"], group_size, bits)
            data, rows = state[f"{prefix}data"], like.numel() // max(columns, 1)
            if rows * columns != like.numel() or data.shape != (rows, -(-columns * bits // 8)):
                raise InvalidInput(
                    f"the packed weight {name!r} is {tuple(data.shape)} bytes, which are not "
                    f"{bits} bits for each entry of {tuple(like.shape)}"
                )
            return Packed(data, grid, columns, tuple(shape), like.dtype)
    raise InvalidInput(f"the stored weights lack the packed weight {name!r}")
