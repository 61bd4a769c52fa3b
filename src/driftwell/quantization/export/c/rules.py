"""Lowering of every kind of step, and of a whole graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.addition import Combine
from driftwell.quantization.export.c.arithmetic import lookup_table
from driftwell.quantization.export.c.convolution import Window, window_of
from driftwell.quantization.export.c.gathering import Gather
from driftwell.quantization.export.c.graph import TracedStep
from driftwell.quantization.export.c.grouping import Group, group_of
from driftwell.quantization.export.c.lookup import Lookup
from driftwell.quantization.export.c.lowering import Lowering
from driftwell.quantization.export.c.pooling import Pool
from driftwell.quantization.export.c.products import lower_product, on_doubles
from driftwell.quantization.export.c.program import Buffer, Operation
from driftwell.quantization.export.c.recurrent_steps import lower_recurrent
from driftwell.quantization.export.c.repetition import Copy, Repeat
from driftwell.quantization.export.c.settling import Settling


def lower_graph(lowering: Lowering) -> Buffer:
    """Lower every step of a graph; the buffer of its result."""
    inner: set[str] = set()
    groups: dict[str, Group] = {}
    for step in lowering.graph.steps:
        if step.kind in ("linear", "convolution"):
            group = group_of(lowering.graph, step)
            groups[group.last] = group
            inner |= group.members(lowering.graph) - {group.last}
    for step in lowering.graph.steps:
        if step.name in groups:
            lower_product(lowering, groups[step.name])
        elif step.name not in inner:
            RULES[step.kind](lowering, step)
    return lowering.buffers[lowering.graph.output]


def lower_elementwise(lowering: Lowering, step: TracedStep) -> None:
    """A function of its own, as a table of 256."""
    into = lowering.source(step.inputs[0])
    out = lowering.new(lowering.range(step.name).bytes_buffer(step.name), step.name)
    function = on_doubles(step.function)
    if step.kind == "clamp":
        low, high = step.limits
        function = on_doubles(lambda x: x.clamp(low, high))
    table = lookup_table(function, into.scale, into.zero, out.scale, out.zero)
    if into.shape != out.shape:
        raise InvalidInput(f"{step.name} must give as many values as it takes")
    lowering.operations.append(
        Lookup(lowering.named(step.name), (into.name,), out.name, table, into.size)
    )


def lower_normalize(lowering: Lowering, step: TracedStep) -> None:
    """Refuse a normalisation that follows no product."""
    raise InvalidInput(
        f"{step.name}: a batch normalisation must follow one linear or convolution, which nothing "
        "else reads, to be written as C"
    )


def lower_combine(lowering: Lowering, step: TracedStep) -> None:
    """A sum, difference or product of two results."""
    a, b = (lowering.source(name) for name in step.inputs)
    out = lowering.range(step.name).bytes_buffer(step.name)
    if a.shape != b.shape:
        raise InvalidInput(
            f"{step.name} takes two tensors of one shape to be written as C, got {a.shape} and "
            f"{b.shape}"
        )
    kind = cast(Literal["add", "subtract", "multiply"], step.kind)
    out = lowering.new(out, step.name)
    lowering.operations.append(Combine((a.name, b.name), out.name, a, b, out, kind))


def lower_same(lowering: Lowering, step: TracedStep) -> None:
    """The same numbers, perhaps under another shape: no operation."""
    into = lowering.buffers[step.inputs[0]]
    shape = lowering.range(step.name).shape
    if torch.Size(shape).numel() != into.size:
        raise InvalidInput(
            f"{step.name} must leave the batch alone to be written as C: it makes {shape} of "
            f"{into.shape}"
        )
    lowering.buffers[step.name] = replace(into, shape=shape)


def lower_pool(lowering: Lowering, step: TracedStep) -> None:
    """Largest value or mean of a window."""
    into, module = lowering.source(step.inputs[0]), step.module or nn.Identity()
    mean = step.kind != "max pool"
    window = _whole(module, into) if step.kind == "whole mean" else window_of(module, into.shape)
    if mean and any(window.padding):
        raise InvalidInput(f"{step.name}: C carries means of windows without padding only")
    if getattr(module, "divisor_override", None) or getattr(module, "return_indices", False):
        raise InvalidInput(
            f"{step.name}: C carries pools without divisor_override and return_indices only"
        )
    out = lowering.new(
        replace(into, name=step.name, shape=lowering.range(step.name).shape), step.name
    )
    lowering.operations.append(
        Pool(lowering.named(step.name), (into.name,), out.name, window, into.zero, mean)
    )


def lower_embedding(lowering: Lowering, step: TracedStep) -> None:
    """Rows of a table, in steps of one scale."""
    module = step.module
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or getattr(module, "max_norm", None) is not None:
        raise InvalidInput(f"{step.name}: C carries embeddings without max_norm only")
    into = lowering.source(step.inputs[0], 16)
    if len(weight) > 2**15:
        raise InvalidInput(f"{step.name}: C carries tables of up to 32768 rows, got {len(weight)}")
    low, high = torch.aminmax(weight.detach())
    span = replace(lowering.range(step.name), low=float(low), high=float(high))
    out = lowering.new(span.bytes_buffer(step.name), step.name)
    table = out.quantize(weight.detach())
    lowering.operations.append(
        Gather(lowering.named(step.name), (into.name,), out.name, table, into.size)
    )


def lower_settle(lowering: Lowering, step: TracedStep) -> None:
    """A loop over an 8-bit state; what does not depend on the state is computed before it."""
    module, graph = step.module, lowering.graph.inner[step.name]
    if not isinstance(module, Settling) or len(graph.inputs) != 2:
        raise InvalidInput(f"{step.name}: a settled layer is called as layer(z, x)")
    observed = lowering.observed.inside[step.name]
    span = replace(observed.ranges[graph.output], shape=module.shape)
    state = lowering.new(span.bytes_buffer(step.name), step.name)
    inner = Lowering(graph, observed, lowering.weigh, lowering.named(step.name) + "_")
    inner.buffers = {graph.inputs[0]: state, graph.inputs[1]: lowering.buffers[step.inputs[0]]}
    out = lower_graph(inner)
    if (out.scale, out.zero, out.size) != (state.scale, state.zero, state.size):
        raise InvalidInput(
            f"{step.name}: a settled layer must end in a product, a sum or an activation of the "
            "state's shape"
        )
    changing = {state.name}
    before: list[Operation] = []
    during: list[Operation] = []
    for operation in inner.operations:
        depends = bool(changing & set(operation.inputs))
        (during if depends else before).append(operation)
        changing |= {operation.output} if depends else set()
    during.append(Copy((out.name,), state.name, state.size))
    lowering.others += [b for b in inner.all_buffers().values() if b.name != state.name]
    lowering.operations += [
        *before, Repeat((), state.name, state, tuple(during), module.iterations),
    ]  # fmt: skip


def _whole(module: nn.Module, into: Buffer) -> Window:
    """The window of an adaptive mean that leaves one value a channel."""
    size = getattr(module, "output_size", 1)
    sizes = size if isinstance(size, tuple) else (size,)
    if any(n != 1 for n in sizes) or len(into.shape) not in (2, 3):
        raise InvalidInput(
            f"C carries {type(module).__name__}(1), a mean over each channel, got {size}"
        )
    channels, *rest = into.shape
    height, width = (1, rest[0]) if len(rest) == 1 else (rest[0], rest[1])
    return Window((channels, height, width), (height, width), (1, 1))


Rule = Callable[[Lowering, TracedStep], None]
RULES: dict[str, Rule] = {
    "add": lower_combine,
    "clamp": lower_elementwise,
    "elementwise": lower_elementwise,
    "embedding": lower_embedding,
    "first": lower_same,
    "last": lower_same,
    "max pool": lower_pool,
    "mean pool": lower_pool,
    "multiply": lower_combine,
    "normalize": lower_normalize,
    "recurrent": lower_recurrent,
    "reshape": lower_same,
    "settle": lower_settle,
    "subtract": lower_combine,
    "whole mean": lower_pool,
}
"""What lowers each kind of step but products, which go in groups."""
