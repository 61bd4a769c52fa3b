"""The processes that share one run: who does which rows, and how their sums meet."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor

from driftwell.core.errors import InvalidInput


@final
@dataclass(frozen=True)
class World:
    """Place of this process among those that share a run; alone, every method is the identity.

    Rows (chains, images) are split into contiguous shares, as even as possible, in rank order.
    Noise is keyed by the row's own number, so a share holds the rows one process would have had.

    Args:
        rank: number of this process, from 0; process 0 leads (it alone writes files).
        size: number of processes.

    Raises:
        InvalidInput: a rank outside 0..size-1.

    Example:
        >>> World(rank=1, size=3).slice(10)
        slice(4, 7, None)
        >>> World().slice(10)
        slice(0, 10, None)
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise InvalidInput(
                f"a rank lies in 0..size-1, got rank {self.rank} of {self.size} processes"
            )

    @classmethod
    def from_environment(cls) -> World:
        """The world that torchrun's variables describe, joined through gloo; alone without them.

        Raises:
            InvalidInput: variables that are not numbers, or a meeting point that does not answer.

        Example:
            >>> World.from_environment().leader
            True
        """
        if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
            return cls()
        try:
            world = cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        except ValueError as error:
            raise InvalidInput(
                f"RANK and WORLD_SIZE must be numbers, as torchrun sets them: {error}"
            ) from error
        if world.size > 1 and not dist.is_initialized():
            try:
                dist.init_process_group("gloo", rank=world.rank, world_size=world.size)
            except (ValueError, RuntimeError) as error:
                raise InvalidInput(
                    f"process {world.rank} of {world.size} could not join the others: {error}; "
                    "start them with `torchrun --nproc-per-node N -m driftwell ...`"
                ) from error
        return world

    @property
    def leader(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def slice(self, n: int) -> slice:
        """This process's share of n rows: contiguous, sizes differing by at most one."""
        return slice(*self._bounds(n, self.rank))

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Sums over processes, added in float64 and the same bits on each of them.

        All tensors travel in one message. Alone: the tensors themselves.

        Example:
            >>> World().sum(torch.ones(1), torch.zeros(2))
            (tensor([1.]), tensor([0., 0.]))
        """
        if self.size == 1:
            return tensors
        flat = torch.cat([t.detach().reshape(-1).to("cpu", torch.float64) for t in tensors])
        dist.all_reduce(flat)
        parts = flat.split([t.numel() for t in tensors])
        return tuple(
            part.reshape(t.shape).to(t.device, t.dtype)
            for part, t in zip(parts, tensors, strict=True)
        )

    def mean(self, *tensors: Tensor, rows: int) -> tuple[Tensor, ...]:
        """Means over all rows from each process's means over its own `rows` (0 is allowed).

        mean = sum_r rows_r mean_r / sum_r rows_r. Alone: the tensors themselves.
        """
        if self.size == 1:
            return tensors
        weighted = [
            t.double() * rows if rows else torch.zeros_like(t, dtype=torch.float64) for t in tensors
        ]
        *sums, total = self.sum(*weighted, torch.tensor(float(rows), dtype=torch.float64))
        return tuple(
            (s / total.to(s.device)).to(t.dtype) for s, t in zip(sums, tensors, strict=True)
        )

    def gather(self, tensor: Tensor, n: int) -> Tensor:
        """All n rows in order, on every process, from the shares of `slice(n)`.

        Args:
            tensor: this process's rows, (rows, ...).
            n: number of rows of all processes together.

        Raises:
            InvalidInput: `tensor` does not have this process's number of rows.
        """
        start, stop = self._bounds(n, self.rank)
        if len(tensor) != stop - start:
            raise InvalidInput(
                f"process {self.rank} of {self.size} holds {stop - start} of {n} rows, "
                f"got {len(tensor)}"
            )
        if self.size == 1:
            return tensor
        # gloo wants equal sizes: shares differ by at most one row, so the last one may be padding
        longest = -(-n // self.size)
        padded = tensor.new_zeros((longest, *tensor.shape[1:]), device="cpu")
        padded[: len(tensor)] = tensor.detach().cpu()
        shares = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(shares, padded)
        bounds = (self._bounds(n, rank) for rank in range(self.size))
        rows = [share[: b - a] for share, (a, b) in zip(shares, bounds, strict=True)]
        return torch.cat(rows).to(tensor.device)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any process: how processes stop at the same update."""
        if self.size == 1:
            return flag
        vote = torch.tensor([int(flag)])
        dist.all_reduce(vote)
        return bool(vote)

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Take leave of the other processes, at the end of a run."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _bounds(self, n: int, rank: int) -> tuple[int, int]:
        if n < 0:
            raise InvalidInput(f"a number of rows cannot be negative, got {n}")
        share, extra = divmod(n, self.size)
        start = rank * share + min(rank, extra)
        return start, start + share + (rank < extra)
