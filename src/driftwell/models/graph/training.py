"""Training of an implicit graph network on one graph with masks, or on many graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, permutation, uniform
from driftwell.data.graphs import Graph, side_by_side
from driftwell.models.graph.ignn import IGNN, node_states

__all__ = ["Fitted", "accuracy", "fit_graphs", "fit_ignn"]

Progress = Callable[[int, float, float], None]


@dataclass(frozen=True)
class Fitted:
    """What a training found.

    Attributes:
        update: at which the validation accuracy was best; its parameters are in the model.
        validation: that accuracy, in [0, 1].
        loss: training loss of each update.
        steps: evaluations of the layer in each update's forward solve.

    Example:
        >>> Fitted(update=3, validation=0.8, loss=[1.2, 0.7], steps=[9, 11]).validation
        0.8
    """

    update: int
    validation: float
    loss: list[float]
    steps: list[int]


def fit_ignn(
    model: IGNN,
    graph: Graph,
    *,
    updates: int = 200,
    lr: float = 1e-2,
    weight_decay: float = 5e-4,
    dropout: float = 0.5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Fitted:
    """Fit a node classifier to the nodes of `train_mask`, and keep the best on `val_mask`.

    Adam on the cross-entropy; inputs and node states are dropped out with keyed noise; W is
    projected after each update. Without `val_mask` the last parameters stay.

    Args:
        model: of level "node".
        graph: with `y` and `train_mask`.
        updates: how many, at least 1.
        lr: of Adam.
        weight_decay: an l2 penalty on all parameters.
        dropout: rate in [0, 1).
        seed: of the dropout.
        progress: called with update, loss and validation accuracy (NaN without `val_mask`).

    Raises:
        InvalidInput: no labels, no training nodes, a label outside the classes.

    Example:
        >>> from driftwell.data.graph_generators import stochastic_block_model
        >>> graph = stochastic_block_model(60, classes=2, seed=0)
        >>> fitted = fit_ignn(IGNN(graph.x.shape[1], 8, 2), graph, updates=30)
        >>> fitted.loss[-1] < fitted.loss[0]
        True
    """
    y, chosen = _supervision(model, graph)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    best, kept = (-1, -1.0), None
    losses, steps = [], []
    for update in range(updates):
        found = model.equilibrium(graph, dropped(graph.x, dropout, seed, 2 * update))
        z = dropped(node_states(graph, found), dropout, seed, 2 * update + 1)
        loss = F.cross_entropy(model.decode(graph, z)[chosen], y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.project_()
        losses.append(float(loss.detach()))
        steps.append(int(found.steps.max()))
        reached = _validation(model, graph)
        if reached > best[1]:
            best, kept = (update, reached), copy.deepcopy(model.state_dict())
        if progress is not None:
            progress(update, losses[-1], reached)
    if kept is None:
        return Fitted(updates - 1, float("nan"), losses, steps)
    model.load_state_dict(kept)
    return Fitted(*best, losses, steps)


def fit_graphs(
    model: IGNN,
    graphs: list[Graph],
    *,
    epochs: int = 100,
    batch: int = 32,
    lr: float = 5e-3,
    weight_decay: float = 0.0,
    dropout: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[float]:
    """Fit a graph classifier to labelled graphs; returns the mean loss of each epoch.

    Args:
        model: of level "graph".
        graphs: each with `y` (1,).
        epochs: passes over the graphs.
        batch: graphs in an update, side by side.
        lr: of Adam.
        weight_decay: an l2 penalty on all parameters.
        dropout: rate of the node states.
        seed: of the order and the dropout.
        progress: called with epoch, loss and NaN.

    Raises:
        InvalidInput: a model of level "node".

    Example:
        >>> pair = Graph(torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 1), y=torch.tensor([1]))
        >>> lone = Graph(torch.zeros(2, 0, dtype=torch.int64), torch.ones(1, 1), torch.tensor([0]))
        >>> losses = fit_graphs(IGNN(1, 4, 2, level="graph"), [pair, lone], epochs=20)
        >>> losses[-1] < losses[0]
        True
    """
    if model.level != "graph":
        raise InvalidInput('fit_graphs takes a model of level "graph"; use fit_ignn for nodes')
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    losses, update = [], 0
    for epoch in range(epochs):
        order = permutation(len(graphs), seed=seed, purpose=Purpose.DATA, step=epoch).tolist()
        total = 0.0
        for start in range(0, len(order), batch):
            some = side_by_side([graphs[i] for i in order[start : start + batch]])
            z = dropped(node_states(some, model.equilibrium(some)), dropout, seed, update)
            loss = F.cross_entropy(model.decode(some, z), _labels(some))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.project_()
            total += float(loss.detach()) * some.graphs
            update += 1
        losses.append(total / len(graphs))
        if progress is not None:
            progress(epoch, losses[-1], float("nan"))
    return losses


def accuracy(model: IGNN, graph: Graph, mask: Tensor | None = None) -> float:
    """Share of nodes (of `mask`), or of graphs, whose largest logit is their label.

    Example:
        >>> pair = Graph(torch.tensor([[0, 1], [1, 0]]), torch.eye(2), y=torch.tensor([1, 1]))
        >>> 0.0 <= accuracy(IGNN(2, 4, 2), pair) <= 1.0
        True
    """
    with torch.no_grad():
        right = model(graph)[0].argmax(dim=1) == _labels(graph)
    return float((right if mask is None else right[mask]).double().mean())


def dropped(x: Tensor, rate: float, seed: int, step: int) -> Tensor:
    """x with entries zeroed at `rate` by keyed noise and the rest scaled up."""
    if rate == 0.0:
        return x
    if not 0.0 < rate < 1.0:
        raise InvalidInput(f"a dropout rate is in [0, 1), got {rate}")
    u = uniform(
        tuple(x.shape), seed=seed, purpose=Purpose.USER, step=step,
        chains=torch.arange(len(x), device=x.device),
    )  # fmt: skip
    return torch.where(u > rate, x / (1.0 - rate), 0.0)


def _validation(model: IGNN, graph: Graph) -> float:
    return float("nan") if graph.val_mask is None else accuracy(model, graph, graph.val_mask)


def _labels(graph: Graph) -> Tensor:
    if graph.y is None or graph.y.is_floating_point():
        raise InvalidInput("classification needs integer labels in the graph's y, got none")
    return graph.y


def _supervision(model: IGNN, graph: Graph) -> tuple[Tensor, Tensor]:
    y, chosen = _labels(graph), graph.train_mask
    if model.level != "node":
        raise InvalidInput('fit_ignn takes a model of level "node"; use fit_graphs for graphs')
    if chosen is None or not bool(chosen.any()):
        raise InvalidInput("fit_ignn needs at least one node in the graph's train_mask")
    low, high = (int(bound) for bound in torch.aminmax(y[chosen]))
    if low < 0 or high >= model.classes:
        raise InvalidInput(
            f"labels of the training nodes are {low}..{high}, but the model has "
            f"{model.classes} classes"
        )
    return y, chosen
