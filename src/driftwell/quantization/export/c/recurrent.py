"""One step of a recurrent layer: gates of 16 bits, a state that lasts from run to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, final

import torch
from torch import Tensor

from driftwell.quantization.export.c.arithmetic import (
    interpolate,
    interpolated_table,
    saturate,
    shift_round,
)
from driftwell.quantization.export.c.program import Constant, Operation

Kind = Literal["rnn", "gru", "lstm"]
GATES: dict[Kind, int] = {"rnn": 1, "gru": 3, "lstm": 4}
"""Gates of each kind, in torch's order: tanh; r z n; i f g o."""
PREACTIVATION = 2.0**-11
"""Step of what gates are functions of, and of an LSTM's cell: 16 bits reach 16."""
HIDDEN = 2.0**-7
"""Step of the 8-bit hidden state."""

GATES_C = """\
/* sigma and tanh of a + b, in units of 2^-15, of numbers in units of 2^-11 */
static int32_t dw_gate(const int16_t *table, int32_t a, int32_t b)
{
    return dw_interpolate(table, dw_saturate16((int64_t)a + b));
}
"""

RNN_C = """\
static void dw_rnn(const int16_t *bend, const int16_t *x, const int16_t *h, int32_t size,
                   int8_t *hidden)
{
    for (int32_t i = 0; i < size; i++)
        hidden[i] = dw_saturate8(dw_shift_round(dw_gate(bend, x[i], h[i]), 8));
}
"""

GRU_C = """\
/* h <- n + z (h - n),  n = tanh(x_n + r h_n),  r and z = sigma(x + h) */
static void dw_gru(const int16_t *sigma, const int16_t *bend, const int16_t *x, const int16_t *h,
                   int32_t size, int16_t *state, int8_t *hidden)
{
    for (int32_t i = 0; i < size; i++) {
        const int32_t r = dw_gate(sigma, x[i], h[i]);
        const int32_t z = dw_gate(sigma, x[size + i], h[size + i]);
        const int32_t reset = (int32_t)dw_shift_round((int64_t)r * h[2 * size + i], 15);
        const int32_t n = dw_gate(bend, x[2 * size + i], reset);
        state[i] = dw_saturate16(n + dw_shift_round((int64_t)z * (state[i] - n), 15));
        hidden[i] = dw_saturate8(dw_shift_round(state[i], 8));
    }
}
"""

LSTM_C = """\
/* c <- f c + i g,  h = o tanh(c),  i, f and o = sigma(x + h),  g = tanh(x + h) */
static void dw_lstm(const int16_t *sigma, const int16_t *bend, const int16_t *x, const int16_t *h,
                    int32_t size, int16_t *state, int8_t *hidden)
{
    for (int32_t n = 0; n < size; n++) {
        const int32_t i = dw_gate(sigma, x[n], h[n]);
        const int32_t f = dw_gate(sigma, x[size + n], h[size + n]);
        const int32_t g = dw_gate(bend, x[2 * size + n], h[2 * size + n]);
        const int32_t o = dw_gate(sigma, x[3 * size + n], h[3 * size + n]);
        state[n] = dw_saturate16(dw_shift_round(16 * (int64_t)f * state[n] + (int64_t)i * g, 19));
        hidden[n] = dw_saturate8(dw_shift_round((int64_t)o * dw_gate(bend, state[n], 0), 23));
    }
}
"""


@cache
def sigma_table() -> Tensor:
    """1 / (1 + e^-u), in units of 2^-15."""
    return interpolated_table(torch.sigmoid, PREACTIVATION, 2.0**-15)


@cache
def tanh_table() -> Tensor:
    """Tanh u, in units of 2^-15."""
    return interpolated_table(torch.tanh, PREACTIVATION, 2.0**-15)


@final
@dataclass(frozen=True, eq=False)
class Gates(Operation):
    """The hidden state and the inner state of a recurrent layer after one more step.

    Attributes:
        kind: ``"rnn"``, ``"gru"`` or ``"lstm"``.
        inputs: what the input and the hidden state give to the gates, two 16-bit buffers of all
            gates; then the inner state (16 bits), but for an RNN, which has none.
        output: the hidden state, 8 bits in steps of 2^-7; it and the inner state are kept.
        size: hidden units.
    """

    kind: Kind
    inputs: tuple[str, ...]
    output: str
    size: int

    @property
    def macs(self) -> int:
        """Products of gates and states: none, two or three a unit."""
        return {"rnn": 0, "gru": 2, "lstm": 3}[self.kind] * self.size

    @property
    def kernels(self) -> tuple[str, ...]:
        """Of its kind."""
        return (GATES_C, {"rnn": RNN_C, "gru": GRU_C, "lstm": LSTM_C}[self.kind])

    def constants(self) -> tuple[Constant, ...]:
        """The tables, one for all layers."""
        tanh = Constant("dw_tanh", tanh_table(), "int16_t")
        if self.kind == "rnn":
            return (tanh,)
        return (Constant("dw_sigma", sigma_table(), "int16_t"), tanh)

    def run(self, values: dict[str, Tensor]) -> None:
        """One step for a batch."""
        x, h = (values[name].unflatten(1, (-1, self.size)).unbind(1) for name in self.inputs[:2])
        if self.kind == "rnn":
            values[self.output] = saturate(shift_round(_tanh(x[0] + h[0]), 8), 8)
            return
        step = _gru if self.kind == "gru" else _lstm
        state = values[self.inputs[2]]
        values[self.inputs[2]], values[self.output] = step(x, h, state)

    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """One call."""
        x, h = (pointers[name] for name in self.inputs[:2])
        if self.kind == "rnn":
            return (f"dw_rnn(dw_tanh, {x}, {h}, {self.size}, {pointers[self.output]});",)
        return (
            f"dw_{self.kind}(dw_sigma, dw_tanh, {x}, {h}, {self.size}, "
            f"{pointers[self.inputs[2]]}, {pointers[self.output]});",
        )


Several = tuple[Tensor, ...]


def _sigma(u: Tensor) -> Tensor:
    return interpolate(sigma_table(), saturate(u, 16))


def _tanh(u: Tensor) -> Tensor:
    return interpolate(tanh_table(), saturate(u, 16))


def _gru(x: Several, h: Several, state: Tensor) -> tuple[Tensor, Tensor]:
    r, z = _sigma(x[0] + h[0]), _sigma(x[1] + h[1])
    n = _tanh(x[2] + shift_round(r * h[2], 15))
    state = saturate(n + shift_round(z * (state - n), 15), 16)
    return state, saturate(shift_round(state, 8), 8)


def _lstm(x: Several, h: Several, state: Tensor) -> tuple[Tensor, Tensor]:
    i, f, o = (_sigma(x[k] + h[k]) for k in (0, 1, 3))
    g = _tanh(x[2] + h[2])
    state = saturate(shift_round(16 * f * state + i * g, 19), 16)
    return state, saturate(shift_round(o * _tanh(state), 23), 8)
