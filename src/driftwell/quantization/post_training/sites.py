"""Where the weights of a model sit, and how a packed one takes the place of a float one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from driftwell.quantization.modules import (
    PackedWeight,
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedParameter,
    Recurrent,
    RecurrentCell,
)

_LINEAR = (nn.Linear, NonDynamicallyQuantizableLinear)
_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
_CONVOLUTIONS: dict[type[nn.Module], type[QuantizedConv1d] | type[QuantizedConv2d]] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
}
# Layers of torch whose matrices no packed layer can hold.
_OTHERS = (
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Conv3d, nn.Bilinear,
    nn.EmbeddingBag,
)  # fmt: skip


@final
class Root(nn.Module):
    """Holds a model, so that the model itself can be replaced like any of its layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


@final
@dataclass(eq=False)
class Site:
    """A weight of a model, and everywhere it is held.

    Attributes:
        name: of the layer it belongs to, or its own.
        kind: class of the layer, or ``"parameter"``.
        weight: the float weight (R, ...).
        groups: of a convolution.
        places: (layer or owner, name of the parameter) for all who hold it.
        names: all names it has.
        transposed: whether it is used as x @ W, so that its columns are quantized as rows.
        iterated: whether it is used several times in a call of the model.
    """

    name: str
    kind: str
    weight: nn.Parameter
    groups: int = 1
    places: list[tuple[nn.Module, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    transposed: bool = False
    iterated: bool = False

    @property
    def matrix(self) -> Tensor:
        """The weight with the outputs first."""
        weight = self.weight.detach()
        return weight.T if self.transposed else weight

    def write(self, values: Tensor) -> None:
        """Overwrite the float weight, so that what follows sees rounded values."""
        with torch.no_grad():
            self.weight.copy_(values.T if self.transposed else values)

    def unseen(self, altered: bool) -> str:
        """Why no product with this weight was seen."""
        owner = self.places[0][0]
        if isinstance(owner, _OTHERS):
            return f"a {type(owner).__name__} cannot be quantized"
        if altered:
            return "it is used only through a function of it that is no multiple of it"
        return "the calibration never multiplied it with a state"


def sites(root: Root) -> list[Site]:
    """All weights with two axes or more, in the order in which the model holds them."""
    found: dict[int, Site] = {}
    for module_name, module in root.model.named_modules():
        if isinstance(module, PackedWeight):
            continue
        for own, parameter in module._parameters.items():
            if parameter is None or parameter.ndim < 2 or not parameter.is_floating_point():
                continue
            kind = _kind(module) if own == "weight" else "parameter"
            name = ".".join(filter(None, (module_name, own)))
            if kind != "parameter" and module_name:
                name = module_name
            site = found.setdefault(id(parameter), Site(name, kind, parameter))
            if kind in ("Conv1d", "Conv2d"):
                site.groups = int(module.groups)
            if site.kind == "Embedding" and kind != "Embedding":
                site.name, site.kind = name, kind  # a table that is also a matrix has inputs
            site.places.append((module, own))
            site.names.append(name)
    return list(found.values())


def taken_apart(root: Root) -> None:
    """Write out what hides matrices: recurrent nets as linear layers, parametrized weights."""
    for holder, name, module in list(_children(root)):
        if isinstance(module, nn.RNNBase):
            setattr(holder, name, Recurrent.from_float(module))
        elif isinstance(module, _CELLS):
            setattr(holder, name, RecurrentCell.from_float(module))
    for module in list(root.modules()):
        if _kind(module) != "parameter" and parametrize.is_parametrized(module):
            _exchange(root, module, _written_out(module))


def _written_out(module: nn.Module) -> nn.Module:
    """A plain layer with the values that parametrizations give.

    Torch's own removal changes the layer's class, which a copy shares with the model it is of.
    """
    kind = _plain(module)
    plain: nn.Module = kind.__new__(kind)
    plain.__dict__.update(module.__dict__)
    plain._parameters, plain._modules = dict(module._parameters), dict(module._modules)
    names = list(plain._modules.pop("parametrizations"))  # type: ignore[call-overload]
    for name in names:
        plain.register_parameter(name, nn.Parameter(getattr(module, name).detach().clone()))
    return plain


def replace(root: Root, site: Site, weight: PackedWeight) -> None:
    """Put one packed weight in every place the float one had."""
    for module, own in site.places:
        made = _packed_layer(module, own, weight)
        if made is None:
            QuantizedParameter.replace(module, own, weight, site.transposed)
        else:
            made.train(module.training)
            _exchange(root, module, made)


def _packed_layer(module: nn.Module, own: str, weight: PackedWeight) -> nn.Module | None:
    kind = _kind(module) if own == "weight" else "parameter"
    if kind == "Linear" and isinstance(module, nn.Linear):
        return QuantizedLinear(weight, module.bias)
    if kind == "Embedding" and isinstance(module, nn.Embedding):
        return QuantizedEmbedding(weight, module.padding_idx)
    if isinstance(module, nn.Conv1d | nn.Conv2d) and kind in ("Conv1d", "Conv2d"):
        return _CONVOLUTIONS[_plain(module)](weight, module)
    return None


def _kind(module: nn.Module) -> str:
    """The layer's class where a packed layer can stand for it; a changed one keeps its class."""
    plain = _plain(module)
    hooked = any(getattr(module, f"_{kind}") for kind in ("forward_hooks", "forward_pre_hooks"))
    if hooked:
        return "parameter"
    if plain in _LINEAR:
        return "Linear"
    if plain in _CONVOLUTIONS:
        return plain.__name__
    if plain is nn.Embedding and getattr(module, "max_norm", None) is None:
        return "Embedding"
    return "parameter"


def _plain(module: nn.Module) -> type[nn.Module]:
    """The class without what torch's parametrizations put around it."""
    kind = type(module)
    if parametrize.is_parametrized(module):
        return kind.__mro__[1]
    return kind


def _children(root: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for holder in root.modules():
        for name, module in holder.named_children():
            yield holder, name, module


def _exchange(root: Root, old: nn.Module, new: nn.Module) -> None:
    for holder in list(root.modules()):
        for name, module in list(holder._modules.items()):
            if module is old:
                holder._modules[name] = new
