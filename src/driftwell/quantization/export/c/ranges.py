"""What values every step of a model takes on calibration data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.graph import TracedGraph
from driftwell.quantization.export.c.program import Buffer
from driftwell.quantization.export.c.settling import Settling


@final
@dataclass(frozen=True)
class Range:
    """Least and largest value of a step, and its shape without the batch."""

    low: float
    high: float
    shape: tuple[int, ...]

    @property
    def size(self) -> float:
        """Largest absolute value."""
        return max(-self.low, self.high)

    def union(self, other: Range) -> Range:
        """What covers both."""
        return Range(min(self.low, other.low), max(self.high, other.high), self.shape)

    def bytes_buffer(self, name: str) -> Buffer:
        """8 bits over [low, high] and 0, which is one of the numbers."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = (high - low) / 255 or 1.0
        zero = min(max(round(-128 - low / scale), -128), 127)
        return Buffer(name, self.shape, 8, scale, zero)

    def halves_buffer(self, name: str) -> Buffer:
        """16 bits over a quarter more than the largest absolute value, around 0."""
        return Buffer(name, self.shape, 16, 1.25 * self.size / 32767 or 1.0, 0)


@final
@dataclass(frozen=True)
class Observed:
    """Ranges of the results of a model, and of those inside the layers it settles."""

    ranges: dict[str, Range]
    inside: dict[str, Observed]

    def union(self, other: Observed) -> Observed:
        """Ranges that cover those of both, which are of one model."""
        ranges = {name: found.union(other.ranges[name]) for name, found in self.ranges.items()}
        inside = {name: found.union(other.inside[name]) for name, found in self.inside.items()}
        return Observed(ranges, inside)


def observe(graph: TracedGraph, *inputs: Tensor, lead: int = 1) -> Observed:
    """The range of every result of a model on a batch.

    Args:
        graph: the traced model.
        inputs: what it takes.
        lead: axes before those of a sample: the batch, or batch and time.

    Raises:
        InvalidInput: a step that gives values that are not finite, or no tensor.
    """
    recorder = _Recorder(graph, lead)
    with torch.no_grad():
        recorder.run(*inputs)
    return Observed(recorder.ranges, recorder.inside)


class _Recorder(fx.Interpreter):
    def __init__(self, graph: TracedGraph, lead: int) -> None:
        super().__init__(graph.traced)
        self.record, self.lead = graph, lead
        self.leads: dict[str, int] = {}
        self.ranges: dict[str, Range] = {}
        self.inside: dict[str, Observed] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            found = super().run_node(n)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise InvalidInput(
                f"the model cannot run on the calibration data ({n.name}: {error}): give it a "
                "batch of the inputs that the model takes"
            ) from error
        value = found[0] if isinstance(found, tuple) else found
        step = self.record.step(n.name)
        lead = max((self.leads[m.name] for m in n.all_input_nodes), default=self.lead)
        self.leads[n.name] = lead - (step is not None and step.kind == "last")
        if isinstance(value, Tensor) and n.op != "output":
            self.ranges[n.name] = range_of(value, n.name, self.leads[n.name])
        if step is not None and isinstance(step.module, Settling):
            x = self.env[n.all_input_nodes[0]]
            self.inside[n.name] = _observe_settling(self.record.inner[n.name], step.module, x)
        return found


def _observe_settling(graph: TracedGraph, module: Settling, x: Tensor) -> Observed:
    """Ranges over all iterations; the result's is also that of the state."""
    z = x.new_zeros(len(x), *module.shape)
    found = observe(graph, z, x)
    for _ in range(module.iterations - 1):
        with torch.no_grad():
            z = module.layer(z, x)
        found = found.union(observe(graph, z, x))
    return found


def range_of(value: Tensor, name: str, lead: int = 1) -> Range:
    """Range of a batch of values with so many axes before those of a sample."""
    if not len(value) or not bool(torch.isfinite(value).all()):
        raise InvalidInput(
            f"{name} gives values on the calibration data that are not finite, or none: "
            "calibrate on the inputs that the model is for"
        )
    low, high = torch.aminmax(value)
    return Range(float(low), float(high), tuple(value.shape[lead:]))
