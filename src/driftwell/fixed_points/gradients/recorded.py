"""Recording f without keeping what it computed inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import DriftwellError
from driftwell.fixed_points.iteration import FlatMap


class Again:
    """f(z), to be evaluated once more later under the precision (autocast) of now."""

    def __init__(self, f: FlatMap, z: Tensor) -> None:
        self._f, self._z = f, z.detach()
        self._device = z.device.type
        self._autocast = torch.is_autocast_enabled(self._device)
        self._low = torch.get_autocast_dtype(self._device)

    def __call__(self, record_z: bool = False) -> tuple[Tensor, Tensor]:
        """z and f(z), recorded; with `record_z`, as a function of z too."""
        z = self._z.detach().requires_grad_(record_z)
        how = torch.autocast(self._device, dtype=self._low, enabled=self._autocast)
        with torch.enable_grad(), how:
            return z, self._f(z)


def record_lightly(again: Again) -> Tensor:
    """f(z) with a first derivative, whose record keeps no tensor: f is evaluated anew to use it.

    Unlike torch's own checkpoint it leaves no reference cycle behind, so that memory is free as
    soon as the result is.
    """
    record = _Record(again)
    with torch.autograd.graph.saved_tensors_hooks(record.pack, record.unpack):
        return again()[1]


class _Record:
    """What autograd asked to save, by number."""

    def __init__(self, again: Again) -> None:
        self._again, self._count = again, 0
        self._kept: list[Tensor] | None = None

    def pack(self, tensor: Tensor) -> int:
        self._count += 1
        return self._count - 1

    def unpack(self, number: int) -> Tensor:
        if self._kept is None:
            self._kept = self._recompute()
        return self._kept[number]

    def _recompute(self) -> list[Tensor]:
        kept: list[Tensor] = []

        def keep(tensor: Tensor) -> int:
            kept.append(tensor.detach())
            return len(kept) - 1

        def refuse(number: int) -> Any:
            raise DriftwellError("the record of f was already used; solve again to differentiate")

        with torch.autograd.graph.saved_tensors_hooks(keep, refuse):
            self._again()
        if len(kept) != self._count:
            raise DriftwellError(
                "f did not do the same twice at the same state, so that it has no implicit "
                "gradient; remove what is random or counts calls in it"
            )
        return kept
