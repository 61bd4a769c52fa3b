"""From the integer state of visible neurons to grey values 0 .. 255."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.data import AtanhScaling, PlainScaling, Transform, Whitening
from driftwell.quantization.export.c.arithmetic import (
    interpolate,
    interpolated_table,
    quantize_multiplier,
    requantize,
    saturate,
    shift_round,
)
from driftwell.quantization.export.c.langevin_coupling import Coupling, coupling, to_grid
from driftwell.quantization.export.c.program import Constant
from driftwell.quantization.formats import Uniform

TANH_BITS = 12
"""The table of tanh takes 16-bit numbers in units of 2^-12, so |x| < 8."""
RATE_BITS = 15
"""tanh comes in units of 2^-15."""
PICTURE_TOP = 2047
"""States are multiplied with principal components in 12 bits."""
WHITE = 255

TANH = interpolated_table(torch.tanh, 2.0**-TANH_BITS, 2.0**-RATE_BITS)


def integer_tanh(x: Tensor, fraction: int) -> Tensor:
    """tanh of numbers in units of 2^-fraction, int64 in units of 2^-15.

    Example:
        >>> integer_tanh(torch.tensor([-(1 << 20), 0, 9 << 20]), 20).tolist()
        [-24956, 0, 32767]
    """
    return interpolate(TANH, saturate(shift_round(x, fraction - TANH_BITS), 16))


@final
@dataclass(frozen=True, eq=False)
class Decoder:
    """Pixels of visible states x: y = x, or mean + W x; grey = 255 (y - low) / (high - low) within
    0 .. 255, or 255 (tanh(y) + 1) / 2 where rates are shown.

    Attributes:
        height: of an image.
        width: of an image.
        fraction: x and y are in units of 2^-fraction.
        matrix: W (pixels, visible), or None.
        mean: int64 (pixels,), or None.
        rate: whether tanh(y) is shown.
        low: y of black.
        grey: multiplier and shift of a unit of y - low in grey values.
    """

    height: int
    width: int
    fraction: int
    matrix: Coupling | None
    mean: Tensor | None
    rate: bool
    low: int
    grey: tuple[int, int]

    @property
    def visible(self) -> int:
        """Neurons that are shown."""
        return self.pixels if self.matrix is None else self.matrix.columns

    @property
    def pixels(self) -> int:
        """Of an image."""
        return self.height * self.width

    def decode(self, x: Tensor) -> Tensor:
        """Grey values int64 (B, pixels) of visible states x (B, visible)."""
        y = x
        if self.matrix is not None and self.mean is not None:
            q, shift = to_grid(x, PICTURE_TOP)
            y = saturate(self.mean + self.matrix.onward(q, shift), 32)
        if self.rate:
            return shift_round((integer_tanh(y, self.fraction) + 32768) * WHITE, RATE_BITS + 1)
        return requantize(saturate(y - self.low, 32), *self.grey).clamp(0, WHITE)

    def constants(self) -> tuple[Constant, ...]:
        """Read-only arrays."""
        if self.matrix is None or self.mean is None:
            return ()
        return (*self.matrix.constants(both=False), Constant("dw_mean", self.mean, "int32_t"))

    def code(self, name: str) -> str:
        """The function that writes an image's pixels."""
        y = "chain->x[i]"
        lines = ["    int32_t i;"]
        if self.matrix is not None:
            lines += [f"    const int shift = dw_to_grid(chain->x, {self.matrix.columns}, "
                      f"{PICTURE_TOP}, dw_scratch.q);"]  # fmt: skip
            y = (
                "dw_saturate32((int64_t)dw_mean[i] + "
                "dw_onward(&dw_picture, i, dw_scratch.q, shift))"
            )
        lines += [f"    for (i = 0; i < {self.pixels}; i++) {{", f"        const int32_t y = {y};"]
        if self.rate:
            grey = f"dw_shift_round((int64_t)(dw_tanh(y, {self.fraction}) + 32768) * {WHITE}, 16)"
            lines.append(f"        pixels[i] = (uint8_t){grey};")
        else:
            bare = f"dw_requantize(dw_saturate32((int64_t)y - ({self.low})), {self.grey[0]}, "
            lines += [
                f"        const int32_t grey = {bare}{self.grey[1]});",
                f"        pixels[i] = (uint8_t)dw_clamp(grey, 0, {WHITE});",
            ]
        head = f"void {name}_pixels(const {name}_chain *chain, uint8_t *pixels)\n{{\n"
        return head + "\n".join(lines) + "\n    }\n}\n"


def decoder(transform: Transform, image: tuple[int, int], visible: int, fraction: int) -> Decoder:
    """The integers of a transform's inverse.

    Args:
        transform: `AtanhScaling`, `PlainScaling`, or `Whitening` after one of them.
        image: height and width.
        visible: number of visible neurons.
        fraction: states are in units of 2^-fraction.

    Raises:
        InvalidInput: another transform, or sizes that do not fit.
    """
    height, width = image
    matrix, mean, scaling = None, None, transform
    if isinstance(transform, Whitening):
        scaling = transform.scaling
        rows = (transform.components * transform.scales[:, None]).detach().double().T
        matrix = coupling("dw_picture", Uniform(8, symmetric=True).encode(rows))
        matrix.check_sums(PICTURE_TOP)
        mean = saturate((transform.mean.double() * 2.0**fraction).round().long(), 32)
    if not isinstance(scaling, (AtanhScaling, PlainScaling)):
        raise InvalidInput(
            f"pictures are decoded in C for AtanhScaling, PlainScaling and Whitening, "
            f"not for {type(scaling).__name__}"
        )
    sizes = (visible, height * width) if matrix is None else (matrix.columns, matrix.rows)
    if sizes != (visible, height * width) or (matrix is None and visible != height * width):
        raise InvalidInput(
            f"an image of {height} x {width} pixels and {visible} visible neurons do not fit a "
            f"transform between {sizes[0]} states and {sizes[1]} pixels"
        )
    rate = isinstance(scaling, AtanhScaling) or scaling.shown_as_rate
    low, high = (-1.0, 1.0) if isinstance(scaling, AtanhScaling) else (scaling.low, scaling.high)
    grey = quantize_multiplier(WHITE / (high - low) * 2.0**-fraction)
    return Decoder(height, width, fraction, matrix, mean, rate, round(low * 2.0**fraction), grey)
