"""The claims on graph networks: the quick ones run whole, their measuring tools checked."""

from __future__ import annotations

import pytest
import torch

from driftwell.claims import find_claims, run_claim
from driftwell.claims.graph.convergent import _one_relaxation
from driftwell.claims.graph.learned_solver import _redrawn
from driftwell.data.graph_generators import stochastic_block_model
from driftwell.data.graphs import Graph


@pytest.mark.parametrize("id", ["ignn-well-posed", "cgs-contraction"])
def test_a_quick_claim_runs_and_its_control_fails(id: str) -> None:
    record = run_claim(find_claims([id])[0], seed=0)
    assert record["outcome"] == "reproduced", record
    assert record["ok"]


def test_one_relaxation_is_the_mean_of_the_held_neighbours() -> None:
    """Node 1 hears 0.2 through a conductance of 1 and 0.8 through 3."""
    edges = torch.tensor([[0, 1, 2, 1], [1, 0, 1, 2]])
    x = torch.tensor([[0.2, 1.0], [0.0, 0.0], [0.8, 1.0]])
    g = torch.tensor([[1.0], [1.0], [3.0], [3.0]])
    found = _one_relaxation(Graph(edges, x, edge_x=g))
    torch.testing.assert_close(found, torch.tensor([[0.2], [0.65], [0.8]]))


def test_features_are_dealt_anew_within_their_class() -> None:
    graph = stochastic_block_model(60, classes=3, features=4, labelled=5, seed=0)
    dealt = _redrawn(graph, seed=0, draw=1)
    assert not torch.equal(dealt, graph.x)
    for k in range(3):
        rows = graph.y == k
        assert torch.equal(dealt[rows].sort(0).values, graph.x[rows].sort(0).values)
