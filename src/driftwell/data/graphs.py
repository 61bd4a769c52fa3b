"""A graph with node features, labels and masks; several graphs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.data.propagation import Propagation, normalized_propagation

__all__ = ["Graph", "edges_of", "side_by_side", "undirected"]


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """A graph, or several side by side: edges, node and edge features, labels, masks.

    An edge j -> i appears once, in one column (j, i) of `edges`; an undirected edge is two. Loops
    j -> j and repeated edges are refused: models that want every node to hear itself add the
    loops in their normalisation, and a repeated edge is a weight, so give it as an edge feature.
    Nodes without edges are fine.

    Args:
        edges: (2, E) int64, source and target of each.
        x: node features, (N, p) floating point.
        y: labels or targets: (N,) or (N, k) per node; (G,) for G graphs side by side; or None.
            An integer label of -1 is unknown.
        edge_x: edge features (E, q), or None.
        train_mask: nodes to learn from, bool (N,), or None.
        val_mask: nodes to choose by, likewise.
        test_mask: nodes to report on, likewise.
        member: int64 (N,), 0, 0, ..., 1, ...: the graph each node belongs to, of several side by
            side; None for one graph.

    Raises:
        InvalidInput: a shape or dtype that does not fit, an edge to a node that is not there, a
            loop, a repeated edge, an edge between two graphs, features that are not finite.

    Example:
        >>> path = Graph(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), torch.eye(3))
        >>> path.nodes, path.graphs, path.is_symmetric
        (3, 1, True)
    """

    edges: Tensor
    x: Tensor
    y: Tensor | None = None
    edge_x: Tensor | None = None
    train_mask: Tensor | None = None
    val_mask: Tensor | None = None
    test_mask: Tensor | None = None
    member: Tensor | None = None

    def __post_init__(self) -> None:
        _check_features(self.x)
        _check_edges(self.edges, self.nodes)
        if self.edge_x is not None and (
            self.edge_x.ndim != 2 or len(self.edge_x) != self.edges.shape[1]
        ):
            raise InvalidInput(
                f"edge_x must have a row for each of the {self.edges.shape[1]} edges, "
                f"got shape {tuple(self.edge_x.shape)}"
            )
        for name in ("train_mask", "val_mask", "test_mask"):
            mask = getattr(self, name)
            if mask is not None and (mask.dtype != torch.bool or mask.shape != (self.nodes,)):
                raise InvalidInput(
                    f"{name} must be bool of shape ({self.nodes},), got {mask.dtype} "
                    f"{tuple(mask.shape)}"
                )
        if self.member is not None:
            _check_member(self.member, self.edges, self.nodes)
        if self.y is not None and (
            self.y.ndim == 0 or len(self.y) not in (self.nodes, self.graphs)
        ):
            raise InvalidInput(
                f"y must have a row for each of the {self.nodes} nodes or {self.graphs} graphs, "
                f"got shape {tuple(self.y.shape)}"
            )

    @property
    def nodes(self) -> int:
        """Number of nodes N, of all graphs together."""
        return self.x.shape[0]

    @cached_property
    def graphs(self) -> int:
        """Number of graphs side by side."""
        return 1 if self.member is None else int(self.member[-1]) + 1

    @cached_property
    def is_symmetric(self) -> bool:
        """Whether every edge is there in both directions."""
        source, target = self.edges
        there = (source * self.nodes + target).sort().values
        back = (target * self.nodes + source).sort().values
        return bool(torch.equal(there, back))

    @cached_property
    def propagation(self) -> Propagation:
        """Product with the symmetric normalised adjacency with self-loops, spectral radius 1.

        Raises:
            InvalidInput: an edge lacks its opposite.
        """
        if not self.is_symmetric:
            raise InvalidInput(
                "the normalised adjacency needs every edge in both directions; "
                "build the graph with undirected(edges)"
            )
        return normalized_propagation(self.edges, self.nodes, self.x.dtype)

    def to(self, device: torch.device | str) -> Graph:
        """The same graph on another device."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: part if part is None else part.to(device) for name, part in given.items()
        }
        return Graph(**moved)


def undirected(pairs: Tensor) -> Tensor:
    """Edges of an undirected graph: both directions of each pair, sorted, loops dropped.

    Args:
        pairs: (2, P) int64; a pair may be given in one direction or both, once or often.

    Returns:
        (2, E) int64, each direction once.

    Example:
        >>> undirected(torch.tensor([[0, 1, 2], [1, 0, 2]]))
        tensor([[0, 1],
                [1, 0]])
    """
    if pairs.dtype != torch.int64 or pairs.ndim != 2 or pairs.shape[0] != 2:
        raise InvalidInput(
            f"pairs must be int64 of shape (2, P), got {pairs.dtype} {tuple(pairs.shape)}"
        )
    pairs = pairs[:, pairs[0] != pairs[1]]
    both: Tensor = torch.cat([pairs, pairs.flip(0)], dim=1).unique(dim=1)
    return both


