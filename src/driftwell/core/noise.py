"""Keyed noise: random numbers as a function of who asks, not of when.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw, *Parallel random numbers: as easy as 1, 2, 3*, 2011)
maps (seed; purpose, chain, step, leaf, element) to a 32-bit word. A chain's noise therefore does
not depend on the batch it sits in, on the number of processes or threads, or on a restart.

    key      = (seed low 32 bits, seed high 32 bits)
    counter  = (element // 4, chain, step low 32 bits,
                step bits 32..39 | purpose << 8 | leaf << 16);  element e takes word e % 4

A compiled kernel and eager torch give identical words; uniforms too, and normals to rounding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from driftwell.core import native
from driftwell.core.errors import InvalidInput
from driftwell.core.noise_keys import Purpose, Request, checked_request
from driftwell.core.philox import MASK, Four, philox, to_normals, to_uniforms

__all__ = ["Backend", "Purpose", "backend", "normal", "permutation", "uniform", "words"]

Backend = Literal["auto", "native", "eager"]

_KERNEL = "core/noise.c"


def words(
    shape: Sequence[int],
    *,
    seed: int,
    purpose: int,
    chains: Tensor | int,
    step: int,
    leaf: int = 0,
    device: torch.device | str | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Random 32-bit words of Philox4x32-10 (Salmon et al., 2011), as int64.

    Args:
        shape: (B, *event), B the number of chains.
        seed: 0 <= seed < 2**64.
        purpose: a `Purpose`, or any integer in 0..255.
        chains: (B,) int64 chain ids in 0..2**32-1, or B itself for ids 0..B-1.
        step: 0 <= step < 2**40.
        leaf: number of the leaf in the state's tree, 0..65535.
        device: where ids are made if `chains` is a count; otherwise the ids' own device.
        backend: "auto" takes the compiled kernel where it applies.

    Returns:
        (B, *event) int64, each in 0..2**32-1.

    Raises:
        InvalidInput: an argument outside its range.

    Example:
        >>> [hex(w) for w in words((1, 4), seed=0, purpose=0, chains=1, step=0)[0].tolist()]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    request = checked_request(shape, seed, purpose, chains, step, leaf, device)
    library = _library(backend, request.chains.device)
    if library is None:
        return _arrange(torch.stack(_eager_words(request), dim=-1), request)
    out = torch.empty(request.shape, dtype=torch.int64)
    _call(library.driftwell_words, request, out)
    return out


def normal(
    shape: Sequence[int],
    *,
    seed: int,
    purpose: int,
    chains: Tensor | int,
    step: int,
    leaf: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    out: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Standard normal numbers, by the transform of Box and Muller (1958), two from two words.

    u = (w + 1/2) 2^-32,  a = 2 pi (w' + 1/2) 2^-32,  n = sqrt(-2 ln u) (cos a, sin a).

    float64 uses the same words as float32; bfloat16 and float16 are float32 numbers, rounded.

    Args:
        shape: (B, *event), B the number of chains.
        seed: see `words`.
        purpose: see `words`.
        chains: see `words`.
        step: see `words`.
        leaf: see `words`.
        dtype: a floating dtype; ignored if `out` is given.
        device: see `words`.
        out: a tensor of that shape to be filled and returned.
        backend: see `words`.

    Raises:
        InvalidInput: an argument outside its range.

    Example:
        >>> both = normal((2, 3), seed=1, purpose=Purpose.DYNAMICS, chains=2, step=5)
        >>> ids = torch.tensor([1])
        >>> bool((normal((1, 3), seed=1, purpose=1, chains=ids, step=5) == both[1]).all())
        True
    """
    request = checked_request(shape, seed, purpose, chains, step, leaf, device)
    return _fill("normal", request, dtype, out, backend)


