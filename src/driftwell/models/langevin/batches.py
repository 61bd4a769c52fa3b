"""Which data an update takes: keyed epochs, a function of the update's index."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from driftwell.core.noise import Purpose, permutation


@final
class Batches:
    """Batches of a keyed random order, a new one each epoch; the rest of an epoch is left out.

    Args:
        n: number of data.
        batch: data per update, at most n.
        seed: of the order.
        device: of the row numbers.

    Example:
        >>> batches = Batches(4, 2, seed=0, device=torch.device("cpu"))
        >>> sorted(batches.rows(0).tolist() + batches.rows(1).tolist())
        [0, 1, 2, 3]
    """

    def __init__(self, n: int, batch: int, seed: int, device: torch.device) -> None:
        self.n, self.batch, self.seed, self.device = n, min(batch, n), seed, device
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, index: int) -> Tensor:
        """Rows of the update `index`, int64 (batch,); all rows in order if that is a batch."""
        if self.batch == self.n:
            return torch.arange(self.n, device=self.device)
        epoch, position = divmod(index, self.n // self.batch)
        if epoch != self._epoch:  # an order is made once an epoch, and can always be made again
            order = permutation(self.n, seed=self.seed, purpose=Purpose.DATA, step=epoch)
            self._epoch, self._order = epoch, order.to(self.device)
        return self._order[position * self.batch : (position + 1) * self.batch]
