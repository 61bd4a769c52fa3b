"""Keys of the noise: who asks for random numbers, checked and brought to one form."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.philox import MASK


class Purpose(IntEnum):
    """What a random number is for: streams of different purposes never meet.

    Values from `USER` to 255 are free for code outside the library.
    """

    INIT = 0
    DYNAMICS = 1
    ACCEPT = 2
    MOMENTUM = 3
    SWAP = 4
    DATA = 5
    PARAMETERS = 6
    BROWNIAN = 7
    PROBE = 8
    MASK = 9
    USER = 64


@dataclass(frozen=True)
class Request:
    """A checked request for (B, *event) numbers: one key, and counters for each of B chains."""

    shape: tuple[int, ...]
    chains: Tensor
    seed: int
    step: int
    tag: int  # counter word 3

    @property
    def elements(self) -> int:
        """Numbers of one chain."""
        return math.prod(self.shape[1:])


def checked_request(
    shape: Sequence[int],
    seed: int,
    purpose: int,
    chains: Tensor | int,
    step: int,
    leaf: int,
    device: torch.device | str | None,
) -> Request:
    """The request as a `Request`; arguments as in `noise.words`.

    Raises:
        InvalidInput: an argument outside its range.

    Example:
        >>> checked_request((2, 3, 4), 0, Purpose.INIT, 2, 0, 0, None).elements
        12
    """
    size = tuple(_integer("each entry of shape", entry, 2**40) for entry in shape)
    if not size:
        raise InvalidInput("noise needs a shape (B, *event) with the chains first, got ().")
    ids = _chain_ids(chains, device)
    if len(ids) != size[0]:
        raise InvalidInput(
            f"shape {size} asks for {size[0]} chains but {len(ids)} chain ids were given: "
            f"shape[0] must be the number of chains."
        )
    if math.prod(size[1:]) > 2**34:
        raise InvalidInput(f"shape {size} has more than 2**34 elements a chain.")
    seed = _integer("seed", seed, 2**64)
    step = _integer("step", step, 2**40)
    purpose = _integer("purpose", purpose, 2**8)
    leaf = _integer("leaf", leaf, 2**16)
    return Request(size, ids, seed, step, (step >> 32) | purpose << 8 | leaf << 16)


def _integer(name: str, value: int, limit: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidInput(f"{name} must be an integer, got {value!r}.") from None
    if not 0 <= number < limit:
        raise InvalidInput(f"{name} must be in 0..{limit - 1}, got {number}.")
    return number


def _chain_ids(chains: Tensor | int, device: torch.device | str | None) -> Tensor:
    if not isinstance(chains, Tensor):
        return torch.arange(_integer("chains", chains, 2**32), device=device)
    if chains.dtype != torch.int64 or chains.dim() != 1:
        raise InvalidInput(
            f"chains must be a one-dimensional int64 tensor or a count, "
            f"got {chains.dtype} of shape {tuple(chains.shape)}."
        )
    if device is not None and torch.device(device).type != chains.device.type:
        raise InvalidInput(f"chains are on {chains.device}, but device={device} was asked for.")
    if len(chains):
        low, high = (int(bound) for bound in torch.aminmax(chains))
        if low < 0 or high > MASK:
            raise InvalidInput(f"chain ids must be in 0..{MASK}, got {low}..{high}.")
    return chains