def uniform(
    shape: Sequence[int],
    *,
    seed: int,
    purpose: int,
    chains: Tensor | int,
    step: int,
    leaf: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    out: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Uniform numbers in the open interval (0, 1), never 0 nor 1 in any dtype.

    float64: (w + 1/2) 2^-32; float32: (w >> 9 + 1/2) 2^-23, exact in both.

    Args:
        shape: (B, *event), B the number of chains.
        seed: see `words`.
        purpose: see `words`.
        chains: see `words`.
        step: see `words`.
        leaf: see `words`.
        dtype: a floating dtype; ignored if `out` is given.
        device: see `words`.
        out: a tensor of that shape to be filled and returned.
        backend: see `words`.

    Raises:
        InvalidInput: an argument outside its range.

    Example:
        >>> u = uniform((4, 100), seed=1, purpose=Purpose.ACCEPT, chains=4, step=0)
        >>> bool((u > 0).all() and (u < 1).all())
        True
    """
    request = checked_request(shape, seed, purpose, chains, step, leaf, device)
    return _fill("uniform", request, dtype, out, backend)


def permutation(
    n: int, *, seed: int, purpose: int, step: int, device: torch.device | str | None = None
) -> Tensor:
    """A random permutation of 0..n-1: the order of n keyed 64-bit words.

    Args:
        n: how many, >= 0.
        seed: see `words`.
        purpose: see `words`.
        step: see `words`; the chain is 0 and the leaf 0.
        device: see `words`.

    Returns:
        (n,) int64.

    Raises:
        InvalidInput: an argument outside its range.

    Example:
        >>> sorted(permutation(5, seed=3, purpose=Purpose.DATA, step=0).tolist())
        [0, 1, 2, 3, 4]
    """
    if n < 0:
        raise InvalidInput(f"n must be >= 0, got {n}.")
    pairs = words((1, n, 2), seed=seed, purpose=purpose, chains=1, step=step, device=device)[0]
    return torch.argsort((pairs[:, 0] << 32) | pairs[:, 1], stable=True)


def backend() -> Literal["native", "eager"]:
    """Which implementation fills CPU tensors on this machine.

    Example:
        >>> backend() in ("native", "eager")
        True
    """
    return "eager" if native.load(_KERNEL) is None else "native"


def _library(backend: Backend, device: torch.device) -> ctypes.CDLL | None:
    """The compiled kernels where they apply, None where eager torch does."""
    if backend not in ("auto", "native", "eager"):
        raise InvalidInput(f'backend must be "auto", "native" or "eager", got {backend!r}.')
    if backend == "eager" or (backend == "auto" and device.type != "cpu"):
        return None
    library = native.load(_KERNEL) if device.type == "cpu" else None
    if library is None and backend == "native":
        why = native.status().reason if device.type == "cpu" else f"the chains are on {device}"
        raise InvalidInput(f'backend="native" is not available here ({why}): use "auto".')
    return library


def _fill(
    kind: Literal["normal", "uniform"],
    request: Request,
    dtype: torch.dtype,
    out: Tensor | None,
    backend: Backend,
) -> Tensor:
    dtype = dtype if out is None else out.dtype
    if dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise InvalidInput(f"{kind} noise needs a floating dtype, got {dtype}.")
    device = request.chains.device
    if out is not None and (tuple(out.shape) != request.shape or out.device != device):
        raise InvalidInput(
            f"out must have shape {request.shape} on {device}, "
            f"got {tuple(out.shape)} on {out.device}."
        )
    library = _library(backend, device)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    if library is None:
        convert = to_normals if kind == "normal" else to_uniforms
        values = _arrange(convert(_eager_words(request), compute), request)
    else:
        direct = out is not None and dtype == compute and out.is_contiguous()
        values = (
            out.detach()
            if direct and out is not None
            else torch.empty(request.shape, dtype=compute)
        )
        function = f"driftwell_{kind}_{'f64' if compute == torch.float64 else 'f32'}"
        _call(getattr(library, function), request, values)
        if direct and out is not None:
            return out
    if kind == "uniform" and dtype != compute:
        # rounding to a half precision must not reach 1
        values = values.clamp(max=1 - torch.finfo(dtype).eps / 2)
    return values.to(dtype) if out is None else out.copy_(values)


def _eager_words(request: Request) -> Four:
    """Four (B, ceil(elements / 4)) tensors: word k of counter c belongs to element 4 c + k."""
    ids = request.chains
    blocks = torch.arange((request.elements + 3) // 4, device=ids.device)
    low_step, tag = (torch.full_like(blocks, w) for w in (request.step & MASK, request.tag))
    return philox((blocks, ids[:, None], low_step, tag), (request.seed & MASK, request.seed >> 32))


def _arrange(values: Tensor, request: Request) -> Tensor:
    """From (B, counters, 4) to the shape asked for."""
    return values.flatten(1)[:, : request.elements].reshape(request.shape)


def _call(function: Any, request: Request, out: Tensor) -> None:
    ids = request.chains.contiguous()
    function(
        ctypes.c_void_p(ids.data_ptr()),
        ctypes.c_int64(request.shape[0]),
        ctypes.c_int64(request.elements),
        ctypes.c_uint64(request.seed),
        ctypes.c_uint32(request.step & MASK),
        ctypes.c_uint32(request.tag),
        ctypes.c_int(torch.get_num_threads()),
        ctypes.c_void_p(out.data_ptr()),
    )
