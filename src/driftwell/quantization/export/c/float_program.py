"""Chains of dense layers in single precision, with their Jacobian: for controllers that need it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.graph import TracedStep, trace

ACTIVATIONS: dict[str, tuple[str, str]] = {
    "": ("u", "1.0f"),
    "relu": ("u > 0.0f ? u : 0.0f", "u > 0.0f ? 1.0f : 0.0f"),
    "tanh": ("tanhf(u)", "1.0f - y * y"),
    "sigmoid": ("1.0f / (1.0f + expf(-u))", "y * (1.0f - y)"),
    "softplus": ("fmaxf(u, 0.0f) + log1pf(expf(-fabsf(u)))", "1.0f / (1.0f + expf(-u))"),
    "silu": ("u / (1.0f + expf(-u))", "(1.0f + u - y) / (1.0f + expf(-u))"),
    "gelu": (
        "0.5f * u * (1.0f + erff(u * 0.70710678f))",
        "0.5f * (1.0f + erff(u * 0.70710678f)) + 0.39894228f * u * expf(-0.5f * u * u)",
    ),
}
"""Value and slope of each activation in C, of its argument u and its value y."""
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda u: u,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
}


@final
@dataclass(frozen=True, eq=False)
class FloatLayer:
    """y = phi(W x + b).

    Attributes:
        weight: W, float32 (R, C).
        bias: b, float32 (R,).
        activation: phi, a key of `ACTIVATIONS`; "" for none.

    Example:
        >>> FloatLayer(torch.eye(2), torch.zeros(2), "tanh").activation
        'tanh'
    """

    weight: Tensor
    bias: Tensor
    activation: str


@final
@dataclass(frozen=True, eq=False)
class FloatProgram:
    """A chain of dense layers in single precision.

    Attributes:
        name: prefix of all names in C.
        layers: in the order they run.

    Example:
        >>> program = lower_float(nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)))
        >>> [(len(layer.bias), layer.activation) for layer in program.layers], program.macs
        ([(16, 'tanh'), (2, '')], 80)
    """

    name: str
    layers: tuple[FloatLayer, ...]

    @property
    def inputs(self) -> int:
        """Entries of an input."""
        return self.layers[0].weight.shape[1]

    @property
    def outputs(self) -> int:
        """Entries of an output."""
        return len(self.layers[-1].bias)

    @property
    def widest(self) -> int:
        """Entries of the longest vector between layers."""
        return max(self.inputs, *(len(layer.bias) for layer in self.layers))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a run."""
        return sum(layer.weight.numel() for layer in self.layers)

    @property
    def rom_bytes(self) -> int:
        """Bytes of weights and biases."""
        return 4 * sum(layer.weight.numel() + len(layer.bias) for layer in self.layers)

    @property
    def ram_bytes(self) -> int:
        """Bytes of two vectors and two Jacobians that layers read and write in turns."""
        return 4 * 2 * self.widest * (1 + self.inputs)

    def run(self, x: Tensor) -> Tensor:
        """Outputs (B, outputs) of inputs (B, inputs), in float64: what C comes near to."""
        y = x.double()
        for layer in self.layers:
            u = y @ layer.weight.double().T + layer.bias.double()
            y = FUNCTIONS[layer.activation](u)
        return y


def lower_float(model: nn.Module, *, name: str = "network") -> FloatProgram:
    """A chain of dense layers and activations as a program in single precision.

    Args:
        model: in eval mode; ``nn.Linear`` layers with a bias or without, each followed by at most
            one activation of `ACTIVATIONS`; reshapes are passed over.
        name: prefix of all names in C.

    Raises:
        InvalidInput: a model that is no such chain; all of its other steps are named.

    Example:
        >>> program = lower_float(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
        >>> program.rom_bytes, program.run(torch.ones(5, 2)).shape
        (24, torch.Size([5, 2]))
    """
    graph = trace(model)
    steps = [step for step in graph.steps if step.kind != "reshape"]
    other = [f"{step.kind} ({step.name})" for step in steps if not _is_carried(step)]
    chained = all(len(step.inputs) == 1 for step in steps) and all(
        len(users) == 1 for users in graph.users.values()
    )
    if other or not chained or not steps or steps[0].kind != "linear":
        raise InvalidInput(
            "single precision carries chains of linear layers with "
            f"{', '.join(k for k in ACTIVATIONS if k)} between them, and not "
            f"{', '.join(other) or 'branches and other beginnings'}: export the model in integers"
        )
    layers: list[FloatLayer] = []
    for step in steps:
        if step.kind == "linear":
            layers.append(_layer(step))
        elif layers[-1].activation:
            raise InvalidInput(f"{step.name} follows an activation: put a linear layer between")
        else:
            last = layers[-1]
            layers[-1] = FloatLayer(last.weight, last.bias, step.called or "relu")
    return FloatProgram(name, tuple(layers))


def _is_carried(step: TracedStep) -> bool:
    if step.kind == "clamp":
        return step.limits == (0.0, float("inf"))
    return step.kind == "linear" or (step.kind == "elementwise" and step.called in ACTIVATIONS)


def _layer(step: TracedStep) -> FloatLayer:
    weight, bias = getattr(step.module, "weight", None), getattr(step.module, "bias", None)
    if not isinstance(weight, Tensor) or not bool(torch.isfinite(weight).all()):
        raise InvalidInput(f"{step.name} has no finite weight to write as C")
    w = weight.detach().float().cpu()
    b = torch.zeros(len(w)) if bias is None else bias.detach().float().cpu()
    return FloatLayer(w, b, "")
