"""Seeded graphs with known answers: communities, shortest-path-like values, resistors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, permutation, uniform
from driftwell.data.graphs import Graph, undirected

__all__ = ["resistor_network", "stochastic_block_model", "value_iteration_graph"]


def stochastic_block_model(
    nodes: int,
    *,
    classes: int = 4,
    degree: float = 8.0,
    homophily: float = 0.8,
    features: int = 32,
    signal: float = 1.0,
    labelled: int = 20,
    seed: int = 0,
) -> Graph:
    """Communities, after Holland, Laskey and Leinhardt, *Stochastic blockmodels: First steps*,
    1983, with noisy features.

    Node i has class i mod `classes`. A pair is joined with a probability that gives every node
    `degree` neighbours on average, a share `homophily` of them of its own class. Features are
    signal * mu_class + N(0, I), with mu_class of unit length.

    Args:
        nodes: N.
        classes: of nodes, at least 2.
        degree: mean number of neighbours.
        homophily: share of neighbours of the same class, in [0, 1].
        features: width of x.
        signal: length of the class means, in standard deviations of the noise.
        labelled: training nodes of each class; of the others half choose, half report.
        seed: of everything.

    Raises:
        InvalidInput: fewer than two classes, a homophily outside [0, 1], more edges than pairs.

    Example:
        >>> graph = stochastic_block_model(200, classes=2, seed=1)
        >>> graph.x.shape, int(graph.train_mask.sum())
        (torch.Size([200, 32]), 40)
    """
    if classes < 2 or nodes < 2 * classes:
        raise InvalidInput(
            f"communities need at least 2 classes of 2 nodes, got {nodes} nodes, {classes} classes"
        )
    if not 0.0 <= homophily <= 1.0:
        raise InvalidInput(f"homophily is a share in [0, 1], got {homophily}")
    y = torch.arange(nodes) % classes
    inside = degree * homophily / (nodes / classes - 1)
    outside = degree * (1 - homophily) / (nodes - nodes / classes)
    if not (0.0 <= inside <= 1.0 and 0.0 <= outside <= 1.0):
        raise InvalidInput(f"{nodes} nodes in {classes} classes cannot have {degree} neighbours")
    draw = uniform((nodes, nodes), seed=seed, purpose=Purpose.DATA, chains=nodes, step=0)
    likely = torch.where(y[:, None] == y, inside, outside)
    pairs = ((draw < likely).triu(1)).nonzero().T.contiguous()
    centre = F.normalize(
        normal((classes, features), seed=seed, purpose=Purpose.DATA, chains=classes, step=1), dim=1
    )
    noise = normal((nodes, features), seed=seed, purpose=Purpose.DATA, chains=nodes, step=2)
    order = permutation(nodes, seed=seed, purpose=Purpose.DATA, step=3)
    train = torch.zeros(nodes, dtype=torch.bool)
    for k in range(classes):
        train[order[y[order] == k][:labelled]] = True
    rest = order[~train[order]]
    val = torch.zeros(nodes, dtype=torch.bool)
    val[rest[: len(rest) // 2]] = True
    return Graph(
        undirected(pairs), signal * centre[y] + noise, y,
        train_mask=train, val_mask=val, test_mask=~train & ~val,
    )  # fmt: skip


def value_iteration_graph(
    nodes: int, *, actions: int = 5, discount: float = 0.9, seed: int = 0
) -> Graph:
    """A deterministic decision problem on a graph and its values, as in Park, Choo and Park,
    *Convergent Graph Solvers*, 2022, arXiv:2106.01680.

    Every node has `actions` edges that come from other nodes, no two from the same, each with a
    reward r ~ U(-1, 1). The target is the solution of Bellman's equation, to 1e-9:

        V(i) = max over edges j -> i of  r_ij + discount * V(j)

    Args:
        nodes: N, more than `actions`.
        actions: edges into each node, at least 1.
        discount: in [0, 1).
        seed: of the edges and rewards.

    Returns:
        Graph with x = 1 (N, 1), edge_x = r (E, 1), y = V (N, 1); directed.

    Raises:
        InvalidInput: too few nodes, no action, a discount outside [0, 1).

    Example:
        >>> value_iteration_graph(20, actions=5).edges.shape
        torch.Size([2, 100])
    """
    if not 1 <= actions < nodes:
        raise InvalidInput(f"a node can hear 1..{nodes - 1} others, got actions={actions}")
    if not 0.0 <= discount < 1.0:
        raise InvalidInput(f"the discount is in [0, 1), got {discount}")
    keys = uniform((nodes, nodes), seed=seed, purpose=Purpose.DATA, chains=nodes, step=0)
    source = keys.fill_diagonal_(2.0).argsort(dim=1)[:, :actions]
    r = uniform(
        (nodes, actions), seed=seed, purpose=Purpose.DATA, chains=nodes, step=1, dtype=torch.float64
    )
    r = 2 * r - 1
    V = torch.zeros(nodes, dtype=torch.float64)
    for _ in range(_steps_to(1e-9, discount)):
        V = (r + discount * V[source]).amax(dim=1)
    target = torch.arange(nodes)[:, None].expand_as(source)
    return Graph(
        torch.stack([source.reshape(-1), target.reshape(-1)]),
        torch.ones(nodes, 1),
        V[:, None].float(),
        edge_x=r.reshape(-1, 1).float(),
    )


def resistor_network(
    nodes: int, *, degree: int = 4, electrodes: float = 0.2, seed: int = 0
) -> Graph:
    """A random network of resistors and the potentials of its nodes.

    A ring of all nodes with random chords, `degree` neighbours on average; conductances
    g ~ U(0.1, 1). A share of the nodes are electrodes, held at potentials U(0, 1); the others
    obey Kirchhoff's law, solved densely in float64:

        sum_j g_ij (v_j - v_i) = 0

    Args:
        nodes: N, at least 4.
        degree: mean number of neighbours, from 2 to N - 1.
        electrodes: share of the nodes that are held, in (0, 1); at least two are.
        seed: of everything.

    Returns:
        Graph with x = (held potential or 0, 1 if held) (N, 2), edge_x = g (E, 1), y = v (N, 1).

    Raises:
        InvalidInput: too few nodes, a degree or a share outside its range.

    Example:
        >>> resistor_network(40, seed=1).y.shape
        torch.Size([40, 1])
    """
    if nodes < 4 or not 2 <= degree < nodes:
        raise InvalidInput(f"{nodes} nodes cannot form a ring with {degree} neighbours each")
    if not 0.0 < electrodes < 1.0:
        raise InvalidInput(f"the share of electrodes is in (0, 1), got {electrodes}")

    def drawn(rows: int, columns: int, step: int) -> Tensor:
        return uniform(
            (rows, columns), seed=seed, purpose=Purpose.DATA, chains=rows, step=step,
            dtype=torch.float64,
        )  # fmt: skip

    ring = torch.stack([torch.arange(nodes), torch.arange(1, nodes + 1) % nodes])
    chords = (drawn(nodes * (degree - 2) // 2, 2, 0) * nodes).long().clamp_max(nodes - 1).T
    edges = undirected(torch.cat([ring, chords], dim=1))
    source, target = edges
    conductance = 0.1 + 0.9 * drawn(nodes, nodes, 1)
    conductance = conductance.triu() + conductance.triu(1).T
    g = conductance[source, target]
    order = permutation(nodes, seed=seed, purpose=Purpose.DATA, step=2)
    held = torch.zeros(nodes, dtype=torch.bool)
    held[order[: max(2, round(electrodes * nodes))]] = True
    given = torch.where(held, drawn(nodes, 1, 3)[:, 0], 0.0)
    laplacian = torch.zeros(nodes, nodes, dtype=torch.float64)
    laplacian[target, source] = -g
    laplacian -= torch.diag(laplacian.sum(dim=1))
    v = given.clone()
    v[~held] = torch.linalg.solve(
        laplacian[~held][:, ~held], -laplacian[~held][:, held] @ given[held]
    )
    return Graph(
        edges,
        torch.stack([given, held.double()], dim=1).float(),
        v[:, None].float(),
        edge_x=g[:, None].float(),
    )


def _steps_to(tolerance: float, discount: float) -> int:
    """Steps after which a contraction from within 1 / (1 - discount) is that close."""
    if discount == 0.0:
        return 1
    return math.ceil(math.log(tolerance * (1 - discount)) / math.log(discount))
