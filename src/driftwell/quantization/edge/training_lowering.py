"""From a model to the steps of its training step; whatever cannot be one is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.training_steps import (
    ACTIVATIONS,
    TrainingOperation,
    TrainingProgram,
    Window,
)
from driftwell.quantization.export.c.graph import TracedGraph, TracedStep, trace

CARRIED = (
    nn.Linear, nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten,
    nn.Unflatten, nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid,
)  # fmt: skip
Shape = tuple[int, ...]


def lower_training(model: nn.Module, input_shape: tuple[int, ...]) -> TrainingProgram:
    """The operations of a model at batch 1.

    Args:
        model: layers of `CARRIED` and sums of two values of one shape, traced symbolically.
            Layers whose parameters do not require gradients are frozen.
        input_shape: of one sample, without the batch.

    Raises:
        InvalidInput: a model or shape that cannot be trained this way; all layers that are not
            carried are named.

    Example:
        >>> program = lower_training(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (3,))
        >>> [each.kind for each in program.operations]
        ['linear', 'relu']
    """
    _check_layers(model)
    graph = trace(model)
    if any("dropout" in str(node.target) for node in graph.traced.graph.nodes):
        raise InvalidInput("a training step on a device cannot carry dropout: take it out")
    if len(graph.inputs) != 1 or not graph.steps:
        raise InvalidInput(
            f"{type(model).__name__} must take one tensor and do something with it to be trained "
            f"on a device, it takes {', '.join(graph.inputs) or 'nothing'}"
        )
    shapes = _shapes(graph, model, input_shape)
    lowering = _Lowering(shapes)
    for step in graph.steps:
        lowering.add(step)
    if lowering.refused:
        raise InvalidInput(
            f"a training step on a device cannot carry {', '.join(lowering.refused)}"
        )
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    kept = {graph.inputs[0], *(each.output for each in lowering.operations)}
    output = lowering.value(graph.output)
    program = TrainingProgram(
        tuple(lowering.operations), {k: sizes[k] for k in sizes if k in kept}, graph.inputs[0],
        output, model,
    )  # fmt: skip
    if not program.has_gradient(output):
        raise InvalidInput("nothing is learned: no parameter before the output requires gradients")
    return program


def _check_layers(model: nn.Module) -> None:
    """Raise on layers that are not carried, and on weights that two layers share."""
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"the model is a torch.nn.Module, got {type(model).__name__}")
    leaves = [(n, m) for n, m in model.named_modules() if not any(True for _ in m.children())]
    odd = [f"{type(m).__name__} ({n or 'the model'})" for n, m in leaves if not _is_carried(m)]
    if odd:
        names = ", ".join(each.__name__ for each in CARRIED)
        raise InvalidInput(
            f"a training step on a device cannot carry {', '.join(odd)}; it carries {names} and "
            "sums of two values"
        )
    every = list(model.named_parameters(remove_duplicate=False))
    if len({id(p) for _, p in every}) < len(every):
        raise InvalidInput("two layers share a parameter: give each its own before the export")
    broken = [name for name, p in every if not bool(torch.isfinite(p).all())]
    if broken:
        raise InvalidInput(f"{', '.join(broken)} has entries that are not finite")


def _is_carried(module: nn.Module) -> bool:
    if type(module) in CARRIED:
        return True
    # a module of the user's own that only calls functions: these are looked at when traced
    return type(module).__module__.split(".")[0] != "torch" and not list(module.parameters())


def _shapes(graph: TracedGraph, model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Shape]:
    """Shape of every value of one sample, without the batch."""
    parameter = next(model.parameters(), torch.zeros(()))
    try:
        x = torch.zeros(1, *input_shape, dtype=parameter.dtype, device=parameter.device)
        with torch.no_grad():
            ShapeProp(graph.traced).propagate(x)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(
            f"{type(model).__name__} does not run on one sample of shape {tuple(input_shape)}: "
            f"{reason}"
        ) from error
    metas = {node.name: node.meta.get("tensor_meta") for node in graph.traced.graph.nodes}
    return {name: tuple(meta.shape[1:]) for name, meta in metas.items() if meta is not None}


class _Lowering:
    """Operations so far, and which value a reshaped one really is."""

    def __init__(self, shapes: dict[str, Shape]) -> None:
        self.shapes = shapes
        self.operations: list[TrainingOperation] = []
        self.refused: list[str] = []
        self.same: dict[str, str] = {}
        self.used: set[int] = set()

    def value(self, name: str) -> str:
        """The value behind reshapes."""
        return self.same.get(name, name)

    def add(self, step: TracedStep) -> None:
        """Take one step more."""
        if step.kind == "reshape":
            self.same[step.name] = self.value(step.inputs[0])
            return
        found = self._read(step)
        if isinstance(found, str):
            self.refused.append(found)
        else:
            self.operations.append(found)

    def _read(self, step: TracedStep) -> TrainingOperation | str:
        """The operation of a step, or what is wrong with it."""
        inputs = tuple(self.value(name) for name in step.inputs)
        shape = self.shapes[step.inputs[0]]
        label = step.name.strip("_") or step.name
        name = label if not label[0].isdigit() else f"layer {label}"
        if (activation := _activation(step)) is not None:
            return TrainingOperation(name, activation, inputs, step.name)
        if step.kind == "add":
            if len({self.shapes[each] for each in step.inputs}) > 1:
                return f"{name}: a sum of two shapes"
            return TrainingOperation(name, "add", inputs, step.name)
        reader = READERS.get(step.kind)
        if reader is None or step.module is None:
            return f"{name}: {step.called or step.kind}"
        if id(step.module) in self.used and list(step.module.parameters()):
            return f"{name}: a layer that is used twice"
        self.used.add(id(step.module))
        found = reader(step.module, shape, self.shapes[step.name])
        if isinstance(found, str):
            return f"{name}: {found}"
        kind = "mean pool" if step.kind == "whole mean" else step.kind
        return TrainingOperation(name, kind, inputs, step.name, **found)


Found = dict[str, Any] | str


def _activation(step: TracedStep) -> str | None:
    if step.kind == "clamp" and step.limits == (0.0, torch.inf):
        return "relu"
    return step.called if step.kind == "elementwise" and step.called in ACTIVATIONS else None


def _linear(layer: nn.Module, shape: Shape, out: Shape) -> Found:
    if not isinstance(layer, nn.Linear) or len(shape) != 1:
        return f"a linear layer of a value of shape {shape}; flatten it"
    return _learned(layer.weight, layer.bias, Window(shape[0], (1, 1), (1, 1)))


def _convolution(layer: nn.Module, shape: Shape, out: Shape) -> Found:
    if not isinstance(layer, nn.Conv2d) or len(shape) != 3:
        return f"a convolution of a value of shape {shape}; it must be (channels, height, width)"
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return "padding that is not zeros and numbers"
    window = Window(
        shape[0] // layer.groups, _two(shape[1:]), _two(layer.kernel_size), _two(layer.stride),
        _two(layer.padding), _two(layer.dilation), _two(out[1:]),
    )  # fmt: skip
    return _learned(layer.weight, layer.bias, window, layer.groups)


def _max_pool(layer: nn.Module, shape: Shape, out: Shape) -> Found:
    if not isinstance(layer, nn.MaxPool2d) or layer.ceil_mode or layer.return_indices:
        return "a largest value with ceil_mode or return_indices"
    return _pool(layer, shape, out, _two(layer.padding), _two(layer.dilation))


def _mean_pool(layer: nn.Module, shape: Shape, out: Shape) -> Found:
    if not isinstance(layer, nn.AvgPool2d) or layer.ceil_mode or layer.divisor_override:
        return "a mean with ceil_mode or divisor_override"
    if _two(layer.padding) != (0, 0):
        return "a mean with padding"
    return _pool(layer, shape, out, (0, 0), (1, 1))


def _pool(
    layer: nn.MaxPool2d | nn.AvgPool2d, shape: Shape, out: Shape, padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Found:  # fmt: skip
    if len(shape) != 3:
        return f"a pool of a value of shape {shape}"
    kernel = _two(layer.kernel_size)
    stride = kernel if layer.stride is None else _two(layer.stride)
    window = Window(shape[0], _two(shape[1:]), kernel, stride, padding, dilation, _two(out[1:]))
    return {"window": window}


def _whole_mean(layer: nn.Module, shape: Shape, out: Shape) -> Found:
    if len(shape) != 3 or out[1:] != (1, 1):
        return "an adaptive mean that is not of the whole image"
    image = _two(shape[1:])
    return {"window": Window(shape[0], image, image, image)}


READERS: dict[str, Callable[[nn.Module, Shape, Shape], Found]] = {
    "linear": _linear,
    "convolution": _convolution,
    "max pool": _max_pool,
    "mean pool": _mean_pool,
    "whole mean": _whole_mean,
}


def _learned(weight: Tensor, bias: Tensor | None, window: Window, groups: int = 1) -> Found:
    trained = weight.requires_grad
    if bias is not None and bias.requires_grad != trained:
        return "a layer of which only weight or bias is frozen"
    return {
        "weight": weight, "bias": bias, "trained": trained, "window": window, "groups": groups
    }  # fmt: skip


def _two(value: Any) -> tuple[int, int]:
    """Height and width from one number or two."""
    if isinstance(value, int):
        return value, value
    return int(value[0]), int(value[1])
