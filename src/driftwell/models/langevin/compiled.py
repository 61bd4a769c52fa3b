"""Compiled Langevin steps: step.c alone for few neurons, step.c around oneDNN's products for many.

Row by row the first form gives the same bits whatever the batch and the number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from driftwell.core import native
from driftwell.core.noise import Purpose
from driftwell.models.langevin.walk import Walk

KERNEL = "models/langevin/step.c"

_PADDING = 64  # a multiple of the kernels' block on every processor
_SCHEMES = {"none": 0, "em": 1, "lm": 2}
_ENTER, _RESIDUAL, _UPDATE = 0, 1, 2

_i32, _i64, _u64, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p


class _Machine(ctypes.Structure):
    """`machine` of cells.h."""

    _fields_ = [
        ("rows", _i64),
        ("n", _i64),
        *((name, _pointer) for name in ("bias", "precision", "drift", "noise", "heat", "free")),
        ("free_stride", _i64),
        ("chains", _pointer),
        ("seed", _u64),
        *((name, _i32) for name in ("purpose", "scheme", "onsager", "threads")),
    ]


class _Buffers(ctypes.Structure):
    """`buffers` of step.c."""

    _fields_ = [(name, _pointer) for name in ("x", "phi", "e", "xi", "product", "narrow")]


def loop(walk: Walk, threads: int) -> tuple[Tensor, str]:
    """All steps of a few chains at a time in one call, for few neurons; needs `KERNEL`.

    Example:
        >>> loop.__module__
        'driftwell.models.langevin.compiled'
    """
    machine, kept = _machine(walk, threads)
    x, J = walk.x.contiguous(), walk.J.contiguous()
    result = torch.empty_like(x)
    failed = _library().driftwell_langevin_loop(
        ctypes.byref(machine),
        _pointer(J.data_ptr()),
        _pointer(x.data_ptr()),
        _i64(walk.first_step),
        _i64(walk.steps),
        _pointer(result.data_ptr()),
    )
    del kept
    if failed:
        raise MemoryError(f"no memory for Langevin steps of {walk.x.shape[1]} neurons")
    return result, "native loop"


def products(walk: Walk, threads: int) -> tuple[Tensor, str]:
    """Two products by the fastest library at hand, compiled passes between; needs `KERNEL`.

    Example:
        >>> products.__module__
        'driftwell.models.langevin.compiled'
    """
    machine, kept = _machine(walk, threads)
    x = walk.x.clone(memory_format=torch.contiguous_format)
    phi, e = torch.empty_like(x), torch.empty_like(x)
    xi = torch.empty_like(x) if walk.scheme == "lm" else None
    narrow = torch.empty_like(x, dtype=torch.bfloat16) if walk.half else None
    buffers = _Buffers(
        *(None if t is None else t.data_ptr() for t in (x, phi, e, xi, None, narrow))
    )
    run, about, around = (
        _library().driftwell_langevin_pass,
        ctypes.byref(machine),
        ctypes.byref(buffers),
    )

    def go(what: int, step: int) -> None:
        run(about, what, int(walk.half), _i64(step), around)

    forward, name = _multiplier(walk.J, walk)
    backward, _ = _multiplier(walk.J.T, walk) if walk.onsager else (forward, name)
    ahead = 1 if walk.scheme == "lm" else 0
    left, right = (phi, e) if narrow is None else (narrow, narrow)
    go(_ENTER, walk.first_step)
    for step in range(walk.first_step, walk.first_step + walk.steps):
        h = forward(left)
        buffers.product = h.data_ptr()
        go(_RESIDUAL, step)
        if walk.onsager:
            h = backward(right)
            buffers.product = h.data_ptr()
        go(_UPDATE, step + ahead)
    del kept
    return x, f"native passes, {name}"


def _multiplier(weight: Tensor, walk: Walk) -> tuple[Callable[[Tensor], Tensor], str]:
    """v -> v @ weight.T, and its name.

    torch.mm leaves float32 to a library that runs at half speed on some processors, unless a
    global setting is changed; oneDNN called by name, with its own layout of the weight, is fast
    on all, and is exact float32 whatever the setting.
    """
    dtype, name = (torch.bfloat16, "bfloat16") if walk.half else (torch.float32, "float32")
    weight = weight.to(dtype).contiguous()
    if not (torch.backends.mkldnn.enabled and _onednn_multiplies(dtype)):
        transposed = weight.T
        return lambda v: torch.mm(v, transposed), f"torch.mm {name}"
    linear = torch.ops.mkldnn._linear_pointwise.default
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(walk.x))
    return lambda v: linear(v, packed, None, "none", [], ""), f"oneDNN {name}"


@cache
def _onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's product, for this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    one = torch.ones(1, 1, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(one, 1)
        product = torch.ops.mkldnn._linear_pointwise.default(one, packed, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return bool((product == 1).all())


def _library() -> ctypes.CDLL:
    library = native.load(KERNEL)
    if library is None:  # the caller asked `native.load` before
        raise RuntimeError(native.status(KERNEL).reason)
    return library


def _machine(walk: Walk, threads: int) -> tuple[_Machine, list[Tensor]]:
    """The C description of a walk, and the tensors it points into."""
    count, n = walk.x.shape
    padded = (n + _PADDING - 1) // _PADDING * _PADDING
    columns = torch.zeros(4, padded)
    for row, values in zip(columns, (walk.b, walk.s, walk.drift, walk.kick), strict=True):
        row[:n] = values
    kept = [columns, walk.heat, walk.chains.contiguous()]
    free = 0
    if walk.free is not None:
        kept.append(walk.free.contiguous())
        free = kept[-1].data_ptr()
    return (
        _Machine(
            count,
            n,
            *(row.data_ptr() for row in columns),
            walk.heat.data_ptr(),
            free or None,
            n if walk.free is not None and walk.free.dim() == 2 else 0,
            kept[2].data_ptr(),
            walk.seed,
            int(Purpose.DYNAMICS),
            _SCHEMES[walk.scheme],
            int(walk.onsager),
            threads,
        ),
        kept,
    )
