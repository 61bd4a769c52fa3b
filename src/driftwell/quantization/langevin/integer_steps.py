"""Langevin steps with both products in 8-bit integers.

    J = diag(r) Q,   phi = tanh(x)
    k = round(127 phi),                          h = r (Q k) / 127
    e = x - h - b,   l = round(127 r e / m),     g = (Q^T l) m / 127,   m = max |r e| of the chain
    F = (1 - phi^2) g - e,   x <- x + dt F + sqrt(2 T dt) xi

The state, e and phi' stay in floating point: only what is multiplied by J is rounded, to one part
in 254 of its range. The scale of phi is fixed, as |phi| <= 1; that of r e is the chain's own, so
a chain's numbers do not depend on the batch. Sums of integers are exact, on every device.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor

from driftwell.core import noise
from driftwell.core.errors import InvalidInput
from driftwell.models.langevin.walk import Walk
from driftwell.quantization.langevin import kernel
from driftwell.quantization.langevin.shared_couplings import Integers

Backend = Literal["auto", "native", "eager"]

LEVELS = 127
_EXACT_FLOAT32 = 1 << 24


def integer_force(x: Tensor, couplings: Integers, b: Tensor) -> Tensor:
    """F (B, n) with integer products; see the head of this file.

    Args:
        x: (B, n) states.
        couplings: Q (n, n) and r.
        b: (n,) biases.

    Example:
        >>> one = Integers(torch.tensor([[0]], dtype=torch.int8), torch.ones(1))
        >>> integer_force(torch.tensor([[0.5]]), one, torch.zeros(1)).tolist()
        [[-0.5]]
    """
    r = couplings.scale.to(x.dtype)
    phi = torch.tanh(x)
    whole = torch.where(phi.isnan().any(1, keepdim=True), torch.nan, 1.0).to(x.dtype)
    k = (LEVELS * phi).round()
    h = integer_product(k, couplings.Q).to(x.dtype) * (r / LEVELS * whole)
    e = x - h - b
    u = r * e
    peak = u.abs().amax(dim=1, keepdim=True)
    code = torch.where(peak > 0, u * (LEVELS / peak), 0.0).round()
    g = integer_product(code, couplings.Q.T).to(x.dtype) * (peak / LEVELS)
    return (1 - phi * phi) * g - e


def integer_product(codes: Tensor, Q: Tensor) -> Tensor:
    """codes (B, n), whole numbers in -127..127, times Q^T (n, m): exact whole numbers (B, m).

    By the processor's 8-bit product where a self-test found it right, else in floating point
    wide enough to hold every sum exactly.

    Example:
        >>> Q = torch.tensor([[100, -128]], dtype=torch.int8)
        >>> integer_product(torch.tensor([[127.0, 1.0]]), Q).tolist()
        [[12572]]
    """
    codes = torch.nan_to_num(codes)
    if Q.device.type == "cpu" and _bytes_multiply_right():
        return torch._int_mm(codes.to(torch.int8), Q.T)
    wide = torch.float32 if LEVELS * 128 * Q.shape[1] < _EXACT_FLOAT32 else torch.float64
    return (codes.to(wide) @ Q.T.to(wide)).to(torch.int32)


@cache
def _bytes_multiply_right() -> bool:
    """Whether torch's 8-bit product is right here: without VNNI it saturates without a word."""
    worst = torch.tensor([[-127, 127], [127, 127], [-127, -127]], dtype=torch.int8).repeat(6, 64)
    other = torch.tensor([[-128, 127], [127, 127], [-128, -128]], dtype=torch.int8).repeat(6, 64)
    try:
        found = torch._int_mm(worst, other.T)
    except (RuntimeError, AttributeError):
        return False
    return bool((found == worst.double() @ other.double().T).all())


def integer_steps(
    walk: Walk, couplings: Integers, threads: int, backend: Backend = "auto"
) -> tuple[Tensor, str]:
    """The steps of a `Walk`, whose own J is not looked at; new states and what computed them.

    Args:
        walk: of `checked_walk`.
        couplings: Q (n, n) and r.
        threads: of the compiled form.
        backend: "native" is the compiled kernel, "eager" tensor operations; "auto" takes the
            kernel for float32 on a processor that multiplies bytes.

    Raises:
        InvalidInput: "native" where it is not available.

    Example:
        >>> integer_steps.__module__.split(".")[-1]
        'integer_steps'
    """
    if backend not in ("auto", "native", "eager"):
        raise InvalidInput(f"backend must be auto, native or eager, got {backend!r}")
    here = kernel.takes(walk)
    if backend == "native" and not here:
        raise InvalidInput(
            'backend="native" needs float32 on the CPU and a C compiler here: use "auto"'
        )
    if here and backend != "eager" and (backend == "native" or kernel.is_fast()):
        return kernel.steps(walk, couplings.scale, couplings.layout, threads)
    return _eager(walk, couplings)


def _eager(walk: Walk, couplings: Integers) -> tuple[Tensor, str]:
    x, kick = walk.x.clone(), walk.kick * walk.heat[:, None]
    xi = _noise(walk, walk.first_step) if walk.scheme == "lm" else None
    for step in range(walk.first_step, walk.first_step + walk.steps):
        moved = x + walk.drift * integer_force(x, couplings, walk.b)
        if xi is not None:
            following = _noise(walk, step + 1)
            moved += kick * (0.5 * (xi + following))
            xi = following
        elif walk.scheme == "em":
            moved += kick * _noise(walk, step)
        x = moved if walk.free is None else torch.where(walk.free, moved, x)
    return x, "eager, 8-bit products"


def _noise(walk: Walk, step: int) -> Tensor:
    return noise.normal(
        walk.x.shape, seed=walk.seed, purpose=noise.Purpose.DYNAMICS, chains=walk.chains,
        step=step, dtype=walk.x.dtype,
    )  # fmt: skip
