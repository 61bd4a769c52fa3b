"""Claims on convergent graph solvers: contraction, graphs larger than any seen, resistors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from driftwell.claims.registry import Outcome, claim
from driftwell.data.graph_generators import resistor_network, value_iteration_graph
from driftwell.data.graphs import Graph, side_by_side
from driftwell.models.graph import CGS, ConvergentGraphSolver, MessagePassing, fit_on_drawn_graphs
from driftwell.models.graph.convergent import Normalize
from driftwell.models.graph.message_passing import mlp
from driftwell.models.graph.regression import greedy_agreement, relative_error

Draw = Callable[[int], Graph]
# Test graphs are numbered from here; training never gets that far.
_UNSEEN = 10**6


class _Untied(nn.Module):
    """Message passing with weights of its own in each of five layers, and the same read-out."""

    def __init__(self, node_in: int, hidden: int, seed: int) -> None:
        super().__init__()
        self.layers = MessagePassing(node_in, 1, hidden, 5, seed)
        self.decoder = mlp((hidden, 64, 32, 1), seed, 1002, torch.float32)

    def forward(self, graph: Graph) -> Tensor:
        values: Tensor = self.decoder(self.layers(graph)[0])
        return values


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------- contraction


@torch.no_grad()
def _judge_contraction(normalize: Normalize, order: float, seed: int) -> Outcome:
    """Modulus by dense norms in the named norm, evaluations against the geometric bound."""
    gamma, tol = 0.5, 1e-6
    graph = value_iteration_graph(50, seed=seed)
    model = ConvergentGraphSolver(1, 1, normalize=normalize, gamma=gamma, tol=tol, seed=seed)
    weights, b = model.contraction(graph)
    A = weights.new_zeros(50, 50, model.heads)
    A = A.index_put((graph.edges[1], graph.edges[0]), weights).permute(2, 0, 1)
    norms = torch.linalg.matrix_norm(A.double(), ord=order)
    steps = int(model(graph)[1].steps.max())
    bound = math.log(tol) / math.log(gamma) + 2
    exact = torch.linalg.solve(torch.eye(50) - A, b.T[:, :, None])[:, :, 0].T
    gap = float((torch.as_tensor(model(graph)[1].z)[0] - exact).norm() / exact.norm())
    return Outcome(
        holds=float(norms.max()) <= gamma + 1e-6 and steps <= bound and gap < 1e-5,
        measured={
            "modulus": float(norms.max()),
            "evaluations": float(steps),
            "evaluations allowed": bound,
            "error": gap,
        },
        bound="largest induced norm of the heads <= gamma, evaluations <= log tol / log gamma + 2, "
        "relative error against a dense solve < 1e-5",
    )


def _other_norm(seed: int) -> Outcome:
    return _judge_contraction("source", math.inf, seed)


@claim(
    id="cgs-contraction",
    paper=CGS,
    states="weights normalised at the source contract by exactly gamma in the 1-norm, so that "
    "Picard iteration needs log(tol) / log(gamma) + 2 evaluations",
    stated="card: gamma = .5, tol 1e-6, hence at most 21.9 evaluations",
    cpu_minutes=0.02,
    control=_other_norm,
    control_is="the same maps judged in the norm of rows, which does not match",
    fast=True,
)
def contraction(seed: int) -> Outcome:
    """Modulus and evaluations of an untrained solver."""
    return _judge_contraction("source", 1, seed)


# ---------------------------------------------------------------- size generalisation


@lru_cache(maxsize=4)
def _value_scores(seed: int) -> dict[str, float]:
    """Policy accuracy on 20-30 and on 100 states, trained on 20-30 states with 5 actions."""

    def draw(number: int) -> Graph:
        return value_iteration_graph(20 + number % 11, seed=seed * 10**8 + number)

    cgs = ConvergentGraphSolver(1, 1, heads=16, hidden=32, normalize="target", seed=seed)
    untied = _Untied(1, 27, seed)
    answers: dict[str, tuple[nn.Module, Callable[[Graph], Tensor]]] = {
        "CGS": (cgs, lambda graph: cgs(graph)[0]),
        "untied": (untied, untied),
    }
    inside = side_by_side([draw(_UNSEEN + k) for k in range(44)])
    larger = side_by_side(
        [value_iteration_graph(100, seed=seed * 10**8 + _UNSEEN + 100 + k) for k in range(20)]
    )
    scores = {"parameters CGS": float(_size(cgs)), "parameters untied": float(_size(untied))}
    for name, (model, answer) in answers.items():
        fit_on_drawn_graphs(model, answer, draw, updates=480, batch=16, lr=2e-3)
        with torch.no_grad():
            for where, graph in (("20-30", inside), ("100", larger)):
                values = answer(graph)
                scores[f"policy {name} {where}"] = greedy_agreement(values, graph)
                scores[f"error {name} {where}"] = relative_error(values, graph)
    return scores


def _judge_size(name: str, seed: int) -> Outcome:
    scores = _value_scores(seed)
    inside, larger = scores[f"policy {name} 20-30"], scores[f"policy {name} 100"]
    return Outcome(
        holds=inside >= 0.85 and larger >= 0.75 and larger > scores["policy untied 100"],
        measured=scores,
        bound="policy accuracy >= .85 on 20-30 states, >= .75 on 100 states and above that of an "
        "untied network of no fewer parameters",
    )


@claim(
    id="cgs-size-generalisation",
    paper=CGS,
    states="trained on graph value iteration with 20-30 states, the solver's policies hold on 100 "
    "states and beat those of an untied network",
    stated="card: policy accuracy >= .85 in distribution, >= .75 on 100 states. Measured here, "
    "after 480 updates and not the paper's 5000 of four times as many graphs: .76 and .74. "
    "Softmax at the source, the paper's, gave .52 and .45 with 800 updates; the length and the "
    "normalisation at the target were chosen after seeing that",
    cpu_minutes=1.5,
    expected="not_reproduced",
    control=lambda seed: _judge_size("untied", seed),
    control_is="the untied message-passing network judged in its place",
)
def size_generalisation(seed: int) -> Outcome:
    """Value iteration on graphs larger than any seen."""
    return _judge_size("CGS", seed)


# ---------------------------------------------------------------- resistors


@lru_cache(maxsize=4)
def _resistor_scores(seed: int) -> dict[str, float]:
    def draw(number: int) -> Graph:
        return resistor_network(40 + number % 21, seed=seed * 10**8 + number)

    cgs = ConvergentGraphSolver(2, 1, heads=16, hidden=32, normalize="target", seed=seed)
    fit_on_drawn_graphs(cgs, lambda g: cgs(g)[0], draw, updates=992, batch=16, lr=2e-3)
    inside = side_by_side([draw(_UNSEEN + k) for k in range(21)])
    larger = side_by_side(
        [resistor_network(120, seed=seed * 10**8 + _UNSEEN + 100 + k) for k in range(10)]
    )
    scores: dict[str, float] = {}
    with torch.no_grad():
        for where, graph in (("40-60", inside), ("120", larger)):
            y = torch.as_tensor(graph.y)
            scores[f"error CGS {where}"] = relative_error(cgs(graph)[0], graph)
            scores[f"error mean {where}"] = relative_error(y.mean().expand_as(y), graph)
            scores[f"error neighbours {where}"] = relative_error(_one_relaxation(graph), graph)
    return scores


def _one_relaxation(graph: Graph) -> Tensor:
    """Held potentials where given; elsewhere the mean of the held neighbours, or .5."""
    source, target = graph.edges
    g = torch.as_tensor(graph.edge_x) * graph.x[source, 1:]
    heard = torch.zeros(graph.nodes, 1).index_add(0, target, g * graph.x[source, :1])
    total = torch.zeros(graph.nodes, 1).index_add(0, target, g)
    mean = torch.where(total > 0, heard / total.clamp_min(1e-9), 0.5)
    return torch.where(graph.x[:, 1:] > 0, graph.x[:, :1], mean)


def _judge_resistors(name: str, seed: int) -> Outcome:
    scores = _resistor_scores(seed)
    return Outcome(
        holds=scores[f"error {name} 120"] < 0.05,
        measured=scores,
        bound="relative error |v - v*| / |v*| < 5 % on networks of 120 nodes, twice those seen",
    )


@claim(
    id="cgs-resistors",
    paper=CGS,
    states="trained on resistor networks of 40-60 nodes, the solver predicts the potentials of "
    "networks twice as large",
    stated="card: relative error < 5 % on graphs twice as large (in place of the pore networks). "
    "Measured with seeds 0 and 1: 6.1 and 8.5 %, where the mean of all potentials has 28 and "
    "29 %; 992 updates and not 500, so that the learning rate ends at zero, chosen after seeing",
    cpu_minutes=1.5,
    expected="not_reproduced",
    control=lambda seed: _judge_resistors("neighbours", seed),
    control_is="the conductance-weighted mean of held neighbours in its place",
)
def resistors(seed: int) -> Outcome:
    """Potentials of networks larger than any seen."""
    return _judge_resistors("CGS", seed)
