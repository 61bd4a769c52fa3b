"""Models whose forward pass cannot be traced, as networks of steps that can."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from driftwell.models.equilibrium import DEQClassifier
from driftwell.quantization.export.c.settling import Settling
from driftwell.quantization.modules import (
    PackedWeight,
    QuantizedLinear,
    QuantizedParameter,
    Recurrent,
    RecurrentCell,
)

Cell = nn.RNNCell | nn.GRUCell | nn.LSTMCell


@final
class InjectedLayer(nn.Module):
    """z <- phi(W z + x), with x the injected input.

    Args:
        couplings: W, a linear layer of the state without bias.
        activation: phi, ``"tanh"`` or ``"relu"``.

    Example:
        >>> layer = InjectedLayer(nn.Identity(), "relu")
        >>> layer(torch.ones(1, 2), torch.tensor([[-1.5, 3.0]]))
        tensor([[0., 4.]])
    """

    def __init__(self, couplings: nn.Module, activation: str) -> None:
        super().__init__()
        self.couplings = couplings
        self.activation = nn.Tanh() if activation == "tanh" else nn.ReLU()

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """phi(W z + x), (B, width)."""
        found: Tensor = self.activation(self.couplings(z) + x)
        return found


@final
class StepOfCell(nn.Module):
    """A recurrent cell over a sequence: (B, T, F) to its hidden states (B, T, H).

    Args:
        cell: the cell.

    Example:
        >>> StepOfCell(nn.GRUCell(3, 4))(torch.ones(2, 5, 3)).shape
        torch.Size([2, 5, 4])
    """

    def __init__(self, cell: Cell | RecurrentCell) -> None:
        super().__init__()
        one = cell if isinstance(cell, RecurrentCell) else RecurrentCell.from_float(cell)
        self.net = Recurrent([one], bidirectional=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states at all times."""
        found: Tensor = self.net(x)[0]
        return found


def traceable(model: nn.Module, iterations: int | None = None) -> nn.Module:
    """The model as steps: classifiers at equilibrium settle so often, cells become sequences.

    Args:
        model: any model; those that can be traced are given back as they are.
        iterations: of a `DEQClassifier`, see `equilibrium_network`.
    """
    if isinstance(model, Cell | RecurrentCell):
        return StepOfCell(model).train(model.training)
    if not isinstance(model, DEQClassifier):
        return model
    return equilibrium_network(model, iterations)


def equilibrium_network(
    model: DEQClassifier,
    iterations: int | None = None,
    *,
    mean: Tensor | None = None,
    scale: float = 1.0,
) -> nn.Sequential:
    """A `DEQClassifier` as a network of steps that settles by plain iteration, K times.

        z <- phi(W z + U (x - mean) / scale + b),  K times from 0,    logits = V z + c

    Matrices that are packed stay packed, code for code.

    Args:
        model: the classifier.
        iterations: K; None takes as many as bring it to the model's own tolerance,
            log(tol) / log(bound), or its `max_steps` if that is fewer or it has no bound.
        mean: subtracted from flattened inputs, (inputs,); None for 0.
        scale: inputs are divided by it, so that the network takes raw ones.

    Example:
        >>> model = DEQClassifier(6, 5, 3, seed=0)
        >>> network, x = equilibrium_network(model, 60), torch.ones(2, 6)
        >>> torch.allclose(network(x), model(x)[0], atol=1e-3)
        True
    """
    W_0 = model.W_0.detach()
    gain = 1.0
    if model.bound is not None:
        gain = min(1.0, model.bound / float(torch.linalg.matrix_norm(W_0, 2)))
    settle = Settling(
        InjectedLayer(_layer(model, "W_0", None, gain), model.activation), (model.width,),
        iterations or _needed(model),
    )  # fmt: skip
    b = model.b.detach()
    if mean is not None:
        b = b - model.U.detach() @ (mean.to(b) / scale)
    inject = _layer(model, "U", b, 1.0 / scale)
    return nn.Sequential(nn.Flatten(), inject, settle, _layer(model, "V", model.c)).train(
        model.training
    )


def _needed(model: DEQClassifier) -> int:
    if model.bound is None or model.tol <= 0:
        return model.max_steps
    steps = torch.tensor(model.tol).log() / torch.tensor(model.bound).log()
    return max(1, min(model.max_steps, int(steps.ceil())))


def _layer(model: nn.Module, name: str, bias: Tensor | None, gain: float = 1.0) -> nn.Module:
    """A parameter (R, C), times a gain, as a linear layer; packed if the parameter is."""
    weight: Tensor = getattr(model, name)
    if parametrize.is_parametrized(model, name):
        (held,) = model.parametrizations[name]  # type: ignore[index]
        if isinstance(held, QuantizedParameter) and not held.transposed:
            packed = held.packed_weight.packed
            grid = packed.grid.replaced(scale=packed.grid.scale * gain)
            return QuantizedLinear(PackedWeight(replace(packed, grid=grid)), bias)
    rows, columns = weight.shape
    layer: nn.Linear = nn.utils.skip_init(
        nn.Linear, columns, rows, bias=bias is not None, dtype=weight.dtype, device=weight.device
    )
    with torch.no_grad():
        layer.weight.copy_(weight * gain)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer
