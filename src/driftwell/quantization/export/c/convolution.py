"""Convolutions over channels, rows and columns; in one dimension there is one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.c.arithmetic import requantize
from driftwell.quantization.export.c.dense import OUTPUT_C, Ending
from driftwell.quantization.export.c.program import Constant, Operation
from driftwell.quantization.export.c.weights import (
    MATRIX_C,
    IntegerWeights,
    matrix_constants,
    matrix_declaration,
)

WINDOW_C = """\
/* a window that slides over channels x height x width */
typedef struct {
    int32_t channels, height, width, out_height, out_width;
    int32_t rows, columns, stride_y, stride_x, pad_y, pad_x, step_y, step_x;
} dw_window;
"""

CONVOLVE_C = """\
/* the sum of one output: places outside of the input stand for 0 */
static int32_t dw_window_sum(const dw_matrix *m, int32_t row, const int8_t *in, int32_t zero_in,
                             const dw_window *w, int32_t channels, int32_t top, int32_t left)
{
    int32_t sum = 0, column = 0;
    for (int32_t c = 0; c < channels; c++)
        for (int32_t i = 0; i < w->rows; i++)
            for (int32_t j = 0; j < w->columns; j++, column++) {
                const int32_t y = top + i * w->step_y, x = left + j * w->step_x;
                if (y >= 0 && y < w->height && x >= 0 && x < w->width)
                    sum += dw_weight(m, row, column)
                           * (in[(c * w->height + y) * w->width + x] - zero_in);
            }
    return sum;
}

static void dw_convolve(const dw_matrix *m, const int32_t *start, const int8_t *in,
                        int32_t zero_in, const dw_window *w, int32_t groups,
                        const dw_ending *end, int8_t *out)
{
    const int32_t channels = w->channels / groups, size = channels * w->height * w->width;
    for (int32_t r = 0; r < m->rows; r++) {
        const int8_t *from = in + r / (m->rows / groups) * size;
        for (int32_t y = 0; y < w->out_height; y++)
            for (int32_t x = 0; x < w->out_width; x++) {
                const int32_t sum = dw_window_sum(m, r, from, zero_in, w, channels,
                                                  y * w->stride_y - w->pad_y,
                                                  x * w->stride_x - w->pad_x);
                *out++ = dw_end(end, dw_rescale(m, r, start[r] + sum));
            }
    }
}
"""

Pair = tuple[int, int]


@final
@dataclass(frozen=True)
class Window:
    """A window that slides over an image (channels, height, width).

    Attributes:
        shape: channels, height and width of the input.
        kernel: rows and columns of the window.
        stride: places it moves by.
        padding: rows and columns outside of the image on each side.
        dilation: places between the window's entries.
    """

    shape: tuple[int, int, int]
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def out(self) -> Pair:
        """Height and width of the result."""
        height, width = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(
                self.shape[1:], self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return height, width

    def declaration(self, name: str) -> str:
        """The `dw_window`."""
        pairs = (self.kernel, self.stride, self.padding, self.dilation)
        numbers = [*self.shape, *self.out, *(n for pair in pairs for n in pair)]
        return f"static const dw_window {name}_window = {{{', '.join(map(str, numbers))}}};"


@final
@dataclass(frozen=True, eq=False)
class Convolution(Operation):
    """out[r, y, x] = end(rescale_r(bias[r] + sum w[r, c, i, j] (in[c, y', x'] - zero_in))).

    Attributes:
        name: of its arrays.
        inputs: one 8-bit buffer (channels, height, width).
        output: 8-bit buffer (R, out height, out width).
        weights: the kernels as a matrix (R, channels / groups * rows * columns).
        multiplier: int64 (R,), with `shift`: from sums to steps of the output.
        shift: int64 (R,).
        zero_in: the 8-bit number of the input that means 0.
        bias: start of the sums, int64 (R,) within 32 bits.
        ending: what makes 8 bits of it.
        window: where the kernels lie.
        groups: of channels that see only their own kernels.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    weights: IntegerWeights
    multiplier: Tensor
    shift: Tensor
    zero_in: int
    bias: Tensor
    ending: Ending
    window: Window
    groups: int = 1

    @property
    def macs(self) -> int:
        """Entries of the kernels times places."""
        height, width = self.window.out
        return self.weights.codes.numel() * height * width

    @property
    def kernels(self) -> tuple[str, ...]:
        """Of convolutions."""
        return (MATRIX_C, OUTPUT_C, WINDOW_C, CONVOLVE_C)

    def constants(self) -> tuple[Constant, ...]:
        """Kernels, bias and table."""
        return (
            *matrix_constants(self.name, self.weights, self.multiplier, self.shift),
            Constant(f"{self.name}_bias", self.bias, "int32_t"),
            *self.ending.constants(self.name),
        )

    def declarations(self) -> tuple[str, ...]:
        """The matrix, the ending and the window."""
        return (
            matrix_declaration(self.name, self.weights),
            self.ending.declaration(self.name),
            self.window.declaration(self.name),
        )

    def run(self, values: dict[str, Tensor]) -> None:
        """The convolution in float64, where sums below 2^53 are exact."""
        q, w = values[self.inputs[0]], self.window
        image = (q.reshape(len(q), *w.shape) - self.zero_in).double()
        kernel = self.weights.integers.double().reshape(
            len(self.bias), w.shape[0] // self.groups, *w.kernel
        )
        sums = functional.conv2d(
            image, kernel, None, w.stride, w.padding, w.dilation, self.groups
        ).to(torch.int64)
        sums = (sums + self.bias[:, None, None]).flatten(2)
        value = requantize(sums, self.multiplier[:, None], self.shift[:, None])
        values[self.output] = self.ending.apply(value).flatten(1)

    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """One call."""
        n = self.name
        return (
            f"dw_convolve(&{n}, {n}_bias, {pointers[self.inputs[0]]}, {self.zero_in}, "
            f"&{n}_window, {self.groups}, &{n}_end, {pointers[self.output]});",
        )


def window_of(module: nn.Module, shape: tuple[int, ...]) -> Window:
    """The window of a convolution or a pool over an input of that shape.

    Raises:
        InvalidInput: padding other than zeros, rounded-up sizes, or an input that is no image.
    """
    flat = len(shape) == 2
    if len(shape) not in (2, 3):
        raise InvalidInput(
            f"{type(module).__name__} takes (channels, width) or (channels, height, width) of "
            f"each sample, got {shape}"
        )
    if getattr(module, "padding_mode", "zeros") != "zeros" or getattr(module, "ceil_mode", False):
        raise InvalidInput(
            f"C carries {type(module).__name__} with zeros around the input and sizes rounded "
            "down only"
        )
    kernel = _pair(module.kernel_size, flat, 1)
    stride = _pair(module.stride or module.kernel_size, flat, 1)
    dilation = _pair(getattr(module, "dilation", 1), flat, 1)
    padding = getattr(module, "padding", 0)
    if padding == "valid":
        padding = 0
    if padding == "same":
        both = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(n % 2 for n in both):
            raise InvalidInput('C carries padding="same" with odd windows only')
        pad: Pair = (both[0] // 2, both[1] // 2)
    else:
        pad = _pair(padding, flat, 0)
    full = (shape[0], 1, shape[1]) if flat else (shape[0], shape[1], shape[2])
    return Window(full, kernel, stride, pad, dilation)


def _pair(value: object, flat: bool, row: int) -> Pair:
    """Rows and columns; in one dimension `row` for the rows."""
    numbers = tuple(value) if isinstance(value, tuple) else (value,)
    if flat:
        return row, int(numbers[-1])
    return int(numbers[0]), int(numbers[-1])
