"""Convergent graph solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.results import FixedPoint
from driftwell.data.graphs import Graph
from driftwell.fixed_points import Gradient, Implicit, Picard, Solver, fixed_point
from driftwell.models.graph.message_passing import MessagePassing, edge_softmax, mlp
from driftwell.models.graph.seats import Seats

CGS = Paper(
    key="park2022cgs",
    title="Convergent Graph Solvers",
    authors="Park, Junyoung and Choo, Jinhyun and Park, Jinkyoo",
    year=2022,
    arxiv="2106.01680",
    venue="ICLR 2022",
)

Normalize = Literal["source", "target"]


@final
class ConvergentGraphSolver(nn.Module):
    """Convergent graph solver, from Park, Choo and Park, *Convergent Graph Solvers*, 2022,
    arXiv:2106.01680.

    A message-passing network reads the graph and writes, for each of H heads, a linear map along
    its edges and a bias; the fixed points of these maps are read out by an MLP:

        h_i = gamma sum over edges j -> i of a_ij h_j + b_i,    output_i = MLP(h_i, heads)

    The a_ij >= 0 are a softmax over the edges that leave a node ("source") or reach it
    ("target"). Then gamma A contracts by exactly gamma in the norm that belongs to it and, in
    general, in no other: the 1-norm for "source", whose columns sum to 1, and the largest entry
    for "target", whose rows do. Either way the fixed point exists and is unique whatever the
    weights, and Picard iteration gains a factor gamma a step. (The paper clips logits to [0, 1]
    and divides by the out-degree, or takes the softmax over leaving edges.)

    Each graph of several side by side is a sample of its own, see `Seats`.

    Args:
        node_in: width of the node features.
        edge_in: width of the edge features.
        heads: H, number of linear maps.
        gamma: modulus of contraction, in (0, 1).
        outputs: width of the answer at each node.
        hidden: width of the network that writes the maps.
        layers: of that network.
        normalize: over which edges of a node the weights sum to 1.
        solver: of the fixed point.
        gradient: through it.
        tol: relative tolerance.
        max_steps: evaluations allowed.
        seed: of the keyed start weights.
        dtype: of the parameters.

    Raises:
        InvalidInput: no heads, a gamma outside (0, 1), another normalisation.

    Example:
        >>> from driftwell.data.graph_generators import value_iteration_graph
        >>> values, found = ConvergentGraphSolver(1, 1, heads=4, hidden=8)(value_iteration_graph(9))
        >>> values.shape, int(found.steps.max()) <= 24
        (torch.Size([9, 1]), True)
    """

    papers = (CGS,)

    def __init__(
        self,
        node_in: int,
        edge_in: int,
        heads: int = 16,
        gamma: float = 0.5,
        *,
        outputs: int = 1,
        hidden: int = 64,
        layers: int = 3,
        normalize: Normalize = "target",
        solver: Solver = Picard(),
        gradient: Gradient = Implicit(solver=Picard()),
        tol: float = 1e-6,
        max_steps: int = 200,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if heads < 1 or outputs < 1:
            raise InvalidInput(f"heads and outputs must be at least 1, got {heads}, {outputs}")
        if not 0.0 < gamma < 1.0:
            raise InvalidInput(f"gamma must be in (0, 1) for the maps to contract, got {gamma}")
        if normalize not in ("source", "target"):
            raise InvalidInput(f'normalize must be "source" or "target", got {normalize!r}')
        self.heads, self.gamma, self.normalize = heads, gamma, normalize
        self.solver, self.gradient, self.tol, self.max_steps = solver, gradient, tol, max_steps
        self.encoder = MessagePassing(node_in, edge_in, hidden, layers, seed, dtype)
        self.weigh = mlp((hidden, heads), seed, 1000, dtype)
        self.bias = mlp((hidden, heads), seed, 1001, dtype)
        self.decoder = mlp((heads, 64, 32, outputs), seed, 1002, dtype)

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return f"heads={self.heads}, gamma={self.gamma}, normalize={self.normalize}"

    def contraction(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Edge weights gamma a (E, H), which sum to gamma at each node, and biases b (N, H)."""
        nodes, edges = self.encoder(graph)
        group = graph.edges[0 if self.normalize == "source" else 1]
        weights = edge_softmax(self.weigh(edges), group, graph.nodes)
        return self.gamma * weights, self.bias(nodes)

    def map(self, graph: Graph, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The law (h, b) -> gamma A h + b of states (G, n, H)."""
        (source, target), seats = graph.edges, Seats.of(graph)

        def step(h: Tensor, b: Tensor) -> Tensor:
            rows = seats.stand(h)
            heard = torch.zeros_like(rows).index_add(0, target, weights * rows[source])
            return seats.sit(heard) + b

        return step

    def forward(self, graph: Graph) -> tuple[Tensor, FixedPoint]:
        """Answers (N, outputs), and the fixed points (G, n, H) they were read from.

        Raises:
            InvalidInput: features of other widths.
            NotConverged: `max_steps` were too few.
        """
        weights, b = self.contraction(graph)
        seats = Seats.of(graph)
        drive = seats.sit(b)
        found = fixed_point(
            self.map(graph, weights), torch.zeros_like(drive), drive,
            solver=self.solver, gradient=self.gradient, tol=self.tol, max_steps=self.max_steps,
        )  # fmt: skip
        if not isinstance(found.z, Tensor):
            raise InvalidInput("the fixed points of a graph are one tensor (G, n, H)")
        answers: Tensor = self.decoder(seats.stand(found.z))
        return answers, found
