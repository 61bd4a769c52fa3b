"""The compiled loops over columns of GPTQ and of coordinate descent: when they apply, the calls."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from driftwell.core import native
from driftwell.quantization.formats import Grid

KERNEL = "quantization/post_training/column_loops.c"
ZEROS = ("kept", "whole", "free")  # the enum of the C source
_NAMES = {torch.float32: "f32", torch.float64: "f64"}


class _Levels(ctypes.Structure):
    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("edges", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("uniform", ctypes.c_int64),
    )


def applies(*tensors: Tensor) -> bool:
    """Whether these are plain numbers on the processor and the kernel could be built."""
    known = all(t.dtype in _NAMES for t in tensors)
    return known and native.takes(*tensors) and native.load(KERNEL) is not None


def gptq(
    w: Tensor, feedback: Tensor, weight: Tensor, order: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """`gptq.round_in_turn` for w (R, C): codes (R, C) uint8 and losses (R,) float64."""
    rows, columns = w.shape
    codes = torch.empty(rows, columns, dtype=torch.uint8)
    loss = torch.empty(rows, dtype=torch.float64)
    scale, zero = spread(grid.scale, w), spread(grid.zero, w)
    group = torch.arange(columns) // grid.group_size
    _call(
        "gptq", grid, w, (rows, columns, scale.shape[1]),
        (w.contiguous(), feedback, weight, order, group, scale, zero, codes, loss),
        (),
    )  # fmt: skip
    return codes, loss


def descend(
    gram: Tensor, inverse: Tensor, near: Tensor, order: Tensor, ones: Tensor, grid: Grid,
    values: Tensor, residual: Tensor, moved: Tensor | None, codes: Tensor, scale: Tensor,
    zero: Tensor, sweeps: int, forced: bool, zeros: str, pairs: int,
) -> Tensor:  # fmt: skip
    """`descent.descend`, in place on values, residual, moved, codes, scale and zero; (R,) gains."""
    rows, columns = values.shape
    gain = torch.zeros(rows, dtype=torch.float64)
    group = torch.arange(columns) // grid.group_size
    stride = columns if order.ndim == 2 else 0
    _call(
        "descend", grid, values, (rows, columns, scale.shape[1]),
        (gram, inverse, near, near.shape[1], order, stride, group, ones, values, residual, moved,
         codes, scale, zero, gain),
        (sweeps, int(forced), int(moved is not None), ZEROS.index(zeros), pairs),
    )  # fmt: skip
    return gain


def spread(per_row: Tensor, w: Tensor) -> Tensor:
    """Scales or zeros (R or 1, G) of all rows of `w`, (R, G), in its dtype and in one piece."""
    return per_row.to(w.dtype).expand(w.shape[0], -1).contiguous()


def _call(
    name: str, grid: Grid, like: Tensor, sizes: tuple[int, ...], arrays: tuple[Any, ...],
    settings: tuple[int, ...],
) -> None:  # fmt: skip
    library = native.load(KERNEL)
    if library is None:  # the caller asked `applies` before
        raise RuntimeError(native.status(KERNEL).reason)
    levels = grid.levels.to(like.dtype).contiguous()
    edges = (levels[1:] + levels[:-1]) / 2
    table = _Levels(levels.data_ptr(), edges.data_ptr(), len(levels), grid.is_uniform)
    failed = getattr(library, f"driftwell_{name}_{_NAMES[like.dtype]}")(
        ctypes.byref(table),
        *(ctypes.c_int64(size) for size in sizes),
        *(_argument(array) for array in arrays),
        *(ctypes.c_int64(s) if i == 0 else ctypes.c_int(s) for i, s in enumerate(settings)),
        ctypes.c_int(torch.get_num_threads()),
    )
    if failed:
        raise MemoryError("no memory for the compensated errors of a block of rows")


def _argument(array: Tensor | int | None) -> Any:
    if isinstance(array, int):
        return ctypes.c_int64(array)
    return ctypes.c_void_p(None if array is None else array.data_ptr())
