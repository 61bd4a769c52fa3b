"""The reversible columns as one operation: forward keeps the last column, backward undoes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from driftwell.models.vision.reversible_columns import ReversibleColumn


class ReversibleFunction(torch.autograd.Function):
    """c_n of the stem x and c_0: saved are x and c_n, whatever the number of columns."""

    @staticmethod
    def forward(
        ctx: Any, columns: Sequence[ReversibleColumn], weights: Sequence[Tensor], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """The last column's levels."""
        x, *c = tensors[: len(tensors) - len(weights)]
        ctx.columns, ctx.weights, ctx.replay = columns, weights, Replay(x.device)
        for column in columns:
            for level in range(len(c)):
                below = c[level - 1] if level else x
                branch = ctx.replay.first(column.branch, level, below, tuple(c))
                c[level] = column.scale(level, c[level]) * c[level] + branch
        ctx.save_for_backward(x, *c)
        return tuple(c)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, c_0 and the weights, column by column and level by level."""
        # Saved outputs come back with this very operation as their history.
        x, *c = (each.detach() for each in ctx.saved_tensors)
        sums: dict[int, Tensor | None] = dict.fromkeys(map(id, ctx.weights))
        g, g_x = list(upstream), torch.zeros_like(x)
        for column in reversed(ctx.columns):
            for level in reversed(range(len(c))):
                undone = _undo(column, level, x, c, g[level], ctx.replay)
                c[level], g[level] = undone.old, undone.of_old
                if level:
                    g[level - 1] = _plus(g[level - 1], undone.of_below)
                else:
                    g_x = _plus(g_x, undone.of_below)
                if level + 1 < len(c):
                    g[level + 1] = _plus(g[level + 1], undone.of_above)
                for weight, part in undone.of_weights:
                    known = sums[id(weight)]
                    sums[id(weight)] = part if known is None else known + part
        return (None, None, g_x, *g, *(sums[id(weight)] for weight in ctx.weights))


class _Undone:
    """The old state of one level, and the gradients that its update passes on."""

    def __init__(
        self,
        old: Tensor,
        of_old: Tensor,
        of_below: Tensor | None,
        of_above: Tensor | None,
        of_weights: list[tuple[Tensor, Tensor]],
    ) -> None:
        self.old, self.of_old = old, of_old
        self.of_below, self.of_above, self.of_weights = of_below, of_above, of_weights


def _undo(
    column: ReversibleColumn, level: int, x: Tensor, c: list[Tensor], g: Tensor, replay: Replay
) -> _Undone:
    """Undo c[level], whose gradient is g; below it c holds this column, above it the previous."""
    with torch.enable_grad():
        below = (c[level - 1] if level else x).detach().requires_grad_(True)
        others = [each.detach() for each in c]
        above = None
        if level + 1 < len(c):
            above = others[level + 1] = others[level + 1].requires_grad_(True)
        branch = replay.again(column.branch, level, below, tuple(others))
        scale = column.scale(level, c[level])
        old = ((c[level] - branch.detach()) / scale.detach()).requires_grad_(True)
        new = scale * old + branch
    own = [column.scales[level], *column.levels[level].parameters()]
    weights = [w for w in own if w.requires_grad]
    inputs = [old, below, *([] if above is None else [above]), *weights]
    grads = list(torch.autograd.grad(new, inputs, g, allow_unused=True))
    of_old, of_below = grads.pop(0), grads.pop(0)
    of_above = None if above is None else grads.pop(0)
    of_weights = [(w, part) for w, part in zip(weights, grads, strict=True) if part is not None]
    return _Undone(old.detach(), of_old, of_below, of_above, of_weights)


def _plus(sum_: Tensor, part: Tensor | None) -> Tensor:
    return sum_ if part is None else sum_ + part


class Replay:
    """Calls that are made once, then again in reverse order, with the same random numbers.

    A call that drew none keeps no state. Autocast is that of the moment this was made.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._autocast = torch.is_autocast_enabled(device.type)
        self._low = torch.get_autocast_dtype(device.type)
        self._states: list[list[Tensor] | None] = []

    def first(self, function: Any, *arguments: Any) -> Tensor:
        """The call, noting the random state before it if it draws."""
        before = self._state()
        value: Tensor = function(*arguments)
        drew = any(not torch.equal(a, b) for a, b in zip(before, self._state(), strict=True))
        self._states.append(before if drew else None)
        return value

    def again(self, function: Any, *arguments: Any) -> Tensor:
        """The last call not yet repeated, repeated; the random state is left as it was found."""
        state = self._states.pop()
        how = torch.autocast(self._device.type, dtype=self._low, enabled=self._autocast)
        with how, self._as_if(state):
            value: Tensor = function(*arguments)
        return value

    def _state(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return states

    @contextmanager
    def _as_if(self, state: list[Tensor] | None) -> Iterator[None]:
        if state is None:
            yield
            return
        on_cuda = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if on_cuda else []):
            torch.set_rng_state(state[0])
            if on_cuda:
                torch.cuda.set_rng_state(state[1], self._device)
            yield
