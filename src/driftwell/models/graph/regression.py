"""Regression of node targets on freshly drawn graphs, for any graph network."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.data.graphs import Graph, side_by_side
from driftwell.models.graph.message_passing import mean_squared_error

__all__ = ["fit_on_drawn_graphs", "greedy_agreement", "relative_error"]


def fit_on_drawn_graphs(
    model: nn.Module,
    answer: Callable[[Graph], Tensor],
    draw: Callable[[int], Graph],
    *,
    updates: int = 992,
    batch: int = 16,
    renew: int = 32,
    lr: float = 1e-3,
    restart: int = 32,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Least squares on graphs drawn as training goes, as Park, Choo and Park do it (2022).

    Adam with a cosine learning rate that starts anew after `restart` updates, then twice, four
    times ... as many, so that 32, 96, 224, 480 or 992 updates end where it is zero. Every `renew`
    updates `batch` new graphs are drawn.

    Args:
        model: whose parameters are trained.
        answer: outputs (N, k) of the model for graphs side by side.
        draw: number -> graph with targets y (N, k); numbers 0, 1, ... are never used twice.
        updates: how many.
        batch: graphs in an update.
        renew: updates with the same graphs.
        lr: largest learning rate of Adam.
        restart: length of the first cosine, in updates.
        progress: called with update and loss.

    Returns:
        The loss of each update.

    Example:
        >>> from driftwell.data.graph_generators import resistor_network
        >>> from driftwell.models.graph import ConvergentGraphSolver
        >>> net = ConvergentGraphSolver(2, 1, heads=2, hidden=8, layers=1)
        >>> losses = fit_on_drawn_graphs(net, lambda g: net(g)[0],
        ...                              lambda k: resistor_network(10, seed=k), updates=20)
        >>> len(losses)
        20
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, restart, T_mult=2)
    losses: list[float] = []
    graphs: Graph | None = None
    for update in range(updates):
        if graphs is None or update % renew == 0:
            first = update // renew * batch
            graphs = side_by_side([draw(first + i) for i in range(batch)])
        loss = mean_squared_error(answer(graphs), graphs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(update, losses[-1])
    return losses


def greedy_agreement(values: Tensor, graph: Graph, discount: float = 0.9) -> float:
    """Share of nodes whose best edge, by r + discount V, is the same under `values` (N, 1) as
    under the graph's own y.

    Raises:
        InvalidInput: a graph without rewards or values.
    """
    if graph.y is None or graph.edge_x is None:
        raise InvalidInput("a greedy policy needs rewards in edge_x and values in y")
    (source, target), r = graph.edges, graph.edge_x[:, 0]

    def best(V: Tensor) -> Tensor:
        worth = r + discount * V[source, 0]
        top = worth.new_full((graph.nodes,), -math.inf).scatter_reduce(0, target, worth, "amax")
        number = torch.arange(len(worth), device=r.device)
        edges = torch.where(worth == top[target], number, len(worth))
        none = torch.full((graph.nodes,), len(worth), device=r.device)
        return none.scatter_reduce(0, target, edges, "amin")

    return float((best(values.detach()) == best(graph.y)).double().mean())


def relative_error(found: Tensor, graph: Graph) -> float:
    """|found - y| / |y| over all nodes.

    Raises:
        InvalidInput: a graph without targets.
    """
    if graph.y is None:
        raise InvalidInput("a relative error needs targets in the graph's y")
    return float((found.detach() - graph.y).norm() / graph.y.norm())
