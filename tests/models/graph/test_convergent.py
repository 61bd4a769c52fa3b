"""The convergent graph solver: the norm it contracts in, its count of steps, its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.data.graph_generators import resistor_network, value_iteration_graph
from driftwell.data.graphs import Graph, side_by_side
from driftwell.fixed_points import Implicit, Picard
from driftwell.models.graph import ConvergentGraphSolver, fit_on_drawn_graphs
from driftwell.models.graph.message_passing import edge_softmax
from driftwell.models.graph.regression import greedy_agreement, relative_error


def wide(graph: Graph) -> Graph:
    """In float64."""
    return Graph(
        graph.edges, graph.x.double(), graph.y.double(), edge_x=graph.edge_x.double()
    )  # fmt: skip


def solver(normalize: str = "target", gamma: float = 0.5, tol: float = 1e-13):
    return ConvergentGraphSolver(
        1, 1, heads=3, gamma=gamma, hidden=8, normalize=normalize, tol=tol, max_steps=2000,
        gradient=Implicit(solver=Picard(), tol=1e-13, max_steps=2000), seed=2, dtype=torch.float64,
    )  # fmt: skip


def dense(graph: Graph, weights: torch.Tensor) -> torch.Tensor:
    """gamma A of each head, (H, N, N), row = target."""
    A = weights.new_zeros(graph.nodes, graph.nodes, weights.shape[1])
    return A.index_put((graph.edges[1], graph.edges[0]), weights).permute(2, 0, 1)


def test_a_softmax_over_groups_of_edges_is_that_of_each_group() -> None:
    logits = torch.tensor([[1.0], [900.0], [2.0], [901.0]])
    found = edge_softmax(logits, torch.tensor([0, 1, 0, 1]), 3)[:, 0]
    e = math.e
    torch.testing.assert_close(found, torch.tensor([1, 1, e, e]) / (1 + e))


@pytest.mark.parametrize(("normalize", "order"), [("source", 1), ("target", math.inf)])
def test_every_head_contracts_by_gamma_in_the_norm_of_its_normalisation(normalize, order) -> None:
    """Induced norms: columns that sum to gamma, or rows; the other norm exceeds it."""
    graph = wide(value_iteration_graph(20, actions=3, seed=1))
    with torch.no_grad():
        weights, _ = solver(normalize, gamma=0.9).contraction(graph)
    A = dense(graph, weights)
    norms = torch.linalg.matrix_norm(A, ord=order)
    torch.testing.assert_close(norms, torch.full_like(norms, 0.9))
    other = torch.linalg.matrix_norm(A, ord=1 if order == math.inf else math.inf)
    if normalize == "source":
        assert float(other.min()) > 1.0


@pytest.mark.parametrize("normalize", ["source", "target"])
def test_the_answer_and_its_gradient_are_those_of_dense_solves(normalize) -> None:
    """h = (I - gamma A)^{-1} b, head by head; every parameter's gradient to 1e-9."""
    graph = wide(value_iteration_graph(12, actions=3, seed=3))
    net = solver(normalize, gamma=0.7)
    answers, found = net(graph)
    weights, b = net.contraction(graph)
    eye = torch.eye(12, dtype=torch.float64)
    h = torch.linalg.solve(eye - dense(graph, weights), b.T[:, :, None])[:, :, 0].T
    torch.testing.assert_close(found.z[0], h, rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(answers.square().sum(), list(net.parameters()))
    truth = torch.autograd.grad(net.decoder(h).square().sum(), list(net.parameters()))
    for mine, exact in zip(ours, truth, strict=True):
        assert float((mine - exact).norm()) <= 1e-9 * float(exact.norm()) + 1e-14


@pytest.mark.parametrize("gamma", [0.3, 0.5, 0.8])
def test_picard_needs_no_more_steps_than_the_modulus_says(gamma) -> None:
    """log tol / log gamma + 2, for the residual in the norm of the contraction, from zero."""
    graph, tol = wide(value_iteration_graph(30, seed=5)), 1e-6
    net = solver("target", gamma)
    with torch.no_grad():
        weights, b = net.contraction(graph)
        f, h, steps = net.map(graph, weights), torch.zeros_like(b)[None], 1
        first = float(b.abs().amax())
        while float((f(h, b[None]) - h).abs().amax()) > tol * first:
            h, steps = f(h, b[None]), steps + 1
        assert steps <= math.log(tol) / math.log(gamma) + 2
        net.tol = tol
        assert int(net(graph)[1].steps.max()) <= math.log(tol) / math.log(gamma) + 2


def test_graphs_side_by_side_are_solved_as_if_alone() -> None:
    one, two = (wide(value_iteration_graph(n, actions=3, seed=n)) for n in (9, 14))
    net = solver()
    both, found = net(side_by_side([one, two]))
    alone, single = net(one)
    torch.testing.assert_close(both[:9], alone, rtol=1e-10, atol=1e-12)
    assert int(found.steps[0]) == int(single.steps[0])


def test_a_node_nobody_hears_and_one_that_hears_nobody_are_served() -> None:
    graph = Graph(torch.tensor([[0], [1]]), torch.ones(3, 1), edge_x=torch.ones(1, 1))
    answers, found = ConvergentGraphSolver(1, 1, heads=2, hidden=4)(graph)
    assert bool(torch.isfinite(answers).all())
    assert bool((found.status == 0).all())


def test_it_learns_potentials_better_than_their_mean() -> None:
    net = ConvergentGraphSolver(2, 1, heads=4, hidden=16, layers=2, normalize="target")
    losses = fit_on_drawn_graphs(
        net, lambda g: net(g)[0], lambda k: resistor_network(16, seed=k),
        updates=120, batch=4, lr=5e-3,
    )  # fmt: skip
    test = side_by_side([resistor_network(16, seed=1000 + k) for k in range(8)])
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    with torch.no_grad():
        error = relative_error(net(test)[0], test)
    assert error < relative_error(test.y.mean().expand_as(test.y), test)


def test_a_policy_agrees_with_itself_and_not_with_noise() -> None:
    graph = value_iteration_graph(200, seed=0)
    assert greedy_agreement(graph.y, graph) == 1.0
    noise = 50 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    assert greedy_agreement(noise, graph) < 0.45


def test_bad_settings_are_refused_in_one_sentence() -> None:
    for wrong, sentence in (
        ({"gamma": 1.0}, "gamma"),
        ({"heads": 0}, "heads"),
        ({"normalize": "rows"}, "normalize"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            ConvergentGraphSolver(1, 1, **wrong)
    with pytest.raises(InvalidInput, match="widths 1 and 1, got 2 and 1"):
        ConvergentGraphSolver(1, 1)(resistor_network(10))
