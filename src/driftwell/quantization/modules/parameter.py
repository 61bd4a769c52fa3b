"""A parameter of any module, packed: read, it is the decoded matrix."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn.utils import parametrize

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Quantized
from driftwell.quantization.modules.packed_weight import PackedWeight


@final
class QuantizedParameter(nn.Module):
    """A named parameter held packed, as a torch parametrization: `module.name` decodes it.

    For matrices that are no layer's: the couplings J of a Langevin machine, the W of an
    equilibrium layer. The packed bytes are in the state dict under
    ``parametrizations.<name>``; each read decodes, `torch.nn.utils.parametrize.cached()` keeps
    what was decoded while it lasts.

    Args:
        weight: the packed matrix.
        transposed: whether it is packed by columns: rows of the packed matrix are columns of
            the parameter, for parameters that are used as x @ W.

    Example:
        >>> import torch
        >>> from driftwell.quantization.formats import Uniform
        >>> from driftwell.models.langevin import NeuralLangevinMachine
        >>> machine = NeuralLangevinMachine(6)
        >>> quantized = Uniform(8).encode(machine.J.detach())
        >>> QuantizedParameter.replace(machine, "J", PackedWeight(quantized.pack()))
        >>> torch.equal(machine.J, quantized.decode()), "J" in dict(machine.named_parameters())
        (True, False)
    """

    def __init__(self, weight: PackedWeight, transposed: bool = False) -> None:
        super().__init__()
        self.packed_weight, self.transposed = weight, transposed

    @staticmethod
    def replace(
        module: nn.Module, name: str, weight: PackedWeight, transposed: bool = False
    ) -> None:
        """Put the packed matrix in the place of a module's own parameter.

        Raises:
            InvalidInput: the module has no such parameter, or one of another shape.
        """
        parameter = module._parameters.get(name)
        if parameter is None:
            raise InvalidInput(f"{type(module).__name__} has no parameter of its own {name!r}")
        shape = tuple(parameter.T.shape if transposed else parameter.shape)
        if shape != tuple(weight.shape):
            raise InvalidInput(
                f"the packed matrix {tuple(weight.shape)} does not fit {name!r} {shape}"
            )
        delattr(module, name)
        if parametrize.is_parametrized(module):
            _give_own_class(module)
        # Torch wants one tensor to parametrize: the bytes. They stay the buffer of `weight`.
        module.register_buffer(name, weight.data.new_empty(0), persistent=False)
        parametrize.register_parametrization(
            module, name, QuantizedParameter(weight, transposed), unsafe=True
        )

    def forward(self, original: Tensor) -> Tensor:
        """The parameter's values; `original` is an empty place-holder."""
        values = self.packed_weight.decode()
        return values.T if self.transposed else values


def _give_own_class(module: nn.Module) -> None:
    """Torch injects a property into the class, which a copy shares with the module it is of."""
    kind = type(module)
    own = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, own)


def quantized_parameter(
    module: nn.Module, name: str, quantized: Quantized, transposed: bool = False
) -> QuantizedParameter:
    """Pack a module's parameter and put it in place; what now stands there.

    Example:
        >>> import torch
        >>> from driftwell.quantization.formats import Uniform
        >>> layer = nn.Bilinear(2, 2, 3)
        >>> quantized = Uniform(4).encode(layer.weight.detach())
        >>> quantized_parameter(layer, "weight", quantized).packed_weight.bits
        4
    """
    QuantizedParameter.replace(module, name, PackedWeight(quantized.pack()), transposed)
    stands: QuantizedParameter = module.parametrizations[name][0]  # type: ignore[index, assignment]
    return stands
