"""The compiled Langevin steps in 8-bit integers, step.c, from Python."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from driftwell.core import native
from driftwell.models.langevin.compiled import _Machine, _machine
from driftwell.models.langevin.walk import Walk

KERNEL = "quantization/langevin/step.c"

_PADDING = 64
_i64, _pointer = ctypes.c_int64, ctypes.c_void_p


class _Quantized(ctypes.Structure):
    """`quantized` of step.c."""

    _fields_ = [
        ("m", ctypes.POINTER(_Machine)),
        *((name, _pointer) for name in ("forward", "row", "packed")),
    ]


def takes(walk: Walk) -> bool:
    """Whether the kernel is there and made for the walk's device and dtype."""
    fits = walk.x.device.type == "cpu" and walk.x.dtype == torch.float32
    return fits and native.load(KERNEL) is not None


@cache
def is_fast() -> bool:
    """Whether this processor multiplies bytes in one instruction."""
    library = native.load(KERNEL)
    return library is not None and bool(library.driftwell_quantized_fast())


def steps(walk: Walk, scale: Tensor, layout: Tensor, threads: int) -> tuple[Tensor, str]:
    """The steps of a walk with J = diag(scale) Q, Q laid out by `lay_out`; needs `takes(walk)`.

    Raises:
        MemoryError: the chains did not fit into memory.
    """
    library = _library()
    n = walk.x.shape[1]
    machine, kept = _machine(walk, threads)
    columns = torch.zeros(2, (n + _PADDING - 1) // _PADDING * _PADDING)
    columns[0, :n] = scale / 127
    columns[1, :n] = scale
    about = _Quantized(
        ctypes.pointer(machine), columns[0].data_ptr(), columns[1].data_ptr(), layout.data_ptr()
    )
    x = walk.x.contiguous()
    result = torch.empty_like(x)
    failed = library.driftwell_quantized_steps(
        ctypes.byref(about), _pointer(x.data_ptr()), _i64(walk.first_step), _i64(walk.steps),
        _pointer(result.data_ptr()),
    )  # fmt: skip
    del kept
    if failed:
        raise MemoryError(f"no memory for Langevin steps of {n} neurons")
    return result, "native, 8-bit products"


def product(Q: Tensor, codes: Tensor, transpose: bool) -> Tensor:
    """codes (B, n) int8 times Q^T (or Q if `transpose`) in the kernel, int32 (B, n)."""
    layout, given = lay_out(Q), codes.contiguous()
    out = torch.empty(given.shape, dtype=torch.int32)
    _library().driftwell_quantized_product(
        _pointer(layout.data_ptr()), _pointer(given.data_ptr()), _i64(len(given)),
        _i64(given.shape[1]), ctypes.c_int(transpose), _pointer(out.data_ptr()),
    )  # fmt: skip
    return out


def lay_out(Q: Tensor) -> Tensor:
    """Q (n, n) int8 in the two orders in which the kernel reads it, for J phi and for J^T e."""
    library, given = _library(), Q.contiguous()
    layout = torch.empty(library.driftwell_quantized_bytes(_i64(len(Q))), dtype=torch.int8)
    library.driftwell_quantized_pack(
        _pointer(given.data_ptr()), _i64(len(Q)), _pointer(layout.data_ptr())
    )
    return layout


def _library() -> ctypes.CDLL:
    library = native.load(KERNEL)
    if library is None:  # the caller asked `takes` before
        raise RuntimeError(native.status(KERNEL).reason)
    library.driftwell_quantized_bytes.restype = _i64
    return library
