"""The implicit graph network: its ball, its contraction, its equilibrium and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.data.graph_generators import stochastic_block_model
from driftwell.data.graphs import Graph, side_by_side
from driftwell.dynamics.linearization import spectral_radius
from driftwell.fixed_points import Implicit, Picard
from driftwell.fixed_points.solvers.learned_anderson import LearnedAnderson
from driftwell.models.graph import IGNN, fit_ignn, node_states
from driftwell.models.graph.training import accuracy, fit_graphs
from driftwell.nn import project_l1_ball

TRIANGLE = torch.tensor([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def small(seed: int = 0, nodes: int = 24) -> Graph:
    graph = stochastic_block_model(nodes, classes=2, degree=4.0, features=5, labelled=4, seed=seed)
    return Graph(graph.edges, graph.x.double(), graph.y, train_mask=graph.train_mask)


def model(kappa: float = 0.9, **settings) -> IGNN:
    return IGNN(5, 6, 2, kappa, dtype=torch.float64, tol=1e-12, seed=1, **settings)


# ---------------------------------------------------------------- the ball


def test_the_projection_is_the_solution_of_its_quadratic_programme() -> None:
    """min |v - w|^2 with sum |v| <= radius, by scipy on the split v = p - q, p, q >= 0."""
    optimize = pytest.importorskip("scipy.optimize")
    for seed, radius in ((0, 1.0), (1, 0.3), (2, 4.0)):
        w = gaussian(1, 7, seed=seed)
        split = np.concatenate([w[0].numpy(), -w[0].numpy()])
        solved = optimize.minimize(
            lambda pq, s=split: 0.5 * pq @ pq - s @ pq,
            np.zeros(14),
            jac=lambda pq, s=split: pq - s,
            bounds=[(0, None)] * 14,
            constraints={"type": "ineq", "fun": lambda pq, r=radius: r - pq.sum()},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        v = torch.from_numpy(solved.x[:7] - solved.x[7:])
        torch.testing.assert_close(project_l1_ball(w, radius)[0], v, rtol=0, atol=1e-6)


def test_the_projection_leaves_the_ball_alone_and_its_rows_on_the_sphere() -> None:
    W = torch.cat([3 * gaussian(50, 9, seed=3), 0.01 * gaussian(50, 9, seed=4), torch.zeros(1, 9)])
    P = project_l1_ball(W, 0.7)
    assert torch.equal(P[50:], W[50:])
    torch.testing.assert_close(P[:50].abs().sum(1), torch.full((50,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(project_l1_ball(P, 0.7), P)
    with pytest.raises(InvalidInput, match="radius"):
        project_l1_ball(W, 0.0)


def test_the_projection_has_the_derivative_of_a_difference_quotient() -> None:
    W = (2 * gaussian(4, 5, seed=5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda W: project_l1_ball(W, 1.0), W)


# ---------------------------------------------------------------- the layer


def test_the_layer_contracts_by_kappa_in_its_norm() -> None:
    """(sum_i |Z_i|_1^2)^(1/2): on random pairs and on the worst, W = kappa I and D^(1/2) 1."""
    graph, net = small(), model(0.9)
    with torch.no_grad():
        net.W.copy_(5 * gaussian(6, 6, seed=6))  # far outside: the ball must bring it back
    f, drive = net.layer(graph), net.drive(graph)
    norm = lambda z: z.abs().sum(2).square().sum().sqrt()  # noqa: E731
    for seed in range(20):
        a, b = gaussian(1, 24, 6, seed=seed), gaussian(1, 24, 6, seed=100 + seed)
        assert norm(f(a, drive) - f(b, drive)) <= 0.9 * norm(a - b)
    with torch.no_grad():
        net.W.copy_(torch.eye(6))
    degree = torch.bincount(graph.edges[0], minlength=24) + 1.0
    worst = degree.double().sqrt()[None, :, None].expand(1, 24, 6)
    step = net.layer(graph)(worst, torch.zeros_like(worst))
    torch.testing.assert_close(step, 0.9 * worst)


def test_the_jacobian_has_a_spectral_radius_below_kappa() -> None:
    graph, net = small(), model(0.9)
    drive = net.drive(graph)
    with torch.no_grad():
        found = net.equilibrium(graph)
        radius = float(spectral_radius(net.layer(graph), found.z, drive, krylov=40).max())
    assert 0.05 < radius <= 0.9 + 1e-9


def test_the_equilibrium_is_that_of_the_dense_formula_from_any_start() -> None:
    graph, net = small(), model()
    found = net.equilibrium(graph)
    z = found.z[0]
    A = graph.propagation.matrix.to_dense()
    torch.testing.assert_close(z, torch.relu(A @ z @ net.weight() + A @ graph.x @ net.B))
    other = net.equilibrium(graph, z0=10 * gaussian(1, 24, 6, seed=9))
    torch.testing.assert_close(other.z, found.z, rtol=1e-8, atol=1e-10)


def test_the_gradient_is_that_of_the_unrolled_iteration() -> None:
    graph = small()
    net = model(solver=Picard(), gradient=Implicit(tol=1e-12, max_steps=2000))
    loss = net(graph)[0].square().sum()
    implicit = torch.autograd.grad(loss, list(net.parameters()))
    drive, f = net.drive(graph), net.layer(graph)
    z = torch.zeros_like(drive)
    for _ in range(400):
        z = f(z, drive)
    unrolled = torch.autograd.grad(net.decode(graph, z[0]).square().sum(), list(net.parameters()))
    for ours, truth in zip(implicit, unrolled, strict=True):
        assert float((ours - truth).norm() / truth.norm()) < 1e-8


# ---------------------------------------------------------------- graphs side by side


def test_each_graph_is_a_sample_with_its_own_convergence() -> None:
    """A graph gives the same states and steps alone and beside another, which may fail."""
    first, second = small(0), small(1, nodes=30)
    net = model()
    triangle = Graph(TRIANGLE, 1e3 * second.x[:3])
    parts = [Graph(first.edges, first.x), Graph(second.edges, second.x), triangle]
    both = side_by_side(parts)
    together = net.equilibrium(both)
    alone = net.equilibrium(first)
    assert together.z.shape == (3, 30, 6)
    assert int(together.steps[0]) == int(alone.steps[0])
    torch.testing.assert_close(together.z[0, :24], alone.z[0], rtol=1e-9, atol=1e-12)
    assert bool((together.z[0, 24:] == 0).all())
    rows = node_states(both, together)
    assert rows.shape == (57, 6)
    torch.testing.assert_close(rows[24:54], together.z[1])


def test_a_learned_solver_finds_the_same_equilibria() -> None:
    first, second = small(0), small(1, nodes=30)
    both = side_by_side([Graph(first.edges, first.x), Graph(second.edges, second.x)])
    learned = model(solver=LearnedAnderson(dim=6))
    torch.testing.assert_close(learned(both)[0], model()(both)[0], rtol=1e-8, atol=1e-10)
    assert any(name.startswith("solver.") for name in learned.state_dict())


def test_a_graph_classifier_does_not_depend_on_the_numbering_of_nodes() -> None:
    graph = small()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    place = torch.empty_like(order)
    place[order] = torch.arange(24)
    renamed = Graph(place[graph.edges], graph.x[order])
    net = model(level="graph")
    torch.testing.assert_close(net(graph)[0], net(renamed)[0], rtol=1e-8, atol=1e-10)


# ---------------------------------------------------------------- learning


def test_it_learns_communities_that_features_alone_do_not_show() -> None:
    """Signal 1 in 16 dimensions: the best classifier of features alone is right for 76 %."""
    graph = stochastic_block_model(
        400, classes=2, degree=6.0, homophily=0.9, features=16, signal=1.0, labelled=40, seed=0
    )
    net = IGNN(16, 16, 2, 0.9)
    fitted = fit_ignn(net, graph, updates=25, lr=2e-2, dropout=0.3)
    assert fitted.validation > 0.9
    assert accuracy(net, graph, graph.test_mask) > 0.88
    assert float(net.W.detach().abs().sum(1).max()) <= 0.9 + 1e-6
    again = IGNN(16, 16, 2, 0.9)
    assert fit_ignn(again, graph, updates=3, lr=2e-2, dropout=0.3).loss == fitted.loss[:3]


def test_it_learns_to_tell_dense_graphs_from_thin_ones() -> None:
    graphs = []
    for seed in range(24):
        made = stochastic_block_model(16, classes=2, degree=(2.0, 6.0)[seed % 2], seed=seed)
        graphs.append(Graph(made.edges, torch.ones(16, 1), y=torch.tensor([seed % 2])))
    degree = [torch.bincount(g.edges[0], minlength=16)[:, None].float() for g in graphs]
    graphs = [Graph(g.edges, d, g.y) for g, d in zip(graphs, degree, strict=True)]
    net = IGNN(1, 8, 2, 0.8, level="graph")
    losses = fit_graphs(net, graphs, epochs=20, batch=12, lr=3e-2)
    assert losses[-1] < 0.5 * losses[0]
    assert accuracy(net, side_by_side(graphs)) == 1.0


def test_bad_settings_are_refused_in_one_sentence() -> None:
    graph = small()
    for wrong, sentence in (
        ({"kappa": 1.0}, r"kappa must be in \(0, 1\)"),
        ({"width": 0}, "width"),
        ({"level": "edge"}, "level"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            IGNN(**{"features": 5, "width": 4, "classes": 2, **wrong})
    with pytest.raises(InvalidInput, match="node features of width 3, got"):
        IGNN(3, 4, 2)(graph)
    with pytest.raises(InvalidInput, match="train_mask"):
        fit_ignn(model(), Graph(graph.edges, graph.x, graph.y))
    with pytest.raises(InvalidInput, match="2 classes"):
        fit_ignn(model(), Graph(graph.edges, graph.x, 7 + graph.y, train_mask=graph.train_mask))
    with pytest.raises(InvalidInput, match="integer labels"):
        fit_ignn(model(), Graph(graph.edges, graph.x, train_mask=graph.train_mask))
