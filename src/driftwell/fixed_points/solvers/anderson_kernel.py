"""The compiled step of `Anderson`: when it applies, and the call."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from driftwell.core import native

if TYPE_CHECKING:
    from driftwell.fixed_points.solvers.anderson import Anderson, History

KERNEL = "fixed_points/solvers/anderson.c"
_LONGEST_MEMORY = 32  # MOST in the C source
_NAMES = {torch.float32: "driftwell_anderson_f32", torch.float64: "driftwell_anderson_f64"}


class _Settings(ctypes.Structure):
    _fields_ = (
        ("memory", ctypes.c_int64),
        ("damping", ctypes.c_double),
        ("ridge", ctypes.c_double),
        ("restart", ctypes.c_double),
    )


def applies(solver: Anderson, z: Tensor, fz: Tensor, carry: History) -> bool:
    """Whether the step is one of plain numbers on the processor, and the kernel could be built."""
    if z.dtype not in _NAMES or solver.memory > _LONGEST_MEMORY:
        return False
    return native.takes(z, fz, carry.residuals) and native.load(KERNEL) is not None


def step(solver: Anderson, z: Tensor, fz: Tensor, carry: History) -> tuple[Tensor, History]:
    """The step of `Anderson`, in place on the carry."""
    library = native.load(KERNEL)
    if library is None:  # the caller asked `applies` before
        raise RuntimeError(native.status(KERNEL).reason)
    z, fz = z.contiguous(), fz.contiguous()
    after = torch.empty_like(z)
    settings = _Settings(solver.memory, solver.damping, solver.ridge, solver.restart)
    getattr(library, _NAMES[z.dtype])(
        ctypes.byref(settings),
        ctypes.c_int64(z.shape[0]),
        ctypes.c_int64(z.shape[1]),
        *(ctypes.c_void_p(t.data_ptr()) for t in (z, fz, *carry, after)),
        ctypes.c_int(torch.get_num_threads()),
    )
    return after, carry
