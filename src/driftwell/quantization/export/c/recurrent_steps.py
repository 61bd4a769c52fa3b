"""Lowering of recurrent layers: the program is one step of a sequence, and keeps its state."""

from __future__ import annotations

import torch
from torch import nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.dense import Dense
from driftwell.quantization.export.c.graph import TracedStep
from driftwell.quantization.export.c.lowering import Lowering
from driftwell.quantization.export.c.products import Product
from driftwell.quantization.export.c.program import Buffer
from driftwell.quantization.export.c.recurrent import HIDDEN, PREACTIVATION, Gates, Kind
from driftwell.quantization.export.c.weights import multipliers
from driftwell.quantization.modules import Recurrent, RecurrentCell

KINDS: dict[str, Kind] = {"RNN": "rnn", "GRU": "gru", "LSTM": "lstm"}


def lower_recurrent(lowering: Lowering, step: TracedStep) -> None:
    """All layers, each with its own state."""
    module = step.module
    net = Recurrent.from_float(module) if isinstance(module, nn.RNNBase) else module
    if not isinstance(net, Recurrent) or net.directions > 1 or not net.batch_first:
        raise InvalidInput(
            f"{step.name}: C carries recurrent layers in one direction with batch_first=True"
        )
    into = lowering.source(step.inputs[0])
    for layer, cell in enumerate(net.cells):
        if not isinstance(cell, RecurrentCell) or cell.nonlinearity != "tanh":
            raise InvalidInput(f"{step.name}: C carries recurrent layers of tanh only")
        into = _lower_cell(lowering, f"{step.name}_{layer}", cell, into)
    lowering.buffers[step.name] = into


def _lower_cell(lowering: Lowering, name: str, cell: RecurrentCell, into: Buffer) -> Buffer:
    size, kind = cell.hidden_size, KINDS[cell.kind]
    hidden = lowering.new(Buffer(f"{name}_h", (size,), 8, HIDDEN, kept=True))
    x = _gate_inputs(lowering, f"{name}_ih", cell.ih, into)
    h = _gate_inputs(lowering, f"{name}_hh", cell.hh, hidden)
    inputs: tuple[str, ...] = (x.name, h.name)
    if kind != "rnn":
        unit = PREACTIVATION if kind == "lstm" else 2.0**-15
        state = lowering.new(Buffer(f"{name}_state", (size,), 16, unit, kept=True))
        inputs = (x.name, h.name, state.name)
    lowering.operations.append(Gates(kind, inputs, hidden.name, size))
    return hidden


def _gate_inputs(lowering: Lowering, name: str, layer: nn.Module, into: Buffer) -> Buffer:
    """A product whose results are 16 bits in steps that the gates take."""
    weights, bias = lowering.weigh(name, layer, None)
    product = Product.of(weights, bias, into)
    out = lowering.new(Buffer(name, (len(bias),), 16, PREACTIVATION))
    multiplier, shift = multipliers(product.steps / torch.tensor(PREACTIVATION).double())
    lowering.operations.append(
        Dense(
            lowering.named(name), (into.name,), out.name, product.weights, multiplier, shift,
            into.zero, product.start(name), bits=16,
        )
    )  # fmt: skip
    return out
