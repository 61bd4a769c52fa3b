"""Back to plain layers: merging adapters into weights, and storing adapters on their own."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.adapters.adapt import adapters_of
from driftwell.quantization.adapters.adapter import Adapter
from driftwell.quantization.formats import Format
from driftwell.quantization.modules.linear import QuantizedLinear


def merge(model: nn.Module, format: Format | None = None) -> nn.Module:
    """A copy of `model` whose adapters have become part of their layers: W <- W + dW.

    Without a format every adapted layer becomes a plain `nn.Linear`, exact to rounding; a packed
    weight is decoded first (inputs that its layer rounded are then rounded no more). With a format
    the layers that were packed are packed again, each weight rounded to the nearest level. That is
    not exact: what was learned lies between the levels. `merging_error` says how much is lost, and
    merging without a format, then `quantize` with calibration, loses less. All float parameters of
    the copy train.

    Args:
        model: what `adapt` gave; it is not changed.
        format: for the layers whose base was packed, or None.

    Raises:
        InvalidInput: a model without adapters, a format that does not fit a weight.

    Example:
        >>> from driftwell.quantization.adapters import LoRA, adapt
        >>> net = nn.Sequential(nn.Linear(8, 4))
        >>> plain = merge(adapt(net, LoRA(rank=2)))
        >>> bool((plain[0].weight == net[0].weight).all())
        True
    """
    adapters_of(model)
    plain = copy.deepcopy(model)
    made: dict[int, nn.Module] = {}
    for name, module in list(plain.named_modules(remove_duplicate=False)):
        if isinstance(module, Adapter):
            if id(module) not in made:
                made[id(module)] = _merged(module, format)
            if name == "":
                return made[id(module)]
            owner, _, last = name.rpartition(".")
            plain.get_submodule(owner).register_module(last, made[id(module)])
    for parameter in plain.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return plain


def merging_error(model: nn.Module, format: Format) -> dict[str, float]:
    """What rounding merged weights to `format` loses of each layer, |W' - Q(W')|_F / |dW|_F.

    W' = W + dW. A value of 1 means an error as large as all that was learned.

    Args:
        model: what `adapt` gave.
        format: the format of the merged weights.

    Returns:
        name of the layer -> error; infinite where the adapter learned nothing.

    Raises:
        InvalidInput: a model without adapters, a format that does not fit a weight.

    Example:
        >>> from driftwell.quantization.adapters import DiaBlo, adapt
        >>> from driftwell.quantization.formats import Uniform
        >>> merging_error(adapt(nn.Sequential(nn.Linear(8, 4)), DiaBlo(2)), Uniform(2))
        {'0': inf}
    """
    errors = {}
    for name, adapter in adapters_of(model).items():
        weight, learned = adapter.merged_weight(), float(adapter.delta().detach().norm())
        lost = float((weight - format.fake(weight)).norm())
        errors[name] = lost / learned if learned > 0 else float("inf")
    return errors


def _merged(adapter: Adapter, format: Format | None) -> nn.Module:
    """The layer that computes what the adapter does, to rounding or to the format's."""
    weight = adapter.merged_weight()
    bias = getattr(adapter.base, "bias", None)
    # On "meta" no memory is touched and no random numbers are drawn.
    layer = nn.Linear(adapter.in_features, adapter.out_features, bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    if isinstance(bias, Tensor):
        layer.bias = nn.Parameter(bias.detach().clone().to(weight.dtype))
    layer.training = adapter.training
    if format is None or not isinstance(adapter.base, QuantizedLinear):
        return layer
    activations = adapter.base.packed_weight.activations
    packed = QuantizedLinear.from_float(layer, format.encode(weight), activations)
    packed.rounded_input = adapter.base.rounded_input
    packed.training = adapter.training
    return packed


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the adapters only, by their names in the model: ready for safetensors.

    Args:
        model: what `adapt` gave.

    Returns:
        name -> tensor, detached and contiguous; the frozen layers are not in it.

    Raises:
        InvalidInput: a model without adapters.

    Example:
        >>> from driftwell.quantization.adapters import LoRA, adapt
        >>> list(adapter_state(adapt(nn.Sequential(nn.Linear(8, 4)), LoRA(rank=2))))
        ['0.lora_A', '0.lora_B']
    """
    state = {}
    for name, tensor in _own_tensors(model).items():
        state[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return state


def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put stored adapter tensors back, in place.

    Args:
        model: adapted as it was when `state` was taken.
        state: what `adapter_state` gave.

    Raises:
        InvalidInput: names or shapes that differ; nothing is changed then.

    Example:
        >>> from driftwell.quantization.adapters import LoRA, adapt
        >>> net = nn.Sequential(nn.Linear(8, 4))
        >>> load_adapter_state(adapt(net, LoRA(2)), adapter_state(adapt(net, LoRA(2, seed=1))))
    """
    own = _own_tensors(model)
    for word, names in (("lacks", own.keys() - state.keys()), ("adds", state.keys() - own.keys())):
        if names:
            raise InvalidInput(
                f"the stored adapters do not fit this model: the state {word} "
                f"{', '.join(sorted(names))}; adapt the model with the same description first"
            )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise InvalidInput(
                f"{name} has shape {tuple(tensor.shape)} in the model and "
                f"{tuple(state[name].shape)} in the state"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the adapters themselves, not of what they wrap."""
    found: dict[str, Tensor] = {}
    for name, adapter in adapters_of(model).items():
        prefix = f"{name}." if name else ""
        for own, tensor in adapter.state_dict(keep_vars=True).items():
            if not own.startswith("base."):
                found[prefix + own] = tensor
    return found
