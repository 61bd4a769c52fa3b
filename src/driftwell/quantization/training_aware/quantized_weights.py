"""Layers that compute with quantized weights while an optimizer moves the float ones."""

from __future__ import annotations

import copy
import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast, final

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.formats import Format, Quantized
from driftwell.quantization.modules import QuantizedConv1d, QuantizedConv2d, QuantizedLinear
from driftwell.quantization.training_aware.straight_through import (
    IdentitySTE,
    StraightThrough,
    through,
)

__all__ = [
    "FakeQuantized",
    "SeenWeight",
    "WeightQuantizer",
    "hardened",
    "quantization_aware",
    "seen_weights",
]

BINARY_CONNECT = Paper(
    key="courbariaux2015binaryconnect",
    title="BinaryConnect: Training Deep Neural Networks with binary weights during propagations",
    authors="Courbariaux, Matthieu and Bengio, Yoshua and David, Jean-Pierre",
    year=2015,
    arxiv="1511.00363",
    venue="NeurIPS 2015",
)
_LINEAR = (nn.Linear, NonDynamicallyQuantizableLinear)
_PACKED: dict[type[nn.Module], type[QuantizedConv1d] | type[QuantizedConv2d]] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
}


class WeightQuantizer(nn.Module, ABC):
    """What a layer's weight is seen through: one subclass for each way of training it.

    A layer has one of its own, so that it may hold parameters (a learned step) and buffers.
    """

    @abstractmethod
    def forward(self, w: Tensor) -> Tensor:
        """The weight that the layer computes with, differentiable in w and own parameters."""

    @abstractmethod
    def quantized(self, w: Tensor) -> Quantized:
        """The codes of w that ship."""


Quantizing: TypeAlias = Format | Callable[[Tensor], WeightQuantizer]
"""A format, or what makes a weight's quantizer from the start weight."""


@final
class FakeQuantized(WeightQuantizer):
    """A weight rounded to a format, fitted anew at every call, as in Courbariaux, Bengio and
    David, *BinaryConnect*, 2015, arXiv:1511.00363.

        forward Q(w),    backward dL/dw = g'(w) dL/dQ,   g' = 1 by default

    so that a gradient step is w <- w - lr grad f(Q(w)): the gradient at the quantized weight
    moves the float one.

    Args:
        format: of the weight.
        ste: the surrogate derivative g'.

    Example:
        >>> from driftwell.quantization.formats import Binary
        >>> FakeQuantized(Binary())(torch.tensor([[-1.0, 0.5, 3.0]]))
        tensor([[-1.5000,  1.5000,  1.5000]])
    """

    papers = (BINARY_CONNECT,)

    def __init__(self, format: Format, ste: StraightThrough = IdentitySTE()) -> None:
        super().__init__()
        self.format, self.ste = format, ste

    def forward(self, w: Tensor) -> Tensor:
        """Q(w) in the shape and dtype of w."""
        return through(self.format.fake(w), w, self.ste)

    def quantized(self, w: Tensor) -> Quantized:
        """w in the format."""
        return self.format.encode(w)

    def extra_repr(self) -> str:
        """Format and surrogate."""
        return f"{self.format}, {self.ste}"


@final
@dataclass(frozen=True, eq=False)
class SeenWeight:
    """A weight that its layer sees through a quantizer.

    Attributes:
        name: of the layer.
        layer: the linear layer or convolution.
        weight: the float weight, which an optimizer moves.
        quantizer: what it is seen through.

    Example:
        >>> from driftwell.quantization.formats import Binary
        >>> model = quantization_aware(nn.Sequential(nn.Linear(4, 2)), Binary())
        >>> [seen.name for seen in seen_weights(model)]
        ['0']
    """

    name: str
    layer: nn.Module
    weight: nn.Parameter
    quantizer: WeightQuantizer

    @torch.no_grad()
    def quantized(self) -> Quantized:
        """The codes that ship."""
        return self.quantizer.quantized(self.weight.detach())

    def value(self) -> Tensor:
        """Q(w), without gradient."""
        return self.quantized().decode()


