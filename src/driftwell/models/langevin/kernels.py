"""Langevin steps of the Neural Langevin Machine (Yu, Huang, Huang, 2025, arXiv:2506.23546).

    phi = tanh(x),  h = J phi,  e = s (x - h - b),  E = 1/2 sum_i s_i (x - h - b)_i^2
    F = -grad E = -(e - (1 - phi^2) * (J^T e))
    x <- x + dt d F + sqrt(2 T dt d) xi

One reference in eager torch, for every device and dtype, and two compiled forms of it for
float32 on a CPU (`compiled.py`); which one runs is decided by shapes and types alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from driftwell.core import native, noise
from driftwell.core.errors import InvalidInput
from driftwell.models.langevin import compiled
from driftwell.models.langevin.walk import Matmul, Scheme, Walk, checked_walk

Backend = Literal["auto", "native", "loop", "products", "eager"]

# Up to this many neurons J and its transpose stay in a level-2 cache of 512 KiB. Beyond, the loop
# reads them from level 3 once for every eight chains, at a rate that not every processor sustains;
# oneDNN's products reuse them better. `backend="loop"` still takes any n.
LOOP_NEURONS = 256


def energy_and_force(
    x: Tensor, J: Tensor, b: Tensor, precision: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Energy and force of the Neural Langevin Machine (Yu, Huang, Huang, 2025, arXiv:2506.23546).

    e = s (x - J phi - b),  E = 1/2 sum_i s_i (x - J phi - b)_i^2,
    F = -(e - (1 - phi^2) * (J^T e)),  phi = tanh(x).

    Args:
        x: (B, n) states.
        J: (n, n) couplings, row i onto neuron i.
        b: (n,) biases.
        precision: (n,) s, or None for ones.

    Returns:
        E (B,), F (B, n), e (B, n), phi (B, n).

    Example:
        >>> x = torch.ones(1, 2)
        >>> energy, force, _, _ = energy_and_force(x, torch.zeros(2, 2), torch.zeros(2))
        >>> energy.item(), force[0].tolist()
        (1.0, [-1.0, -1.0])
    """
    phi = torch.tanh(x)
    residual = x - phi @ J.T - b
    e = residual if precision is None else residual * precision
    energy = 0.5 * (residual * e).sum(-1)
    return energy, (1 - phi * phi) * (e @ J) - e, e, phi


def langevin_steps(
    x: Tensor,
    J: Tensor,
    b: Tensor,
    *,
    steps: int,
    step_size: float,
    temperature: float | Tensor,
    seed: int,
    first_step: int,
    chains: Tensor | int,
    scheme: Scheme = "lm",
    precision: Tensor | None = None,
    preconditioner: Tensor | None = None,
    free: Tensor | None = None,
    onsager: bool = True,
    matmul: Matmul = "float32",
    backend: Backend = "auto",
    threads: int | None = None,
) -> tuple[Tensor, str]:
    """Langevin steps of the Neural Langevin Machine (Yu, Huang, Huang, 2025, arXiv:2506.23546).

    x <- x + dt d F(x) + sqrt(2 T dt d) xi, with the keyed normals xi_n of step n:
    (xi_n + xi_{n+1}) / 2 for "lm" (Leimkuhler, Matthews, 2013), xi_n for "em" (Euler-Maruyama),
    0 for "none". Steps first_step .. first_step + steps - 1; nothing is carried between calls, so
    a run in two parts is the same run.

    Args:
        x: (B, n) states; not modified.
        J: (n, n) couplings, row i onto neuron i.
        b: (n,) biases.
        steps: how many steps, >= 0.
        step_size: dt > 0, in integration time.
        temperature: T >= 0 in units of the energy, one for all or (B,), one for each chain.
        seed: of the keyed noise, 0 <= seed < 2**64.
        first_step: number of the first step in the keyed noise.
        chains: (B,) int64 chain ids of the keyed noise, or B for ids 0..B-1.
        scheme: "lm", "em" or "none".
        precision: (n,) s > 0, or None for ones.
        preconditioner: (n,) d > 0, or None for ones.
        free: (n,) or (B, n) bool, False where a neuron is clamped.
        onsager: False drops (1 - phi^2) * (J^T e): the bare recurrent network, F = -e.
        matmul: precision of the two products; state and updates keep the dtype of x.
        backend: "auto"; "native", which is "loop" or "products" by n; or "eager".
        threads: of the compiled forms; None takes torch's number.

    Returns:
        The new states, detached, and the name of what computed them.

    Raises:
        InvalidInput: an argument of the wrong shape, dtype or range.

    Example:
        >>> J, b = torch.zeros(3, 3), torch.zeros(3)
        >>> x, how = langevin_steps(torch.ones(2, 3), J, b, steps=1, step_size=0.5,
        ...                         temperature=0.0, seed=0, first_step=0, chains=2)
        >>> x[0].tolist()
        [0.5, 0.5, 0.5]
    """
    walk = checked_walk(
        x,
        J,
        b,
        steps=steps,
        step_size=step_size,
        temperature=temperature,
        seed=seed,
        first_step=first_step,
        chains=chains,
        scheme=scheme,
        precision=precision,
        preconditioner=preconditioner,
        free=free,
        onsager=onsager,
        matmul=matmul,
    )
    form = _form(walk, backend)
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise InvalidInput(f"threads must be >= 1, got {threads}.")
    with torch.no_grad():
        if form == "loop":
            return compiled.loop(walk, threads)
        if form == "products":
            return compiled.products(walk, threads)
        return _eager(walk)


