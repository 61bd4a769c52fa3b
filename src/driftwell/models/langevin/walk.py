"""A request for Langevin steps of the Neural Langevin Machine, checked and brought to one form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput

Scheme = Literal["lm", "em", "none"]
Matmul = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Walk:
    """What to compute: tensors are detached, on one device, and of the dtype of x."""

    x: Tensor
    J: Tensor
    b: Tensor
    s: Tensor
    drift: Tensor  # dt d, (n,)
    kick: Tensor  # sqrt(2 dt d), (n,)
    heat: Tensor  # sqrt(T), (B,)
    free: Tensor | None
    chains: Tensor
    seed: int
    first_step: int
    steps: int
    scheme: Scheme
    onsager: bool
    half: bool  # products in bfloat16


def checked_walk(
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
    scheme: Scheme,
    precision: Tensor | None,
    preconditioner: Tensor | None,
    free: Tensor | None,
    onsager: bool,
    matmul: Matmul,
) -> Walk:
    """The request as a `Walk`; arguments as in `kernels.langevin_steps`.

    Raises:
        InvalidInput: an argument of the wrong shape, dtype or range.

    Example:
        >>> z = torch.zeros(2, 3)
        >>> walk = checked_walk(
        ...     z, torch.zeros(3, 3), z[0], steps=1, step_size=0.5, temperature=1.0, seed=0,
        ...     first_step=0, chains=2, scheme="lm", precision=None, preconditioner=None,
        ...     free=None, onsager=True, matmul="float32")
        >>> walk.kick.tolist()
        [1.0, 1.0, 1.0]
    """
    if x.dim() != 2 or not x.dtype.is_floating_point:
        raise InvalidInput(f"x must be a floating (B, n) tensor, got {x.dtype} {tuple(x.shape)}.")
    count, n = x.shape
    _check_choice("scheme", scheme, ("lm", "em", "none"))
    _check_choice("matmul", matmul, ("float32", "bfloat16"))
    if not (math.isfinite(step_size) and step_size > 0):
        raise InvalidInput(f"step_size must be a positive number, got {step_size!r}.")
    if steps < 0 or first_step < 0 or first_step + steps >= 2**40:
        raise InvalidInput(
            f"steps and first_step must be >= 0 and end before 2**40, "
            f"got steps={steps}, first_step={first_step}."
        )
    if not 0 <= seed < 2**64:
        raise InvalidInput(f"seed must be in 0..2**64-1, got {seed}.")
    if preconditioner is None:
        drift, kick = x.new_full((n,), step_size), x.new_full((n,), math.sqrt(2 * step_size))
    else:
        d = _positive("preconditioner", preconditioner, x).double()
        drift, kick = (step_size * d).to(x.dtype), (2 * step_size * d).sqrt().to(x.dtype)
    return Walk(
        x=x.detach(),
        J=_like("J", J, (n, n), x),
        b=_like("b", b, (n,), x),
        s=x.new_ones(n) if precision is None else _positive("precision", precision, x),
        drift=drift,
        kick=kick,
        heat=_heat(temperature, x),
        free=_mask(free, x),
        chains=_chain_ids(chains, count, x.device),
        seed=seed,
        first_step=first_step,
        steps=steps,
        scheme=scheme,
        onsager=bool(onsager),
        half=matmul == "bfloat16",
    )


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")


def _like(name: str, value: Tensor, shape: tuple[int, ...], x: Tensor) -> Tensor:
    if tuple(value.shape) != shape or value.dtype != x.dtype or value.device != x.device:
        raise InvalidInput(
            f"{name} must be {x.dtype} of shape {shape} on {x.device} as x asks, "
            f"got {value.dtype} of shape {tuple(value.shape)} on {value.device}."
        )
    return value.detach()


def _positive(name: str, value: Tensor, x: Tensor) -> Tensor:
    value = _like(name, value, (x.shape[1],), x)
    if not bool((value > 0).all()):
        raise InvalidInput(f"{name} must be positive, its least entry is {float(value.min())}.")
    return value


def _heat(temperature: float | Tensor, x: Tensor) -> Tensor:
    if not isinstance(temperature, Tensor):
        if not (math.isfinite(temperature) and temperature >= 0):
            raise InvalidInput(f"temperature must be finite and >= 0, got {temperature!r}.")
        return x.new_full((len(x),), math.sqrt(temperature))
    given = temperature.detach().to(device=x.device, dtype=torch.float64)
    if tuple(given.shape) not in ((), (len(x),)):
        raise InvalidInput(
            f"temperature must be a number or one for each of the {len(x)} chains, "
            f"got shape {tuple(given.shape)}."
        )
    if not bool((given >= 0).all()) or not bool(given.isfinite().all()):
        raise InvalidInput(f"temperature must be finite and >= 0, got {temperature}.")
    return given.sqrt().to(x.dtype).expand(len(x)).contiguous()


def _mask(free: Tensor | None, x: Tensor) -> Tensor | None:
    if free is None:
        return None
    if free.dtype != torch.bool or tuple(free.shape) not in ((x.shape[1],), tuple(x.shape)):
        raise InvalidInput(
            f"free must be bool of shape {(x.shape[1],)} or {tuple(x.shape)}, "
            f"got {free.dtype} of shape {tuple(free.shape)}."
        )
    return free.to(x.device)


def _chain_ids(chains: Tensor | int, count: int, device: torch.device) -> Tensor:
    ids = chains if isinstance(chains, Tensor) else torch.arange(chains, device=device)
    if ids.dtype != torch.int64 or tuple(ids.shape) != (count,):
        raise InvalidInput(
            f"chains must be {count} or an int64 tensor of {count} ids, one for each row of x, "
            f"got {ids.dtype} of shape {tuple(ids.shape)}."
        )
    if count and isinstance(chains, Tensor):
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low < 0 or high >= 2**32:
            raise InvalidInput(f"chain ids must be in 0..2**32-1, got {low}..{high}.")
    return ids.to(device)