def quantization_aware(
    model: nn.Module,
    quantizer: Quantizing | Mapping[str, Quantizing],
    *,
    ste: StraightThrough = IdentitySTE(),
    skip: Sequence[str] = (),
) -> nn.Module:
    """A copy of a model whose linear layers and convolutions compute with quantized weights, as
    in Courbariaux, Bengio and David, *BinaryConnect*, 2015, arXiv:1511.00363.

    Its parameters are the float weights (and whatever the quantizers learn); `layer.weight` is
    the quantized one. An embedding that shares a weight with a linear layer still sees floats.

    Args:
        model: any module; it is not changed.
        quantizer: a format; or a function from a start weight to its own `WeightQuantizer`; or
            either by name of the layer, with wildcards, the first that fits: the others stay
            float.
        ste: the surrogate derivative behind a format.
        skip: names of layers that stay float, with wildcards.

    Raises:
        InvalidInput: no layer is left, a name fits none, or a weight is parametrized already.

    Example:
        >>> from driftwell.quantization.formats import Ternary
        >>> model = quantization_aware(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)),
        ...     {"0": Ternary("tensor")})
        >>> len(model[0].weight.unique()) <= 3, len(model[1].weight.unique())
        (True, 8)
    """
    made = copy.deepcopy(model)
    layers = _layers(made)
    named = quantizer if isinstance(quantizer, Mapping) else {"*": quantizer}
    for pattern in (*named, *skip):
        if not fnmatch.filter(layers, pattern):
            raise InvalidInput(
                f"no linear layer or convolution is named {pattern!r}: "
                f"there is {', '.join(map(repr, layers)) or 'none'}"
            )
    seen = 0
    for name, layer in layers.items():
        fitting = next((p for p in named if fnmatch.fnmatchcase(name, p)), None)
        if fitting is None or any(fnmatch.fnmatchcase(name, p) for p in skip):
            continue
        if parametrize.is_parametrized(layer, "weight"):
            raise InvalidInput(f"the weight of {name!r} is parametrized already: name it in skip=")
        how = named[fitting]
        weight = cast(nn.Parameter, layer.weight)
        own = FakeQuantized(how, ste) if isinstance(how, Format) else how(weight.detach())
        parametrize.register_parametrization(layer, "weight", own)
        seen += 1
    if not seen:
        raise InvalidInput(f"skip={tuple(skip)} leaves no layer to quantize")
    return made


def seen_weights(model: nn.Module) -> list[SeenWeight]:
    """The quantized weights of a model in training, in its order; for diagnoses, optimizers and
    schedules, such as Courbariaux, Bengio and David, 2015, arXiv:1511.00363.

    Example:
        >>> from driftwell.quantization.formats import Binary
        >>> seen = seen_weights(quantization_aware(nn.Linear(4, 2), Binary()))[0]
        >>> bool((seen.value() == seen.layer.weight).all())
        True
    """
    found = []
    for name, layer in model.named_modules():
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        lists = cast(nn.ModuleDict, layer.parametrizations)
        chain = cast(parametrize.ParametrizationList, lists["weight"])
        if isinstance(chain[-1], WeightQuantizer):
            weight = cast(nn.Parameter, chain.original)
            found.append(SeenWeight(name, layer, weight, chain[-1]))
    return found


def hardened(model: nn.Module) -> nn.Module:
    """A copy of a trained model in which packed layers stand for those with quantized weights:
    what was trained, as it ships; see Courbariaux, Bengio and David, 2015, arXiv:1511.00363.

    In `eval()` it computes what the model in training computed, to the rounding of the kernels.

    Args:
        model: from `quantization_aware`; it is not changed.

    Raises:
        InvalidInput: nothing in it is quantized, or a float weight is not finite.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> model = quantization_aware(nn.Sequential(nn.Linear(8, 4)), Uniform(4))
        >>> x = torch.linspace(-1, 1, 8)[None]
        >>> bool(torch.allclose(hardened(model)(x), model(x), atol=1e-2))
        True
    """
    found = {id(seen.layer): _packed(seen) for seen in seen_weights(model)}
    if not found:
        raise InvalidInput("no weight of this model is quantized: call quantization_aware first")
    # the copy takes the packed layers in place of those it would copy
    return copy.deepcopy(model, cast(dict[int, object], found))


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Plain layers; a subclass may read its weight in ways that no packed layer has."""
    kinds = (*_LINEAR, *_PACKED)
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) in kinds
        or (parametrize.is_parametrized(module) and type(module).__mro__[1] in kinds)
    }


def _packed(seen: SeenWeight) -> nn.Module:
    layer, codes = seen.layer, seen.quantized()
    made: nn.Module
    if isinstance(layer, nn.Linear):
        made = QuantizedLinear.from_float(layer, codes)
    else:
        made = _PACKED[type(layer).__mro__[1]].from_float(cast(nn.Conv2d, layer), codes)
    return made.train(layer.training)
