"""A model as the list of its steps; every operator that C cannot carry is named at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.settling import Settling
from driftwell.quantization.modules import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLinear,
    Recurrent,
)

Elementwise = Callable[[Tensor], Tensor]

MODULES: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv1d: "convolution",
    nn.Conv2d: "convolution",
    nn.BatchNorm1d: "normalize",
    nn.BatchNorm2d: "normalize",
    nn.MaxPool1d: "max pool",
    nn.MaxPool2d: "max pool",
    nn.AvgPool1d: "mean pool",
    nn.AvgPool2d: "mean pool",
    nn.AdaptiveAvgPool1d: "whole mean",
    nn.AdaptiveAvgPool2d: "whole mean",
    nn.Embedding: "embedding",
    QuantizedLinear: "linear",
    QuantizedConv1d: "convolution",
    QuantizedConv2d: "convolution",
    QuantizedEmbedding: "embedding",
    nn.RNN: "recurrent",
    nn.GRU: "recurrent",
    nn.LSTM: "recurrent",
    Recurrent: "recurrent",
    nn.Flatten: "reshape",
    nn.Unflatten: "reshape",
    nn.Identity: "same",
    nn.Dropout: "same",
    nn.ReLU: "clamp",
    nn.ReLU6: "clamp",
    nn.Hardtanh: "clamp",
    Settling: "settle",
}
ELEMENTWISE_MODULES = (
    nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.LeakyReLU, nn.Softplus,
    nn.Softsign, nn.Hardsigmoid, nn.Hardswish, nn.Mish, nn.LogSigmoid, nn.Tanhshrink,
)  # fmt: skip
ELEMENTWISE_NAMES = frozenset(
    {
        "tanh", "sigmoid", "gelu", "silu", "elu", "selu", "celu", "leaky_relu", "softplus",
        "softsign", "hardsigmoid", "hardswish", "mish", "logsigmoid", "abs", "neg", "square",
        "exp", "sin", "cos", "erf", "sqrt", "clamp", "hardtanh",
    }
)  # fmt: skip
"""Functions and methods of a tensor and constants, by name, wherever they live in torch."""
RESHAPES = frozenset({"flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous"})
BINARY = {"add": "add", "iadd": "add", "sub": "subtract", "isub": "subtract", "mul": "multiply",
          "imul": "multiply"}  # fmt: skip


@final
@dataclass(frozen=True, eq=False)
class TracedStep:
    """One operator of a model.

    Attributes:
        name: unique; that of the result.
        kind: ``"linear"``, ``"clamp"``, ``"elementwise"``, ...
        inputs: names of the results it takes.
        module: where its numbers are, or None.
        function: of an elementwise step.
        limits: of a clamp.
        called: name of an elementwise function without constants of its own, such as ``"tanh"``.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    module: nn.Module | None = None
    function: Elementwise | None = None
    limits: tuple[float, float] = (-float("inf"), float("inf"))
    called: str = ""


@final
@dataclass(frozen=True, eq=False)
class TracedGraph:
    """A traced model.

    Attributes:
        traced: the module to run, in float.
        steps: in the order they run, without inputs and output.
        inputs: names of what the model takes.
        output: name of the result.
        users: names of the steps that take each result.
        inner: graphs of the layers that are settled, by the name of the step.
    """

    traced: fx.GraphModule
    steps: tuple[TracedStep, ...]
    inputs: tuple[str, ...]
    output: str
    users: dict[str, tuple[str, ...]]
    inner: dict[str, TracedGraph]

    def step(self, name: str) -> TracedStep | None:
        """The step of that name; None for an input."""
        return next((step for step in self.steps if step.name == name), None)

    def only_user(self, name: str) -> TracedStep | None:
        """The one step that takes this result, or None if there are several or it is returned."""
        users = self.users.get(name, ())
        return self.step(users[0]) if len(users) == 1 and name != self.output else None


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _kind(m) is not None or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> TracedGraph:
    """The steps of a model, found by symbolic tracing.

    Raises:
        InvalidInput: the model's Python cannot be traced, or it has operators that C cannot
            carry; all of them are named.
    """
    graph, refused = _read(model)
    if refused:
        raise InvalidInput(
            f"C cannot carry {', '.join(dict.fromkeys(refused))}; it carries "
            f"{', '.join(sorted({kind.__name__ for kind in MODULES}))}, elementwise activations, "
            "sums and products of two tensors, and reshapes"
        )
    return graph


