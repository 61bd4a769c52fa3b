"""What a kernel must show before it is used: right numbers on extreme values.

`torch._int_mm` gives wrong numbers and no error on x86 processors without VNNI; a compiler or a
library may go wrong likewise. So every kernel is compared once a process, when it is first wanted,
with the exact product in float64 on the largest and smallest codes and numbers there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import final

import torch
from torch import Tensor

from driftwell.core import native
from driftwell.quantization.execution.compiled import SOURCE
from driftwell.quantization.execution.kernel import Kernel
from driftwell.quantization.execution.rounding import rounded
from driftwell.quantization.formats.grid import Grid
from driftwell.quantization.formats.packing import pack_codes
from driftwell.quantization.formats.quantized import Packed

_ROWS, _COLUMNS = 32, 4096
_BATCHES = (1, 5, 19)


@final
@dataclass(frozen=True)
class Verdict:
    """Whether a kernel may be used here, and why or why not."""

    available: bool
    why: str


def verdict(kernel: Kernel) -> Verdict:
    """The verdict on `kernel`, found at the first call in a process.

    Example:
        >>> from driftwell.quantization.execution.decoded import Decoded32
        >>> verdict(Decoded32()).available
        True
    """
    return _kept(kernel, native.load(SOURCE) is not None)


@cache
def _kept(kernel: Kernel, compiled: bool) -> Verdict:
    return examine(kernel)


def examine(kernel: Kernel) -> Verdict:
    """The same, found anew."""
    missing = kernel.missing()
    if missing:
        return Verdict(False, missing)
    worst, count = 0.0, 0
    try:
        for packed in _weights():
            if not kernel.refuses(packed):
                worst, count = max(worst, _error(kernel, packed)), count + 1
    except Exception as failure:  # whatever a broken operator raises, others do its work
        return Verdict(False, f"its self-test raised {type(failure).__name__}: {failure}")
    if not count:
        return Verdict(False, "it refuses every weight of its self-test")
    if not worst <= kernel.error:
        return Verdict(False, f"its self-test found errors of {worst:.1e}, not {kernel.error:.1e}")
    return Verdict(True, f"self-test passed: errors of at most {worst:.1e}")


def share_of_error(y: Tensor, x: Tensor, weight: Tensor) -> float:
    """Largest |y - x W^T| over the largest it could be, max|W| sum_c |x_c|; in float64.

    Example:
        >>> share_of_error(torch.tensor([[3.0]]), torch.ones(1, 2), torch.ones(1, 2))
        0.5
    """
    x, weight = x.double(), weight.double()
    most = x.abs().sum(dim=1, keepdim=True) * weight.abs().amax(dim=1)
    wrong = (y.double() - x @ weight.T).abs()
    shares = torch.where(wrong == 0, 0.0, wrong / most)
    # a number that is not one must not look small
    return float(shares.nan_to_num(torch.inf).max())


def _error(kernel: Kernel, packed: Packed) -> float:
    weight = packed.unpack().matrix.double()
    layout, worst = kernel.prepare(packed), 0.0
    for batch in _BATCHES:
        x = _extremes(batch, _COLUMNS, torch.tensor([-127.0, 127.0, -1.0, 1.0, 0.0]))
        given = rounded(x) if kernel.activations == "int8" else x
        worst = max(worst, share_of_error(kernel.run(x, layout), given, weight))
    return worst


def _weights() -> Iterator[Packed]:
    """Weights of 8, 4 and 3 bits at their ends, one of them with groups."""
    for bits, groups in ((8, 1), (4, 1), (3, 1), (4, _COLUMNS // 32)):
        largest = (1 << bits) - 1
        codes = _extremes(_ROWS, _COLUMNS, torch.tensor([0, largest, largest, 0, largest >> 1]))
        scale = 1.0 + torch.arange(_ROWS * groups).reshape(_ROWS, groups) % 7
        zero = torch.full((_ROWS, groups), float(1 << (bits - 1)))
        levels = torch.arange(largest + 1.0)
        grid = Grid(levels, scale, zero, _COLUMNS // groups, bits)
        data = pack_codes(codes.to(torch.uint8), bits)
        yield Packed(data, grid, _COLUMNS, (_ROWS, _COLUMNS), torch.float32)


def _extremes(rows: int, columns: int, values: Tensor) -> Tensor:
    """Row r runs through the values with period r: the first rows are constant and alternate."""
    r, c = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
    return values[((c % (1 + r % 11)) + r) % len(values)]