def edges_of(adjacency: Tensor) -> Tensor:
    """Edges of an adjacency matrix: a column (i, j) for each entry A_ij that is not zero.

    Args:
        adjacency: (N, N), dense or sparse, of any dtype.

    Returns:
        (2, E) int64, as `Graph` takes them.

    Raises:
        InvalidInput: not a square matrix, or one with entries that are not finite.

    Example:
        >>> edges_of(torch.tensor([[0, 1], [1, 0]]))
        tensor([[0, 1],
                [1, 0]])
    """
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
        raise InvalidInput(
            f"an adjacency must be a square matrix (N, N), got shape {tuple(adjacency.shape)}; "
            "edges of a graph with two kinds of nodes go into Graph(edges, x) directly"
        )
    if adjacency.layout != torch.strided:
        adjacency = adjacency.to_sparse_coo().coalesce()
        kept = adjacency.values() != 0
        values, places = adjacency.values(), adjacency.indices()[:, kept]
    else:
        values, places = adjacency, adjacency.nonzero().T
    if not bool(torch.isfinite(values).all()):
        raise InvalidInput("the adjacency holds entries that are not finite; clean it first")
    return places.contiguous()


def side_by_side(graphs: Sequence[Graph]) -> Graph:
    """Several graphs as one without edges between them; `member` says which node is whose.

    Args:
        graphs: at least one, with features of one width, each a single graph; a `y` of one entry
            is the graph's own label, any other is per node.

    Raises:
        InvalidInput: no graph, or graphs of which only some have labels or edge features.

    Example:
        >>> one = Graph(torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 1))
        >>> side_by_side([one, one]).member
        tensor([0, 0, 1, 1])
    """
    if not graphs:
        raise InvalidInput("side_by_side needs at least one graph, got none")
    if any(g.member is not None for g in graphs):
        raise InvalidInput("side_by_side takes single graphs, and one has several already")
    sizes = torch.tensor([g.nodes for g in graphs])
    first = (sizes.cumsum(0) - sizes).tolist()
    return Graph(
        edges=torch.cat([g.edges + start for g, start in zip(graphs, first, strict=True)], dim=1),
        x=torch.cat([g.x for g in graphs]),
        y=_joined([g.y for g in graphs], "y"),
        edge_x=_joined([g.edge_x for g in graphs], "edge_x"),
        train_mask=_joined([g.train_mask for g in graphs], "train_mask"),
        val_mask=_joined([g.val_mask for g in graphs], "val_mask"),
        test_mask=_joined([g.test_mask for g in graphs], "test_mask"),
        member=torch.arange(len(graphs)).repeat_interleave(sizes).to(graphs[0].edges.device),
    )


def _joined(parts: list[Tensor | None], name: str) -> Tensor | None:
    given = [part for part in parts if part is not None]
    if given and len(given) != len(parts):
        raise InvalidInput(f"{name} is given for {len(given)} of {len(parts)} graphs: all or none")
    return torch.cat(given) if given else None


def _check_features(x: Tensor) -> None:
    if x.ndim != 2 or not x.is_floating_point() or len(x) == 0:
        raise InvalidInput(
            f"x must be floating point of shape (N, p) with N >= 1, got {x.dtype} {tuple(x.shape)}"
        )
    if not bool(torch.isfinite(x).all()):
        row = int((~torch.isfinite(x)).any(dim=1).nonzero()[0])
        raise InvalidInput(f"x holds NaN or infinite entries, first at node {row}; clean the input")


def _check_edges(edges: Tensor, nodes: int) -> None:
    if edges.dtype != torch.int64 or edges.ndim != 2 or edges.shape[0] != 2:
        raise InvalidInput(
            f"edges must be int64 of shape (2, E), source and target, got {edges.dtype} "
            f"{tuple(edges.shape)}; a dense adjacency becomes edges by adjacency.nonzero().T"
        )
    if edges.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(edges))
    if low < 0 or high >= nodes:
        wrong = low if low < 0 else high
        raise InvalidInput(f"an edge names node {wrong}, but x has rows for nodes 0..{nodes - 1}")
    source, target = edges
    if bool((source == target).any()):
        node = int(source[source == target][0])
        raise InvalidInput(
            f"node {node} has an edge to itself; drop loops: models add their own "
            "where they need them"
        )
    keys = (source * nodes + target).sort().values
    repeated = keys[1:][keys[1:] == keys[:-1]]
    if repeated.numel():
        j, i = divmod(int(repeated[0]), nodes)
        raise InvalidInput(
            f"the edge {j} -> {i} is given more than once; keep one, "
            "and put its multiplicity in edge_x if it matters"
        )


def _check_member(member: Tensor, edges: Tensor, nodes: int) -> None:
    if member.dtype != torch.int64 or member.shape != (nodes,):
        raise InvalidInput(
            f"member must be int64 of shape ({nodes},), got {member.dtype} {tuple(member.shape)}"
        )
    step = member.diff()
    if int(member[0]) != 0 or bool(((step != 0) & (step != 1)).any()):
        raise InvalidInput("member must start at 0 and rise by 0 or 1 from node to node")
    if bool((member[edges[0]] != member[edges[1]]).any()):
        raise InvalidInput("an edge joins nodes of two different graphs; split or merge them")
