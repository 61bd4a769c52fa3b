"""Recurrent networks taken apart into linear layers, so that each can be quantized."""

from __future__ import annotations

from typing import TypeAlias, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput

Carry: TypeAlias = tuple[Tensor, ...]
Cell: TypeAlias = nn.RNNCell | nn.LSTMCell | nn.GRUCell
_CELLS = {nn.RNNCell: "RNN", nn.LSTMCell: "LSTM", nn.GRUCell: "GRU"}


@final
class RecurrentCell(nn.Module):
    """One step of an RNN, LSTM or GRU as two linear layers, `ih` and `hh`.

        a = W_ih x + b_ih,   r = W_hh h + b_hh
        RNN   h <- phi(a + r)
        LSTM  i, f, g, o = a + r;  c <- s(f) c + s(i) tanh(g);  h <- s(o) tanh(c)
        GRU   u_r, u_z, u_n = a;  v_r, v_z, v_n = r;  z = s(u_z + v_z)
              n = tanh(u_n + s(u_r + v_r) v_n);  h <- (1 - z) n + z h

    The layers `ih` and `hh` may be replaced by `QuantizedLinear`.

    Args:
        kind: ``"RNN"``, ``"LSTM"`` or ``"GRU"``.
        ih: W_ih and b_ih.
        hh: W_hh and b_hh.
        nonlinearity: phi of an RNN, ``"tanh"`` or ``"relu"``.

    Example:
        >>> cell = nn.GRUCell(3, 4)
        >>> same = RecurrentCell.from_float(cell)
        >>> x, h = torch.ones(2, 3), torch.ones(2, 4)
        >>> torch.allclose(same(x, h), cell(x, h), atol=1e-6)
        True
    """

    def __init__(self, kind: str, ih: nn.Module, hh: nn.Module, nonlinearity: str = "tanh") -> None:
        super().__init__()
        if kind not in _CELLS.values():
            raise InvalidInput(f'kind must be "RNN", "LSTM" or "GRU", got {kind!r}')
        self.kind, self.nonlinearity, self.ih, self.hh = kind, nonlinearity, ih, hh

    @classmethod
    def from_float(cls, cell: Cell) -> RecurrentCell:
        """The cell's own weights in two linear layers."""
        kind = _CELLS[type(cell)]
        layers = (
            _linear(cell.weight_ih, cell.bias_ih),
            _linear(cell.weight_hh, cell.bias_hh),
        )
        return cls(kind, *layers, str(getattr(cell, "nonlinearity", "tanh")))

    @property
    def hidden_size(self) -> int:
        """Entries of h."""
        return int(self.hh.in_features)  # type: ignore[arg-type]

    def step(self, a: Tensor, carry: Carry) -> Carry:
        """The next (h,) or (h, c) from the input's product a and the last."""
        h, r = carry[0], self.hh(carry[0])
        if self.kind == "RNN":
            return (torch.tanh(a + r) if self.nonlinearity == "tanh" else torch.relu(a + r),)
        if self.kind == "LSTM":
            i, f, g, o = (a + r).chunk(4, dim=-1)
            c = torch.sigmoid(f) * carry[1] + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c
        (u_r, u_z, u_n), (v_r, v_z, v_n) = a.chunk(3, dim=-1), r.chunk(3, dim=-1)
        z = torch.sigmoid(u_z + v_z)
        n = torch.tanh(u_n + torch.sigmoid(u_r + v_r) * v_n)
        return (n + z * (h - n),)

    def forward(
        self, x: Tensor, carry: Tensor | Carry | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """h, or (h, c) of an LSTM, after one step, as torch's cells give it."""
        if carry is None:
            zero = x.new_zeros(*x.shape[:-1], self.hidden_size)
            carry = (zero, zero) if self.kind == "LSTM" else (zero,)
        after = self.step(self.ih(x), (carry,) if isinstance(carry, Tensor) else carry)
        return (after[0], after[1]) if self.kind == "LSTM" else after[0]


@final
class Recurrent(nn.Module):
    """nn.RNN, nn.LSTM or nn.GRU as a list of `RecurrentCell`, one a layer and direction.

    It is called and answers as torch's module does, in both directions, with several layers,
    batch first or not, unbatched or not. The input's products of all times are one product.

    Args:
        cells: layer by layer, forward before backward in each.
        bidirectional: whether there are two directions.
        batch_first: whether inputs are (B, T, F) and not (T, B, F).

    Example:
        >>> net = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
        >>> x = torch.ones(5, 2, 3)
        >>> torch.allclose(Recurrent.from_float(net)(x)[0], net(x)[0], atol=1e-6)
        True
    """

    def __init__(
        self, cells: list[RecurrentCell], *, bidirectional: bool, batch_first: bool
    ) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.directions, self.batch_first = 1 + bidirectional, batch_first

    @classmethod
    def from_float(cls, net: nn.RNNBase) -> Recurrent:
        """The net's own weights, taken apart.

        Raises:
            InvalidInput: packed sequences' projections (`proj_size`), which have a third matrix.
        """
        if net.proj_size:
            raise InvalidInput("an LSTM with proj_size cannot be taken apart: set proj_size=0")
        kind = net.mode.split("_")[0]
        phi = "relu" if net.mode.endswith("RELU") else "tanh"
        cells = []
        for layer in range(net.num_layers):
            for end in ("", "_reverse")[: 1 + net.bidirectional]:
                parts = [
                    _linear(
                        getattr(net, f"weight_{part}_l{layer}{end}"),
                        getattr(net, f"bias_{part}_l{layer}{end}", None),
                    )
                    for part in ("ih", "hh")
                ]
                cells.append(RecurrentCell(kind, parts[0], parts[1], phi))
        return cls(cells, bidirectional=net.bidirectional, batch_first=net.batch_first)

    def forward(
        self, x: Tensor, start: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        """Outputs at all times, and the last h or (h, c), (layers * directions, B, H)."""
        batched = x.ndim == 3
        given = [] if start is None else [start] if isinstance(start, Tensor) else list(start)
        if not batched:
            x, given = x.unsqueeze(1), [part.unsqueeze(1) for part in given]
        elif self.batch_first:
            x = x.transpose(0, 1)
        y, ends = self._layers(x, given)
        if not batched:
            y, ends = y.squeeze(1), [part.squeeze(1) for part in ends]
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, ends[0] if len(ends) == 1 else (ends[0], ends[1])

    def _layers(self, x: Tensor, given: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """All layers on (T, B, F)."""
        ends: list[Carry] = []
        for first in range(0, len(self.cells), self.directions):
            passes = []
            for index in range(first, first + self.directions):
                cell: RecurrentCell = self.cells[index]  # type: ignore[assignment]
                carry = tuple(part[index] for part in given) or _zeros(cell, x)
                y, end = _through_time(cell, x, carry, backward=index > first)
                passes.append(y)
                ends.append(end)
            x = torch.cat(passes, dim=-1)
        return x, [torch.stack(column) for column in zip(*ends, strict=True)]


def _through_time(
    cell: RecurrentCell, x: Tensor, carry: Carry, *, backward: bool
) -> tuple[Tensor, Carry]:
    """States h of all times (T, B, H) and the last carry."""
    a, states = cell.ih(x), []
    times = range(len(x))
    for t in reversed(times) if backward else times:
        carry = cell.step(a[t], carry)
        states.append(carry[0])
    return torch.stack(states[::-1] if backward else states), carry


def _zeros(cell: RecurrentCell, x: Tensor) -> Carry:
    zero = x.new_zeros(x.shape[1], cell.hidden_size)
    return (zero, zero) if cell.kind == "LSTM" else (zero,)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer that holds these very parameters."""
    layer: nn.Linear = nn.utils.skip_init(
        nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype,
        device=weight.device,
    )  # fmt: skip
    layer.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    if bias is not None:
        layer.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
    return layer
