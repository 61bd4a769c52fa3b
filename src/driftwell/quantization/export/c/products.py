"""Lowering of matrix products and convolutions, with the sums and endings that join them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.addition import Align
from driftwell.quantization.export.c.arithmetic import interpolated_table
from driftwell.quantization.export.c.convolution import Convolution, window_of
from driftwell.quantization.export.c.dense import Dense, Ending
from driftwell.quantization.export.c.graph import Elementwise, TracedStep
from driftwell.quantization.export.c.grouping import Group
from driftwell.quantization.export.c.lowering import Lowering
from driftwell.quantization.export.c.program import Buffer
from driftwell.quantization.export.c.weights import IntegerWeights, multipliers

LARGEST = 2**31 - 1
"""Largest sum in 32 bits."""
LARGEST_BIAS = 2**29
"""Largest bias in steps of a row's sum."""


@final
@dataclass(frozen=True, eq=False)
class Product:
    """A layer in integers: its matrix, its bias in steps of its sums, and these steps.

    Attributes:
        weights: the matrix.
        bias: float64 (R,), in the layer's units.
        steps: float64 (R,), units of a step of each row's sum.
        zero_in: the 8-bit number of the input that means 0.
    """

    weights: IntegerWeights
    bias: Tensor
    steps: Tensor
    zero_in: int

    @classmethod
    def of(cls, weights: IntegerWeights, bias: Tensor, into: Buffer) -> Product:
        """The product of a buffer's values; rows that are tiny beside their bias get coarser."""
        weights = weights.coarsened(bias.abs() / (into.scale * LARGEST_BIAS))
        return cls(weights, bias, weights.scale * into.scale, into.zero)

    def start(self, name: str) -> Tensor:
        """The bias in steps, int64 (R,).

        Raises:
            InvalidInput: an input could take a sum beyond 32 bits.
        """
        start = torch.round(self.bias / self.steps)
        largest = start.abs() + self.weights.largest_sum(self.zero_in)
        if bool((largest > LARGEST).any()):
            row = int(largest.argmax())
            raise InvalidInput(
                f"row {row} of {name} may sum up to {float(largest[row]):.3g}, beyond 32 bits: "
                "its bias is too large for its weights, or it has too many columns"
            )
        return start.to(torch.int64)

    def room(self) -> int:
        """Largest start that keeps every sum within 32 bits."""
        return LARGEST - int(self.weights.largest_sum(self.zero_in).max())


def product_of(lowering: Lowering, group: Group) -> Product:
    """The layer that begins a group."""
    module, name = group.first.module, group.first.name
    if module is None:
        raise InvalidInput(f"{name} has no weight to write as C")
    into = lowering.source(group.first.inputs[0])
    weights, bias = lowering.weigh(name, module, group.normalize)
    return Product.of(weights, bias, into)


def lower_product(lowering: Lowering, group: Group) -> None:
    """A group of steps as one operation, after one that begins its sums if it has an addend."""
    product = product_of(lowering, group)
    into = lowering.source(group.first.inputs[0])
    if group.first.kind == "convolution":
        _convolution(lowering, group, product, into)
        return
    name = lowering.named(group.first.name)
    if lowering.is_start(group.last):
        out = lowering.new(lowering.range(group.last).halves_buffer(group.last), group.last)
        ending, factor = Ending(), product.steps / out.scale
    else:
        out, ending, factor = ending_of(lowering, group, product.steps)
        out = lowering.new(out, group.last)
    inputs: tuple[str, ...] = (into.name,)
    bias: Tensor | None = None
    if group.addend is None:
        bias = product.start(group.first.name)
    else:
        inputs = (into.name, _start(lowering, group, product).name)
    multiplier, shift = multipliers(factor)
    count = into.size // product.weights.codes.shape[1]
    lowering.operations.append(
        Dense(
            name, inputs, out.name, product.weights, multiplier, shift, into.zero, bias, ending,
            out.bits, count=count,
        )
    )  # fmt: skip


def _start(lowering: Lowering, group: Group, product: Product) -> Buffer:
    """The 32-bit buffer of what is added to the product, with its bias."""
    addend = lowering.buffers[group.addend or ""]
    rows = len(product.bias)
    if (
        addend.size != rows
        or lowering.source(group.first.inputs[0]).size != (product.weights.codes.shape[1])
    ):
        raise InvalidInput(
            f"{group.addend} is added to {group.first.name}, and C adds vectors of one length: "
            f"got {addend.shape} and {(rows,)}"
        )
    name = lowering.named(group.first.name)
    out = lowering.new(Buffer(f"{group.first.name}_start", (rows,), 32))
    multiplier, shift = multipliers(addend.scale / product.steps)
    bias = torch.round(product.bias / product.steps)
    room = product.room()
    if room < 0 or bool((bias.abs() > room).any()):
        product.start(group.first.name)
    lowering.operations.append(
        Align(name, (addend.name,), out.name, addend, multiplier, shift, bias.to(torch.int64), room)
    )
    return out


def _convolution(lowering: Lowering, group: Group, product: Product, into: Buffer) -> None:
    module = group.first.module or nn.Identity()
    out, ending, factor = ending_of(lowering, group, product.steps)
    out = lowering.new(out, group.last)
    multiplier, shift = multipliers(factor)
    window = window_of(module, into.shape)
    groups = int(getattr(module, "groups", 1))
    lowering.operations.append(
        Convolution(
            lowering.named(group.first.name), (into.name,), out.name, product.weights, multiplier,
            shift, into.zero, product.start(group.first.name), ending, window, groups,
        )
    )  # fmt: skip


def ending_of(lowering: Lowering, group: Group, steps: Tensor) -> tuple[Buffer, Ending, Tensor]:
    """Buffer of a group's result, what makes it of sums in `steps`, and the rows' factors."""
    out = lowering.range(group.last).bytes_buffer(group.last)
    end = group.ending
    if end is None:
        return out, Ending(out.zero), steps / out.scale
    if end.kind == "clamp":
        low, high = clamp_of(end, out)
        return out, Ending(out.zero, low, high), steps / out.scale
    fine = 1.5 * lowering.range(group.raw).size / 32767 or 1.0
    function = on_doubles(end.function)
    table = interpolated_table(lambda x: function(x) / out.scale + out.zero, fine, 1 / 256)
    return out, Ending(out.zero, table=table), steps / fine


def clamp_of(step: TracedStep, buffer: Buffer) -> tuple[int, int]:
    """Limits of a clamp as 8-bit numbers."""
    low, high = (limit / buffer.scale + buffer.zero for limit in step.limits)
    return round(min(max(low, -128), 127)), round(max(min(high, 127), -128))


def on_doubles(function: Elementwise | None) -> Elementwise:
    """The function, run on float64 without gradients."""

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return x if function is None else function(x.double())

    return run
