"""Message passing with its own weights in every layer."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform
from driftwell.core.papers import Paper
from driftwell.data.graphs import Graph

BATTAGLIA = Paper(
    key="battaglia2018graph",
    title="Relational inductive biases, deep learning, and graph networks",
    authors="Battaglia, Peter W. and Hamrick, Jessica B. and Bapst, Victor and others",
    year=2018,
    arxiv="1806.01261",
)


@final
class MessagePassing(nn.Module):
    """Untied message-passing layers, after Battaglia et al., *Relational inductive biases, deep
    learning, and graph networks*, 2018, arXiv:1806.01261.

    With edge states e and node states h, layer by layer, MLPs of one hidden layer:

        e_ij <- MLP_e(e_ij, h_j, h_i),    h_i <- MLP_h(h_i, sum over edges j -> i of e_ij)

    Args:
        node_in: width of the node features.
        edge_in: width of the edge features.
        hidden: width of all states.
        layers: at least 1.
        seed: of the keyed start weights.
        dtype: of the parameters.

    Raises:
        InvalidInput: a width or number of layers below 1.

    Example:
        >>> from driftwell.data.graph_generators import value_iteration_graph
        >>> nodes, edges = MessagePassing(1, 1, hidden=8, layers=2)(value_iteration_graph(10))
        >>> nodes.shape, edges.shape
        (torch.Size([10, 8]), torch.Size([50, 8]))
    """

    papers = (BATTAGLIA,)

    def __init__(
        self,
        node_in: int,
        edge_in: int,
        hidden: int = 64,
        layers: int = 3,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if min(node_in, edge_in, hidden, layers) < 1:
            raise InvalidInput(
                "message passing needs widths and layers of at least 1, got "
                f"{node_in}, {edge_in}, {hidden}, {layers}"
            )
        self.node_in, self.edge_in = node_in, edge_in
        self.of_edges, self.of_nodes = nn.ModuleList(), nn.ModuleList()
        for layer in range(layers):
            nodes, edges = (hidden, hidden) if layer else (node_in, edge_in)
            key = 8 * layer
            self.of_edges.append(mlp((edges + 2 * nodes, hidden, hidden), seed, key, dtype))
            self.of_nodes.append(mlp((nodes + hidden, hidden, hidden), seed, key + 4, dtype))

    def forward(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Node states (N, hidden) and edge states (E, hidden)."""
        h, e = graph.x, graph.edge_x
        if e is None or h.shape[1] != self.node_in or e.shape[1] != self.edge_in:
            got = None if e is None else e.shape[1]
            raise InvalidInput(
                f"this network takes node and edge features of widths {self.node_in} and "
                f"{self.edge_in}, got {h.shape[1]} and {got}"
            )
        source, target = graph.edges
        for of_edges, of_nodes in zip(self.of_edges, self.of_nodes, strict=True):
            e = of_edges(torch.cat([e, h[source], h[target]], dim=1))
            heard = e.new_zeros(len(h), e.shape[1]).index_add(0, target, e)
            h = of_nodes(torch.cat([h, heard], dim=1))
        return h, e


def mlp(widths: tuple[int, ...], seed: int, key: int, dtype: torch.dtype) -> nn.Sequential:
    """Linear layers with leaky rectifiers between, drawn by seed and key."""
    parts: list[nn.Module] = []
    for k, (inputs, outputs) in enumerate(pairwise(widths)):
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=dtype)
        u = uniform(
            (outputs, inputs), seed=seed, purpose=Purpose.PARAMETERS, chains=outputs, step=key + k,
            dtype=dtype,
        )  # fmt: skip
        with torch.no_grad():
            layer.weight.copy_((2 * u - 1) * (3.0 / inputs) ** 0.5)
            layer.bias.zero_()
        parts += [layer, nn.LeakyReLU()]
    return nn.Sequential(*parts[:-1])


def edge_softmax(logits: Tensor, group: Tensor, groups: int) -> Tensor:
    """Softmax of (E, H) over the edges of each group, (E,) naming the group of an edge."""
    index = group[:, None].expand_as(logits)
    top = logits.new_full((groups, logits.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, index, logits.detach(), "amax")
    weights = (logits - top[group]).exp()
    total = weights.new_zeros(groups, logits.shape[1]).index_add(0, group, weights)
    return weights / total[group]


def mean_squared_error(found: Tensor, graph: Graph) -> Tensor:
    """Mean squared error of node outputs against the graph's targets."""
    if graph.y is None or graph.y.shape != found.shape:
        raise InvalidInput(
            f"the graph's y must be targets of shape {tuple(found.shape)}, "
            f"got {None if graph.y is None else tuple(graph.y.shape)}"
        )
    return F.mse_loss(found, graph.y)
