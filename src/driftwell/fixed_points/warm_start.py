"""Warm starts: each sample's solve begins where its last one ended."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.results import FixedPoint
from driftwell.core.state import State, check_state, flatten, unflatten
from driftwell.core.status import Status

FIXED_POINT_REUSE = Paper(
    key="bai2022flow",
    title="Deep Equilibrium Optical Flow Estimation",
    authors="Bai, Shaojie and Geng, Zhengyang and Savani, Yash and Kolter, J. Zico",
    year=2022,
    arxiv="2204.08442",
    venue="CVPR 2022",
)


@final
class WarmStart(nn.Module):
    """Store of fixed points by sample index; the reuse of fixed points over video frames, from
    Bai et al., *Deep Equilibrium Optical Flow Estimation*, 2022, arXiv:2204.08442, over the
    updates of a training instead.

    Between two visits of a sample the parameters move a little, and its z* with them: a solve
    that starts at the old z* has a shorter way. The fixed point, where it is unique, and its
    implicit gradient stay what they were. The store is an explicit state: two buffers, saved by
    ``state_dict()``, N times the size of a sample's state.

    Args:
        like: a state with one or more samples, (B, ...) or a tree: its form.
        size: number N of samples in the data.

    Raises:
        InvalidInput: size below 1, or a `like` that is no state.

    Example:
        >>> import driftwell as dw
        >>> cold = torch.zeros(2, 1)
        >>> store = WarmStart(cold, size=100)
        >>> rows = torch.tensor([7, 3])
        >>> found = dw.fixed_point(torch.cos, store.start(rows, cold))
        >>> store.keep(rows, found)
        2
        >>> dw.fixed_point(torch.cos, store.start(rows, cold)).steps
        tensor([1, 1])
    """

    papers = (FIXED_POINT_REUSE,)

    z: Tensor
    filled: Tensor

    def __init__(self, like: State, size: int) -> None:
        super().__init__()
        if size < 1:
            raise InvalidInput(f"WarmStart(size=...) must be at least 1, got {size}")
        flat = flatten(check_state(like, "like"))
        self.register_buffer("z", flat.new_zeros(size, flat.shape[1], requires_grad=False))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.bool, device=flat.device))

    def start(self, rows: Tensor, cold: State) -> State:
        """Start for the samples `rows` (B,) int64: what is stored, else that of `cold` (B, ...).

        Raises:
            InvalidInput: rows out of range, or of another number than the samples of `cold`.
        """
        flat = flatten(cold)
        self._check(rows, flat)
        rows = rows.to(self.z.device)
        kept = self.z[rows].to(flat.device, flat.dtype)
        known = self.filled[rows].to(flat.device)
        return unflatten(torch.where(known[:, None], kept, flat), cold)

    @torch.no_grad()
    def keep(self, rows: Tensor, found: FixedPoint) -> int:
        """Store the fixed points of `rows` (B,) that converged; how many those are.

        Raises:
            InvalidInput: rows out of range, or of another number or form than the result's.
        """
        flat = flatten(found.z).detach()
        self._check(rows, flat)
        converged = (found.status == int(Status.CONVERGED)).nonzero().squeeze(1)
        where = rows.to(self.z.device)[converged.to(self.z.device)]
        self.z[where] = flat[converged].to(self.z)
        self.filled[where] = True
        return len(converged)

    def forget(self) -> None:
        """Empty the store, as after a jump of the parameters."""
        self.filled.zero_()

    def _check(self, rows: Tensor, flat: Tensor) -> None:
        size, dimension = self.z.shape
        if rows.dtype != torch.int64 or rows.shape != flat.shape[:1]:
            raise InvalidInput(
                f"rows must be int64 of shape ({flat.shape[0]},), one index a sample, "
                f"got {rows.dtype} of shape {tuple(rows.shape)}"
            )
        if flat.shape[1] != dimension:
            raise InvalidInput(
                f"this store holds states of {dimension} numbers a sample, got {flat.shape[1]}"
            )
        if len(rows) and not bool(((rows >= 0) & (rows < size)).all()):
            raise InvalidInput(
                f"rows must be in 0..{size - 1}, got {int(rows.min())}..{int(rows.max())}"
            )
