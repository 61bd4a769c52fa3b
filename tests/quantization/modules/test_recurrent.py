"""Recurrent nets taken apart compute what torch's compute."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.modules import Recurrent, RecurrentCell

KINDS = (nn.RNN, nn.LSTM, nn.GRU)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("bidirectional", "batch_first"), list(itertools.product((False, True), repeat=2))
)
def test_a_net_taken_apart_answers_as_the_net(
    kind: type[nn.RNNBase], bidirectional: bool, batch_first: bool
) -> None:
    net = kind(3, 5, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)
    apart = Recurrent.from_float(net)
    x, layers = drawn(4, 6, 3), 4 if bidirectional else 2
    h = drawn(layers, 4 if batch_first else 6, 5)
    start = (h, 0.5 * h) if kind is nn.LSTM else h
    for given in (None, start):
        y, end = net(x, given)
        z, stop = apart(x, given)
        torch.testing.assert_close(z, y)
        torch.testing.assert_close(stop, end)
    torch.testing.assert_close(apart(x[0])[0], net(x[0])[0])  # one sequence without a batch


@pytest.mark.parametrize(
    "cell", [nn.RNNCell(3, 4), nn.LSTMCell(3, 4, bias=False), nn.GRUCell(3, 4)]
)
def test_a_cell_taken_apart_answers_as_the_cell(cell: nn.RNNCell) -> None:
    apart = RecurrentCell.from_float(cell)
    x, h = drawn(2, 3), drawn(2, 4)
    carry = (h, -h) if isinstance(cell, nn.LSTMCell) else h
    for given in (None, carry):
        torch.testing.assert_close(apart(x, given), cell(x, given))


def test_a_relu_net_keeps_its_nonlinearity() -> None:
    net = nn.RNN(3, 4, nonlinearity="relu")
    torch.testing.assert_close(Recurrent.from_float(net)(drawn(5, 2, 3))[0], net(drawn(5, 2, 3))[0])


def test_an_lstm_with_projections_is_refused() -> None:
    with pytest.raises(InvalidInput, match="proj_size"):
        Recurrent.from_float(nn.LSTM(3, 4, proj_size=2))
