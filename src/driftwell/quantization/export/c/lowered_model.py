"""A model lowered to a program of integers, after all that can be wrong with it is checked."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.equilibrium import traceable
from driftwell.quantization.export.c.graph import TracedGraph, trace
from driftwell.quantization.export.c.lowering import Lowering
from driftwell.quantization.export.c.program import Buffer, IntegerProgram
from driftwell.quantization.export.c.ranges import observe, range_of
from driftwell.quantization.export.c.repetition import Copy
from driftwell.quantization.export.c.rules import lower_graph
from driftwell.quantization.export.c.weighing import weighing


def lower(
    model: nn.Module,
    calibration: Tensor,
    *,
    name: str = "network",
    bits: int = 8,
    iterations: int | None = None,
) -> IntegerProgram:
    """A model as a program of integers, which `simulate` runs and `emit` writes as C.

    Activations are 8-bit integers with a scale and a zero for each tensor, from the range that it
    takes on the calibration data; weights have a scale a row; sums are 32 bits; what scales them
    is an integer of 31 bits and a shift, rounded once, halves away from zero.

    Args:
        model: in eval mode; traced symbolically, so its forward may not branch on values. A
            `DEQClassifier` and recurrent cells are taken apart first.
        calibration: inputs the model is for, (B, ...); (B, T, ...) with recurrent layers, whose
            program is one step; whole numbers (B, ...) for a model that begins with an embedding.
        name: prefix of all names in C.
        bits: of float layers' weights, 1 to 8; packed layers keep their own.
        iterations: how often a `DEQClassifier` settles; None derives it from tolerance and bound.

    Raises:
        InvalidInput: a model, a name or data that cannot become C; every operator that C cannot
            carry is named.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
        >>> program = lower(model, torch.linspace(-1, 1, 40).reshape(10, 4))
        >>> [type(operation).__name__ for operation in program.operations], program.macs
        (['Dense', 'Dense'], 18)
    """
    check_name(name)
    check_data(calibration)
    check_mode(model)
    steps = traceable(model, iterations)
    graph = trace(steps)
    if len(graph.inputs) != 1 or not graph.steps:
        raise InvalidInput(
            f"{type(model).__name__} must take one tensor and do something with it to be written "
            f"as C, it takes {', '.join(graph.inputs) or 'nothing'}"
        )
    lead = 1 + any(step.kind == "recurrent" for step in graph.steps)
    observed = observe(graph, calibration, lead=lead)
    lowering = Lowering(graph, observed, weighing(bits))
    into = _input(graph, calibration, lead)
    lowering.buffers[graph.inputs[0]] = into
    out = lower_graph(lowering)
    if out.bits != 8:
        raise InvalidInput("the last step must give 8 bits")
    if out.kept or out.name == into.name:
        # the caller's memory is not the program's: a state stays where it is
        given = lowering.new(replace(out, name="output", kept=False))
        lowering.operations.append(Copy((out.name,), given.name, out.size))
        out = given
    operations = tuple(lowering.operations)
    buffers = {into.name: into, **lowering.all_buffers()}
    return IntegerProgram(name, tuple(buffers.values()), operations, into.name, out.name)


def _input(graph: TracedGraph, calibration: Tensor, lead: int) -> Buffer:
    """The buffer a caller fills: 8 bits, or 16 for tokens."""
    span = range_of(calibration, "the calibration data", lead)
    users = [graph.step(name) for name in graph.users.get(graph.inputs[0], ())]
    if any(step is not None and step.kind == "embedding" for step in users):
        return Buffer("input", span.shape, 16)
    return span.bytes_buffer("input")


def check_name(name: str) -> None:
    """Raise unless `name` can begin the names of a program in C."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name.startswith("dw_"):
        raise InvalidInput(
            "the name of a network in C is lower-case letters, digits and underscores, and does "
            f"not begin with dw_, got {name!r}"
        )


def check_mode(model: nn.Module) -> None:
    """Raise if a part of the model is in training mode."""
    if any(module.training for module in model.modules()):
        raise InvalidInput("the model is in training mode: call model.eval() before you export it")


def check_data(calibration: Tensor) -> None:
    """Raise unless it is a batch."""
    if not isinstance(calibration, Tensor) or calibration.ndim < 2 or not len(calibration):
        got = tuple(calibration.shape) if isinstance(calibration, Tensor) else type(calibration)
        raise InvalidInput(f"calibration is a batch of inputs (B, ...), got {got}")
