"""A float copy of a quantized model that knows which of its weights are packed, and as what."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

from torch import nn
from torch.nn.utils import parametrize

from driftwell.quantization.formats import Packed
from driftwell.quantization.modules import (
    PackedWeight,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedParameter,
)
from driftwell.quantization.modules.convolution import QuantizedConvolution


@final
@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter of a twin that is packed in the model.

    Attributes:
        name: of the parameter in the twin.
        packed: what it is stored as.
        transposed: whether rows of the packed matrix are columns of the parameter.
    """

    name: str
    packed: Packed
    transposed: bool = False


@final
@dataclass(frozen=True, eq=False)
class Twin:
    """The float copy and its packed weights.

    Attributes:
        model: plain layers with decoded values, in evaluation mode.
        weights: which of its parameters are packed.
    """

    model: nn.Module
    weights: tuple[Weight, ...]


def float_twin(model: nn.Module) -> Twin:
    """A copy of a model with every packed layer and parameter as a float one of the same values.

    Example:
        >>> import torch
        >>> from driftwell.quantization.post_training import Inputs, quantize
        >>> small = quantize(nn.Sequential(nn.Linear(8, 4)), Inputs([torch.eye(8)])).model
        >>> twin = float_twin(small)
        >>> [weight.name for weight in twin.weights], type(twin.model[0]).__name__
        (['0.weight'], 'Linear')
    """
    found: dict[int, tuple[Packed, bool]] = {}
    made: dict[int, nn.Module] = {}
    root = nn.Module()
    root.add_module("model", copy.deepcopy(model))
    for parent in list(root.modules()):
        _parameters(parent, found)
        for name, child in list(parent.named_children()):
            if id(child) in made:
                setattr(parent, name, made[id(child)])
            elif isinstance(child, QuantizedLinear | QuantizedConvolution | QuantizedEmbedding):
                made[id(child)] = _layer(child, found)
                setattr(parent, name, made[id(child)])
    twin: nn.Module = root.model  # type: ignore[assignment]
    twin = twin.eval().requires_grad_(False)
    weights = tuple(
        Weight(name, *found[id(parameter)])
        for name, parameter in twin.named_parameters()
        if id(parameter) in found
    )
    return Twin(twin, weights)


def _layer(
    layer: QuantizedLinear | QuantizedConvolution | QuantizedEmbedding,
    found: dict[int, tuple[Packed, bool]],
) -> nn.Module:
    plain: nn.Module = layer.dequantized()
    found[id(plain.weight)] = (layer.packed_weight.packed, False)
    rounded = getattr(layer, "rounded_input", None)
    return plain if rounded is None else nn.Sequential(rounded, plain)


def _parameters(module: nn.Module, found: dict[int, tuple[Packed, bool]]) -> None:
    """Put decoded parameters in the places of a module's packed ones."""
    if not parametrize.is_parametrized(module):
        return
    held: nn.ModuleDict = module.parametrizations  # type: ignore[assignment]
    for name in list(held):
        first = held[name][0]  # type: ignore[index]
        if not isinstance(first, QuantizedParameter):
            continue
        weight: PackedWeight = first.packed_weight
        values = weight.decode()
        values = values.T.contiguous() if first.transposed else values
        del held[name]
        _forget_property(module, name)
        module.register_parameter(name, parameter := nn.Parameter(values, requires_grad=False))
        found[id(parameter)] = (weight.packed, first.transposed)
    if not len(held):
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]


def _forget_property(module: nn.Module, name: str) -> None:
    """Torch reads a parametrized tensor through a property of the class, which copies share."""
    kind = type(module)
    own = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__", name)}
    module.__class__ = type(kind.__name__, kind.__bases__, own)
