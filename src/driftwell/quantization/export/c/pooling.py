"""Largest value and mean of a sliding window; the scale stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from driftwell.quantization.export.c.arithmetic import quantize_multiplier, requantize, saturate
from driftwell.quantization.export.c.convolution import WINDOW_C, Window
from driftwell.quantization.export.c.program import Constant, Operation

MAX_C = """\
static void dw_max_pool(const dw_window *w, const int8_t *in, int8_t *out)
{
    for (int32_t c = 0; c < w->channels; c++, in += w->height * w->width)
        for (int32_t n = 0; n < w->out_height * w->out_width; n++) {
            const int32_t top = n / w->out_width * w->stride_y - w->pad_y;
            const int32_t left = n % w->out_width * w->stride_x - w->pad_x;
            int8_t best = INT8_MIN;
            for (int32_t i = 0; i < w->rows; i++)
                for (int32_t j = 0; j < w->columns; j++) {
                    const int32_t y = top + i * w->step_y, x = left + j * w->step_x;
                    if (y >= 0 && y < w->height && x >= 0 && x < w->width
                        && in[y * w->width + x] > best)
                        best = in[y * w->width + x];
                }
            *out++ = best;
        }
}
"""

MEAN_C = """\
static void dw_mean_pool(const dw_window *w, const int8_t *in, int32_t zero, int32_t multiplier,
                         int shift, int8_t *out)
{
    for (int32_t c = 0; c < w->channels; c++, in += w->height * w->width)
        for (int32_t n = 0; n < w->out_height * w->out_width; n++) {
            const int32_t top = n / w->out_width * w->stride_y;
            const int32_t left = n % w->out_width * w->stride_x;
            int32_t sum = 0;
            for (int32_t i = 0; i < w->rows; i++)
                for (int32_t j = 0; j < w->columns; j++)
                    sum += in[(top + i) * w->width + left + j] - zero;
            *out++ = dw_saturate8((int64_t)dw_requantize(sum, multiplier, shift) + zero);
        }
}
"""


@final
@dataclass(frozen=True, eq=False)
class Pool(Operation):
    """Largest or mean value of a window, channel by channel.

    Attributes:
        name: of its window.
        inputs: one 8-bit buffer (channels, height, width).
        output: 8-bit buffer of the same scale.
        window: where it looks.
        zero: the 8-bit number that means 0.
        mean: the mean, of windows that lie within the image, and not the largest.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    window: Window
    zero: int
    mean: bool

    @property
    def macs(self) -> int:
        """None: it only adds and compares."""
        return 0

    @property
    def kernels(self) -> tuple[str, ...]:
        """One."""
        return (WINDOW_C, MEAN_C if self.mean else MAX_C)

    def constants(self) -> tuple[Constant, ...]:
        """None."""
        return ()

    def declarations(self) -> tuple[str, ...]:
        """The window."""
        return (self.window.declaration(self.name),)

    def factor(self) -> tuple[int, int]:
        """One over the entries of the window."""
        rows, columns = self.window.kernel
        return quantize_multiplier(1 / (rows * columns))

    def run(self, values: dict[str, Tensor]) -> None:
        """By torch's pools in float64."""
        q, w = values[self.inputs[0]], self.window
        image = q.reshape(len(q), *w.shape).double()
        if self.mean:
            sums = functional.avg_pool2d(
                image - self.zero, w.kernel, w.stride, divisor_override=1
            ).round().to(torch.int64)  # fmt: skip
            found = saturate(requantize(sums, *self.factor()) + self.zero, 8)
        else:
            found = functional.max_pool2d(image, w.kernel, w.stride, w.padding, w.dilation)
            found = found.to(torch.int64)
        values[self.output] = found.flatten(1)

    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """One call."""
        into, out = pointers[self.inputs[0]], pointers[self.output]
        if not self.mean:
            return (f"dw_max_pool(&{self.name}_window, {into}, {out});",)
        multiplier, shift = self.factor()
        window = f"{self.name}_window"
        return (f"dw_mean_pool(&{window}, {into}, {self.zero}, {multiplier}, {shift}, {out});",)
