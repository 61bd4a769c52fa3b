"""Graphs: what they accept, the normalised adjacency, the readers and the generators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.data.graph_generators import (
    resistor_network,
    stochastic_block_model,
    value_iteration_graph,
)
from driftwell.data.graphs import Graph, edges_of, side_by_side, undirected
from driftwell.data.planetoid import read_planetoid
from driftwell.data.propagation import Propagation, normalized_propagation
from driftwell.data.tu import read_tu

PATH = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])


def refused(sentence: str, **parts: Tensor) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        Graph(**{"edges": PATH, "x": torch.ones(4, 2), **parts})


def test_an_adjacency_matrix_gives_its_edges_or_a_sentence() -> None:
    A = torch.zeros(3, 3)
    A[PATH[0], PATH[1]] = 2.0
    for adjacency in (A, A.to_sparse(), A.to_sparse_csr()):
        assert torch.equal(edges_of(adjacency), PATH)
    for wrong in (torch.ones(2, 3), torch.ones(3)):
        with pytest.raises(InvalidInput, match="must be a square matrix"):
            edges_of(wrong)
    with pytest.raises(InvalidInput, match="not finite"):
        edges_of(torch.full((2, 2), torch.nan))


def test_a_graph_says_in_one_sentence_what_is_wrong_with_it() -> None:
    refused("an edge names node 4, but x has rows for nodes 0..3", edges=torch.tensor([[0], [4]]))
    refused("an edge names node -1", edges=torch.tensor([[0], [-1]]))
    refused("node 2 has an edge to itself", edges=torch.tensor([[0, 2], [1, 2]]))
    refused("edge 0 -> 1 is given more than once", edges=torch.tensor([[0, 0], [1, 1]]))
    refused("edges must be int64 of shape", edges=torch.eye(4))
    refused("edges must be int64 of shape", edges=torch.ones(3, 4, dtype=torch.int64))
    refused("x must be floating point", x=torch.ones(4, 2, dtype=torch.int64))
    refused("first at node 3", x=torch.tensor([[0.0], [0.0], [0.0], [torch.nan]]))
    refused("train_mask must be bool", train_mask=torch.ones(4))
    refused("val_mask must be bool", val_mask=torch.ones(3, dtype=torch.bool))
    refused("y must have a row for each of the 4 nodes or 1 graphs", y=torch.ones(3))
    refused("edge_x must have a row for each of the 4 edges", edge_x=torch.ones(3, 1))
    refused("two different graphs", member=torch.tensor([0, 0, 1, 1]))
    refused("must start at 0 and rise by 0 or 1", member=torch.tensor([0, 0, 0, 2]))
    one_way = Graph(PATH[:, :1], torch.ones(2, 1))
    with pytest.raises(InvalidInput, match="every edge in both directions"):
        _ = one_way.propagation


def test_undirected_edges_come_once_in_each_direction_without_loops() -> None:
    edges = undirected(torch.tensor([[3, 0, 1, 2, 2], [0, 3, 2, 1, 2]]))
    assert edges.tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]


def test_the_normalised_adjacency_is_that_of_the_textbook() -> None:
    """D^{-1/2} (E + I) D^{-1/2}, radius 1; the isolated node 3 keeps its value."""
    E = torch.zeros(4, 4, dtype=torch.float64)
    E[PATH[0], PATH[1]] = 1.0
    E += torch.eye(4)
    d = E.sum(1).rsqrt()
    A = normalized_propagation(PATH, 4, torch.float64)
    torch.testing.assert_close(A.matrix.to_dense(), d[:, None] * E * d, rtol=1e-14, atol=0)
    radius = torch.linalg.eigvals(A.matrix.to_dense()).abs().max()
    assert float(radius) == pytest.approx(1.0, abs=1e-14)
    assert A(torch.tensor([[0.0], [0.0], [0.0], [5.0]]).double())[3, 0] == 5.0


def test_products_along_edges_have_exact_derivatives_of_both_modes() -> None:
    dense = torch.tensor([[0.0, 2, 0, 0], [1, 0, 3, 0], [0, 0, 0, 5], [0, 7, 0, 1]]).double()
    rows = [a.to_sparse_csr() for a in (dense, dense.T.contiguous())]
    A = Propagation(*rows)
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: A(z).tanh(), z, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda z: A(z).tanh(), z)
    torch.testing.assert_close(A(z), dense @ z)


def test_graphs_side_by_side_keep_to_themselves() -> None:
    first = Graph(PATH, torch.ones(3, 2), y=torch.tensor([1]))
    second = Graph(PATH[:, :2], 2 * torch.ones(2, 2), y=torch.tensor([0]))
    both = side_by_side([first, second])
    assert (both.nodes, both.graphs) == (5, 2)
    assert both.edges[:, 4:].tolist() == [[3, 4], [4, 3]]
    assert both.y is not None
    assert both.y.tolist() == [1, 0]
    with pytest.raises(InvalidInput, match="y is given for 1 of 2 graphs"):
        side_by_side([first, Graph(PATH, torch.ones(3, 2))])
    with pytest.raises(InvalidInput, match="at least one graph"):
        side_by_side([])


# ---------------------------------------------------------------- generators


def test_communities_have_the_degree_and_homophily_asked_for() -> None:
    """3000 nodes, about 15,000 edges: standard errors 0.08 of the degree, 0.004 of the share."""
    graph = stochastic_block_model(3000, classes=3, degree=10.0, homophily=0.7, seed=4)
    assert graph.y is not None
    assert graph.is_symmetric
    assert graph.edges.shape[1] / 3000 == pytest.approx(10.0, abs=0.4)
    same = (graph.y[graph.edges[0]] == graph.y[graph.edges[1]]).double().mean()
    assert float(same) == pytest.approx(0.7, abs=0.02)
    again = stochastic_block_model(3000, classes=3, degree=10.0, homophily=0.7, seed=4)
    assert torch.equal(graph.edges, again.edges)
    assert not torch.equal(graph.x, stochastic_block_model(3000, classes=3, seed=5).x)


def test_masks_of_communities_part_the_nodes() -> None:
    graph = stochastic_block_model(400, classes=4, labelled=5, seed=0)
    masks = [graph.train_mask, graph.val_mask, graph.test_mask]
    assert [int(m.sum()) for m in masks if m is not None] == [20, 190, 190]
    assert torch.equal(sum(m.long() for m in masks if m is not None), torch.ones(400).long())


def test_values_satisfy_the_equation_of_bellman() -> None:
    graph = value_iteration_graph(30, actions=5, seed=2)
    source, target = graph.edges
    assert torch.bincount(target, minlength=30).tolist() == [5] * 30
    assert graph.y is not None
    assert graph.edge_x is not None
    V, r = graph.y[:, 0].double(), graph.edge_x[:, 0].double()
    assert float(r.abs().max()) < 1.0
    for node in range(30):
        here = target == node
        best = float((r[here] + 0.9 * V[source[here]]).max())
        assert float(V[node]) == pytest.approx(best, abs=1e-5)


def test_potentials_satisfy_the_law_of_kirchhoff() -> None:
    """What flows in is what flows out, except at the electrodes, held at their potentials."""
    graph = resistor_network(40, seed=3)
    assert graph.y is not None
    assert graph.edge_x is not None
    source, target = graph.edges
    v, g = graph.y[:, 0].double(), graph.edge_x[:, 0].double()
    flow = torch.zeros(40, dtype=torch.float64)
    flow.index_add_(0, target, g * (v[source] - v[target]))
    held = graph.x[:, 1] > 0
    assert float(flow[~held].abs().max()) < 1e-5
    assert int(held.sum()) == 8
    assert torch.equal(v[held], graph.x[held, 0].double())
    assert v[held].min() <= v.min() <= v.max() <= v[held].max()


# ---------------------------------------------------------------- readers


def test_citation_graphs_are_read_with_their_public_split(data_folder) -> None:
    for name, nodes, classes, train, width in (
        ("cora", 2708, 7, 140, 1433),
        ("citeseer", 3327, 6, 120, 3703),
    ):
        graph = read_planetoid(data_folder / "planetoid", name)
        assert graph.x.shape == (nodes, width)
        assert graph.is_symmetric
        masks = [graph.train_mask, graph.val_mask, graph.test_mask]
        assert [int(m.sum()) for m in masks if m is not None] == [train, 500, 1000]
        assert graph.y is not None
        assert int(graph.y.max()) == classes - 1
        sums = graph.x.sum(1)
        assert bool(((sums - 1).abs() < 1e-5).logical_or(sums == 0).all())


def test_graph_sets_are_read_with_tags_and_labels(data_folder) -> None:
    graphs = read_tu(data_folder / "tu", "MUTAG")
    assert (len(graphs), graphs[0].x.shape[1]) == (188, 7)
    assert sorted(torch.cat([g.y for g in graphs]).bincount().tolist()) == [63, 125]
    assert sum(g.edges.shape[1] for g in graphs) / 2 / 188 == pytest.approx(19.79, abs=0.01)


def small_set(tmp_path, text: str):
    (tmp_path / "TOY.txt").write_text(text, encoding="utf-8")
    return read_tu(tmp_path, "TOY")


def test_a_graph_set_of_two_lines_each(tmp_path) -> None:
    one, two = small_set(tmp_path, "2\n2 -1\n7 1 1\n9 1 0\n1 1\n7 0\n")
    assert one.x.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert one.edges.tolist() == [[0, 1], [1, 0]]
    assert (int(one.y), int(two.y)) == (0, 1)
    assert two.edges.shape == (2, 0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1\n2 1\n0 2 1\n0 1 0\n", "announces 2 neighbours and lists 1"),
        ("2\n1 1\n0 0\n", "not a graph set"),
        ("words\n", "not a graph set"),
        ("1\n2 1\n0 1 5\n0 0\n", "an edge names node 5"),
    ],
)
def test_a_broken_graph_set_is_refused_in_one_sentence(tmp_path, text, sentence) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        small_set(tmp_path, text)


def test_broken_citation_files_are_refused_in_one_sentence(tmp_path) -> None:
    with pytest.raises(InvalidInput, match="is not there"):
        read_planetoid(tmp_path, "cora")
    (tmp_path / "cora.npz").write_bytes(b"words")
    with pytest.raises(InvalidInput, match=r"not a readable \.npz file"):
        read_planetoid(tmp_path, "cora")
    np.savez(tmp_path / "cora.npz", y=np.zeros(3))
    with pytest.raises(InvalidInput, match="lacks the arrays x_indptr"):
        read_planetoid(tmp_path, "cora")
