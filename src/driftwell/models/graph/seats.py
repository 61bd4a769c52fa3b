"""How node states become samples of a fixed-point problem: each graph is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.data.graphs import Graph


@final
@dataclass(frozen=True, eq=False)
class Seats:
    """Node rows (N, d) seated as a state (G, n, d): one sample a graph, n nodes in the largest.

    Nodes of a graph answer to each other, so a node cannot be a sample of its own: to freeze it
    while its neighbours move would leave the equilibrium. Graphs never answer to each other, so
    each has its own convergence, steps and status. Empty seats hold zeros.

    Args:
        graphs: G.
        largest: n.
        seat: (N,) place of each node among the G n seats; None if all are taken in order.
    """

    graphs: int
    largest: int
    seat: Tensor | None

    @staticmethod
    def of(graph: Graph) -> Seats:
        """Seats for the nodes of `graph`."""
        if graph.member is None:
            return Seats(1, graph.nodes, None)
        sizes = torch.bincount(graph.member, minlength=graph.graphs)
        largest = int(sizes.max())
        if bool((sizes == largest).all()):
            return Seats(graph.graphs, largest, None)
        first = sizes.cumsum(0) - sizes
        place = torch.arange(graph.nodes, device=sizes.device) - first[graph.member]
        return Seats(graph.graphs, largest, graph.member * largest + place)

    def sit(self, rows: Tensor) -> Tensor:
        """(N, d) -> (G, n, d)."""
        if self.seat is None:
            return rows.reshape(self.graphs, self.largest, -1)
        empty = rows.new_zeros(self.graphs * self.largest, rows.shape[1])
        return empty.index_copy(0, self.seat, rows).reshape(self.graphs, self.largest, -1)

    def stand(self, state: Tensor) -> Tensor:
        """(G, n, d) -> (N, d)."""
        rows = state.reshape(self.graphs * self.largest, -1)
        return rows if self.seat is None else rows.index_select(0, self.seat)
