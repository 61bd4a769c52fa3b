"""Residuals of flat states, per sample, and the precision in which they are judged."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from driftwell.core import native

KERNEL = "fixed_points/residual.c"
_NAMES = {torch.float32: "driftwell_residual_f32", torch.float64: "driftwell_residual_f64"}


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which solvers work and residuals are judged: float32 or wider.

    Example:
        >>> work_dtype(torch.bfloat16)
        torch.float32
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def resolvable(tol: float, dtype: torch.dtype) -> float:
    """`tol`, or the rounding of a half-precision dtype where that is coarser.

    Example:
        >>> resolvable(1e-4, torch.bfloat16)
        0.0078125
    """
    half = dtype in (torch.float16, torch.bfloat16)
    return max(tol, torch.finfo(dtype).eps) if half and tol > 0 else tol


def gap_and_size(z: Tensor, fz: Tensor) -> tuple[Tensor, Tensor]:
    """|f(z) - z| and |f(z)| of flat states (B, D), both (B,), in float32 or wider, not recorded.

    Example:
        >>> gap_and_size(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        (tensor([5.]), tensor([5.]))
    """
    z, fz = z.detach().to(work_dtype(z.dtype)), fz.detach().to(work_dtype(z.dtype))
    if native.takes(z, fz) and z.dtype in _NAMES and native.load(KERNEL) is not None:
        return _compiled(z.contiguous(), fz.contiguous())
    return torch.linalg.vector_norm(fz - z, dim=1), torch.linalg.vector_norm(fz, dim=1)


def floored(size: Tensor) -> Tensor:
    """|f(z)| plus the number below which squares of entries vanish: what residuals are divided by.

    A state that shrinks below it is a fixed point at zero.

    Example:
        >>> floored(torch.tensor([1.0]))
        tensor([1.])
    """
    floor: Tensor = size + torch.finfo(size.dtype).tiny ** 0.5
    return floor


def relative_residual(z: Tensor, fz: Tensor) -> Tensor:
    """Relative residual |f(z) - z| / |f(z)| of flat states (B, D), (B,).

    Example:
        >>> relative_residual(torch.tensor([[2.0]]), torch.tensor([[4.0]]))
        tensor([0.5000])
    """
    gap, size = gap_and_size(z, fz)
    return gap / floored(size)


def _compiled(z: Tensor, fz: Tensor) -> tuple[Tensor, Tensor]:
    library = native.load(KERNEL)
    if library is None:  # asked for before
        raise RuntimeError(native.status(KERNEL).reason)
    gap, size = z.new_empty(z.shape[0]), z.new_empty(z.shape[0])
    getattr(library, _NAMES[z.dtype])(
        ctypes.c_int64(z.shape[0]),
        ctypes.c_int64(z.shape[1]),
        *(ctypes.c_void_p(t.data_ptr()) for t in (z, fz, gap, size)),
        ctypes.c_int(torch.get_num_threads()),
    )
    return gap, size
