"""From a model and the values it takes to a program of integers: the program as it grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.graph import TracedGraph
from driftwell.quantization.export.c.program import Buffer, Operation
from driftwell.quantization.export.c.ranges import Observed, Range
from driftwell.quantization.export.c.weights import IntegerWeights

Weigh = Callable[[str, nn.Module, nn.Module | None], tuple[IntegerWeights, Tensor]]
"""Integer weights and float64 bias of a layer, with a batch normalisation that follows it."""


@final
@dataclass(eq=False)
class Lowering:
    """A program as it grows, step by step.

    Attributes:
        graph: the traced model.
        observed: the values its steps take.
        weigh: what makes integers of a layer.
        prefix: of the names in C.
        buffers: those made so far, by the name of the result they hold.
        operations: those made so far.
        others: buffers that hold no result of the graph.
    """

    graph: TracedGraph
    observed: Observed
    weigh: Weigh
    prefix: str = "step_"
    buffers: dict[str, Buffer] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    others: list[Buffer] = field(default_factory=list)

    def range(self, name: str) -> Range:
        """Values of a result."""
        return self.observed.ranges[name]

    def source(self, name: str, bits: int = 8) -> Buffer:
        """The buffer of a result, which must have that many bits."""
        found = self.buffers[name]
        if found.bits != bits:
            raise InvalidInput(
                f"{name} is held in {found.bits} bits and a step that takes {bits} follows it: "
                "put an activation between the two"
            )
        return found

    def named(self, name: str) -> str:
        """Name in C of a result: no keyword, and no underscore at its start."""
        return self.prefix + name.lstrip("_")

    def new(self, buffer: Buffer, result: str | None = None) -> Buffer:
        """Add a buffer, which holds the result of that name if one is given."""
        buffer = replace(buffer, name=self.named(buffer.name))
        if result is None:
            self.others.append(buffer)
        else:
            self.buffers[result] = buffer
        return buffer

    def is_start(self, name: str) -> bool:
        """Whether a result only begins the sums of a settled layer: then it is worth 16 bits."""
        user = self.graph.only_user(name)
        if user is None or user.kind != "settle":
            return False
        inner = self.graph.inner[user.name]
        injected = inner.inputs[1] if len(inner.inputs) > 1 else ""
        sums = [inner.step(n) for n in inner.users.get(injected, ())]
        return bool(sums) and all(
            step is not None
            and step.kind == "add"
            and any(_is_product(inner, other) for other in step.inputs)
            for step in sums
        )

    def all_buffers(self) -> dict[str, Buffer]:
        """All buffers by their name in C."""
        return {buffer.name: buffer for buffer in (*self.buffers.values(), *self.others)}


def _is_product(graph: TracedGraph, name: str) -> bool:
    step = graph.step(name)
    return step is not None and step.kind == "linear" and graph.only_user(name) is not None
