"""Recording f without keeping what it computed inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from driftwell.core.errors import DriftwellError
from driftwell.fixed_points.iteration import FlatMap


class Surroundings:
    """What f's result depends on besides its arguments, as of now: precision, random numbers.

    Args:
        device: whose autocast setting and random numbers these are.
        random: keep the state of torch's random numbers too.
    """

    def __init__(self, device: torch.device, random: bool = False) -> None:
        self._device = device
        self._autocast = torch.is_autocast_enabled(device.type)
        self._low = torch.get_autocast_dtype(device.type)
        self._forward = torch._C._is_fwd_grad_enabled()
        self._random = self._random_states() if random else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """The same surroundings once more, with recording on; restored afterwards."""
        low = torch.autocast(self._device.type, dtype=self._low, enabled=self._autocast)
        devices = [self._device] if self._device.type == "cuda" else []
        random = torch.random.fork_rng(devices, enabled=self._random is not None)
        forward = forward_ad._set_fwd_grad_enabled(self._forward)
        with torch.enable_grad(), forward, low, random:
            if self._random is not None:
                torch.set_rng_state(self._random[0])
                if devices:
                    torch.cuda.set_rng_state(self._random[1], self._device)
            yield

    def _random_states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return states


class Again:
    """f(z), to be evaluated once more later in the surroundings of now."""

    def __init__(self, f: FlatMap, z: Tensor, random: bool = False) -> None:
        self._f, self._z = f, z.detach()
        self._surroundings = Surroundings(z.device, random)

    def __call__(self, record_z: bool = False) -> tuple[Tensor, Tensor]:
        """z and f(z), recorded; with `record_z`, as a function of z too."""
        z = self._z.detach().requires_grad_(record_z)
        with self._surroundings.again():
            return z, self._f(z)

    def at(self, z: Tensor) -> Tensor:
        """f(z) now, for a `z` of the same value."""
        return self._f(z)


def record_lightly(again: Again, z: Tensor | None = None) -> Tensor:
    """f(z) with a first derivative, whose record keeps no tensor: f is evaluated anew to use it.

    Unlike torch's own checkpoint it leaves no reference cycle behind, so that memory is free as
    soon as the result is.

    Args:
        again: f and the state, whose value is kept.
        z: that state with its own record, if the derivative is to reach it.
    """
    record = _Record(again, z is not None and z.requires_grad)
    with torch.autograd.graph.saved_tensors_hooks(record.pack, record.unpack):
        value = again()[1] if z is None else again.at(z)
    record.forget()
    return value


class _Record:
    """What autograd asked to save, by number."""

    def __init__(self, again: Again, record_z: bool) -> None:
        self._again, self._record_z, self._count = again, record_z, 0
        # while f runs it may differentiate inside itself, as the force of an energy does
        self._kept: list[Tensor] | None = []

    def pack(self, tensor: Tensor) -> int:
        if self._kept is not None:
            self._kept.append(tensor.detach())
        self._count += 1
        return self._count - 1

    def forget(self) -> None:
        """Drop the tensors: f has been evaluated."""
        self._kept = None

    def unpack(self, number: int) -> Tensor:
        if self._kept is None:
            self._kept = self._recompute()
        return self._kept[number]

    def _recompute(self) -> list[Tensor]:
        kept: list[Tensor] = []

        def keep(tensor: Tensor) -> int:
            kept.append(tensor.detach())
            return len(kept) - 1

        with torch.autograd.graph.saved_tensors_hooks(keep, kept.__getitem__):
            self._again(self._record_z)
        if len(kept) != self._count:
            raise DriftwellError(
                "f did not do the same twice at the same state, so that what it computed cannot be "
                "had again for its gradient; remove what is random or counts calls in it"
            )
        return kept