def _form(walk: Walk, backend: Backend) -> Literal["loop", "products", "eager"]:
    """What computes the walk: by device, dtype and number of neurons, never by timing."""
    if backend not in ("auto", "native", "loop", "products", "eager"):
        raise InvalidInput(
            f"backend must be auto, native, loop, products or eager, got {backend!r}."
        )
    if backend == "eager":
        return "eager"
    fits = walk.x.device.type == "cpu" and walk.x.dtype == torch.float32
    if not fits or native.load(compiled.KERNEL) is None:
        if backend == "auto":
            return "eager"
        why = native.status(compiled.KERNEL).reason if fits else "x is not float32 on the CPU"
        raise InvalidInput(f'backend="{backend}" is not available here ({why}): use "auto".')
    if backend in ("loop", "products"):
        if backend == "loop" and walk.half:
            raise InvalidInput('backend="loop" multiplies in float32 only: use matmul="float32".')
        return backend
    return "products" if walk.half or walk.x.shape[1] > LOOP_NEURONS else "loop"


def _eager(walk: Walk) -> tuple[Tensor, str]:
    """The reference: the equations above, line by line."""
    x, kick = walk.x.clone(), walk.kick * walk.heat[:, None]
    half = torch.bfloat16 if walk.half else x.dtype
    into, out_of = walk.J.T.to(half), walk.J.to(half)
    xi = _noise(walk, walk.first_step) if walk.scheme == "lm" else None
    for step in range(walk.first_step, walk.first_step + walk.steps):
        phi = torch.tanh(x)
        e = walk.s * (x - (phi.to(half) @ into).to(x.dtype) - walk.b)
        force = -e
        if walk.onsager:
            force = (1 - phi * phi) * (e.to(half) @ out_of).to(x.dtype) - e
        moved = x + walk.drift * force
        if xi is not None:
            following = _noise(walk, step + 1)
            moved += kick * (0.5 * (xi + following))
            xi = following
        elif walk.scheme == "em":
            moved += kick * _noise(walk, step)
        x = moved if walk.free is None else torch.where(walk.free, moved, x)
    return x, "eager, bfloat16 products" if walk.half else "eager"


def _noise(walk: Walk, step: int) -> Tensor:
    return noise.normal(
        walk.x.shape,
        seed=walk.seed,
        purpose=noise.Purpose.DYNAMICS,
        chains=walk.chains,
        step=step,
        dtype=walk.x.dtype,
    )
