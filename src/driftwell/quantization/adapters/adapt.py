"""The verb `adapt`: a copy of a model whose chosen layers carry adapters, and only those train."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.adapters.adapter import Adapter, AdapterDescription, is_linear
from driftwell.quantization.adapters.residual_start import ResidualStart


def adapt(
    model: nn.Module,
    adapter: AdapterDescription,
    targets: str | Sequence[str] = "*",
    *,
    start: ResidualStart | None = None,
) -> nn.Module:
    """A copy of `model` with an adapter around each target layer; nothing else trains.

    A target is the name of a linear layer, its last parts (``"query"`` for every
    ``blocks.0.attention.query``), or a pattern of shell style (``"blocks.?.*"``). A layer that is
    reached by two names gets one adapter, shared.

    Args:
        model: network with `nn.Linear` or `QuantizedLinear` layers; it is not changed.
        adapter: description such as `LoRA(rank=8)`, `DiaBlo(blocks=4)` or `CDKA(2, 2, r=8)`.
        targets: names or patterns.
        start: where the updates start; None is at zero, so that the copy computes what `model`
            does.

    Raises:
        InvalidInput: a target that matches no layer, or a layer the adapter does not fit.

    Example:
        >>> import torch
        >>> from driftwell.quantization.adapters import LoRA
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> tuned = adapt(net, LoRA(rank=2), "2")
        >>> [name for name, p in tuned.named_parameters() if p.requires_grad]
        ['2.lora_A', '2.lora_B']
        >>> x = torch.ones(1, 8)
        >>> bool((tuned(x) == net(x)).all())
        True
    """
    if not isinstance(adapter, AdapterDescription):
        raise InvalidInput(
            f"adapter must be a description such as LoRA(rank=8), got {type(adapter).__name__}"
        )
    names = matching_layers(model, targets)
    tuned = copy.deepcopy(model).requires_grad_(False)
    made: dict[int, Adapter] = {}
    for name in names:
        layer = tuned.get_submodule(name)
        if isinstance(layer, Adapter):
            continue  # its owner has two names, and was met under the first
        if id(layer) not in made:
            made[id(layer)] = _attached(adapter, layer, name, len(made), start)
        if name == "":
            return made[id(layer)]
        owner, _, last = name.rpartition(".")
        tuned.get_submodule(owner).register_module(last, made[id(layer)])
    return tuned


def matching_layers(model: nn.Module, targets: str | Sequence[str] = "*") -> list[str]:
    """Names of the linear layers that `targets` mean, in the model's order.

    Args:
        model: network.
        targets: names, last parts of names, or patterns; see `adapt`.

    Raises:
        InvalidInput: no linear layer at all, or a target that matches none.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> matching_layers(net)
        ['0', '2']
    """
    wanted = [targets] if isinstance(targets, str) else list(targets)
    layers = list(_linear_names(model))
    if not layers:
        raise InvalidInput(
            f"{type(model).__name__} has no linear layer without an adapter; "
            "merge the adapters it has before adding others"
        )
    for target in wanted:
        if not any(_means(target, name) for name in layers):
            raise InvalidInput(f"no layer matches {target!r}; there are {', '.join(layers)}")
    if not wanted:
        raise InvalidInput(f"no targets were given; there are {', '.join(layers)}")
    return [name for name in layers if any(_means(target, name) for target in wanted)]


def _means(target: str, name: str) -> bool:
    return fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")


def _linear_names(model: nn.Module) -> list[str]:
    """Names of the layers an adapter can wrap, shared ones under each of their names.

    Not those inside adapters, nor in torch's attention, which reads their weights and calls none.
    """
    modules = list(model.named_modules(remove_duplicate=False))
    closed = tuple(
        f"{name}." if name else ""
        for name, module in modules
        if isinstance(module, Adapter | nn.MultiheadAttention)
    )
    return [
        name
        for name, module in modules
        if is_linear(module) and not (closed and name.startswith(closed))
    ]


def _attached(
    description: AdapterDescription,
    layer: nn.Module,
    name: str,
    index: int,
    start: ResidualStart | None,
) -> Adapter:
    """The adapter of one layer; what it refuses is said with the layer's name."""
    try:
        adapter = description.attach(layer, index)
        if start is not None:
            start.put(name, adapter)
    except InvalidInput as error:
        raise InvalidInput(f"layer {name!r}: {error}") from error
    return adapter


def adapters_of(model: nn.Module) -> dict[str, Adapter]:
    """Adapters of a model by the name of their layer, shared ones once.

    Raises:
        InvalidInput: it has none.

    Example:
        >>> from driftwell.quantization.adapters import LoRA
        >>> net = adapt(nn.Sequential(nn.Linear(8, 4)), LoRA(rank=2))
        >>> [(name, each.parameter_count) for name, each in adapters_of(net).items()]
        [('0', 24)]
    """
    found: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, Adapter)}
    if not found:
        raise InvalidInput(
            f"{type(model).__name__} has no adapters; make some with adapt(model, LoRA(rank=8))"
        )
    return found


def parameter_count(model: nn.Module) -> int:
    """How many numbers train in the adapters of a model.

    Raises:
        InvalidInput: it has none.

    Example:
        >>> from driftwell.quantization.adapters import DiaBlo
        >>> parameter_count(adapt(nn.Sequential(nn.Linear(8, 4)), DiaBlo(blocks=2)))
        16
    """
    return sum(adapter.parameter_count for adapter in adapters_of(model).values())