def _read(model: nn.Module) -> tuple[TracedGraph, list[str]]:
    """The graph of what can be carried, and the names of what cannot."""
    if _kind(model) is not None:
        model = nn.Sequential(model).train(model.training)
    try:
        found = _Tracer().trace(model)
    except Exception as error:
        raise InvalidInput(
            f"{type(model).__name__} cannot be traced into steps ({error}): write its forward "
            "without branches on values, or as a torch.nn.Sequential"
        ) from error
    traced = fx.GraphModule(model, found)
    traced.graph.eliminate_dead_code()  # such as the last state, which nobody reads
    traced.recompile()
    steps, inputs, refused, output = [], [], [], ""
    inner: dict[str, TracedGraph] = {}
    renamed: dict[str, str] = {}
    for node in traced.graph.nodes:
        names = tuple(renamed.get(n.name, n.name) for n in node.all_input_nodes)
        if node.op == "placeholder":
            inputs.append(node.name)
        elif node.op == "output":
            output = names[0] if isinstance(node.args[0], fx.Node) else ""
        elif (step := _step(node, names, traced)) is None:
            refused.append(_described(node, traced))
        elif step.kind == "same":
            renamed[node.name] = names[0]
        else:
            steps.append(step)
            if isinstance(step.module, Settling):
                inner[step.name], more = _read(step.module.layer)
                refused += more
    if not output:
        raise InvalidInput(f"{type(model).__name__} must return one tensor to be written as C")
    users: dict[str, tuple[str, ...]] = {}
    for step in steps:
        for name in dict.fromkeys(step.inputs):
            users[name] = (*users.get(name, ()), step.name)
    return TracedGraph(traced, tuple(steps), tuple(inputs), output, users, inner), refused


def _kind(module: nn.Module) -> str | None:
    if isinstance(module, ELEMENTWISE_MODULES):
        return "elementwise"
    return MODULES.get(type(module))


def _step(node: fx.Node, names: tuple[str, ...], traced: fx.GraphModule) -> TracedStep | None:
    if node.op == "call_module":
        return _module_step(node.name, traced.get_submodule(str(node.target)), names)
    if node.op not in ("call_function", "call_method"):
        return None
    called = node.target if isinstance(node.target, str) else node.target.__name__
    called = called.strip("_").removesuffix("_")
    if called == "getitem":
        return _picked(node, names)
    if called == "dropout":
        return TracedStep(node.name, "same", names)
    if called in RESHAPES:
        return TracedStep(node.name, "reshape", names)
    if called in ("relu", "relu6"):
        return TracedStep(
            node.name, "clamp", names, limits=(0.0, 6.0 if "6" in called else torch.inf)
        )
    if called in BINARY and len(names) == 2 and not node.kwargs:
        return TracedStep(node.name, BINARY[called], names)
    scalar = called in BINARY or called == "truediv"
    if len(names) == 1 and (called in ELEMENTWISE_NAMES or (scalar and len(node.args) == 2)):
        plain = called if len(node.args) == 1 and not node.kwargs else ""
        return TracedStep(
            node.name, "elementwise", names, function=_frozen_call(node), called=plain
        )
    return None


def _module_step(name: str, module: nn.Module, inputs: tuple[str, ...]) -> TracedStep | None:
    kind = _kind(module)
    if kind is None:
        return None
    if kind == "elementwise":
        default = repr(module) == repr(type(module)())
        called = type(module).__name__.lower() if default else ""
        return TracedStep(name, kind, inputs, function=module, called=called)
    if isinstance(module, nn.Hardtanh):
        return TracedStep(name, kind, inputs, limits=(float(module.min_val), float(module.max_val)))
    if kind == "clamp":
        return TracedStep(name, kind, inputs, limits=(0.0, torch.inf))
    return TracedStep(name, kind, inputs, module)


def _picked(node: fx.Node, names: tuple[str, ...]) -> TracedStep | None:
    """`outputs, state = gru(x)`: the outputs; and `outputs[:, -1]`: the step that ends them."""
    place = node.args[1]
    if place == 0:
        return TracedStep(node.name, "first", names)
    if place == (slice(None, None, None), -1):
        return TracedStep(node.name, "last", names)
    return None


def _frozen_call(node: fx.Node) -> Elementwise:
    """The function of one tensor that a node calls, its constants bound."""
    target, args, kwargs = node.target, node.args, dict(node.kwargs)

    def apply(x: Tensor) -> Tensor:
        bound: Iterable[Any] = (x if isinstance(a, fx.Node) else a for a in args)
        if isinstance(target, str):
            first, *rest = bound
            found: Tensor = getattr(first, target)(*rest, **kwargs)
            return found
        found = target(*bound, **kwargs)
        return found

    return apply


def _described(node: fx.Node, traced: fx.GraphModule) -> str:
    if node.op == "call_module":
        kind = type(traced.get_submodule(str(node.target))).__name__
        return f"{kind} ({node.target})"
    if node.op == "get_attr":
        return f"{node.target} (a tensor that is no layer's)"
    target = node.target if isinstance(node.target, str) else node.target.__name__
    return f"{target} ({node.name})"
