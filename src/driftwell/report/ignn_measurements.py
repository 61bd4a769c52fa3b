"""Measurements of an implicit graph neural network."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, permutation
from driftwell.core.state import leaves
from driftwell.data.graphs import Graph
from driftwell.dynamics.linearization import spectral_radius
from driftwell.fixed_points import Picard, fixed_point
from driftwell.models.graph import IGNN, node_states
from driftwell.report.parts import plain_values
from driftwell.report.reporter import Request
from driftwell.report.settling import ResidualTrace, lyapunov_exponent, residual_trace
from driftwell.training.kinds.ignn import graph_of
from driftwell.training.model_run import ModelRun

SOURCES, HOPS, EXACT = 8, 12, 1e-10


@final
@dataclass(frozen=True, eq=False)
class GraphMeasurements:
    """What was measured of an implicit graph network.

    Attributes:
        graph: with labels and masks.
        states: Z* by node, (N, d).
        predicted: class of the largest logit, (N,).
        classes: labels of the classes.
        steps: evaluations of the solve.
        residual: it reached.
        converged: whether that is within the tolerance.
        traces: residuals of the run's solver and of plain iteration.
        most: evaluations that were traced.
        radius: spectral radius of the layer at the equilibrium.
        exponent: largest Lyapunov exponent of the iteration.
        eigenvalues: of W, complex (d,).
        row_sum: largest sum of |W_ij| over j.
        kappa: its bound.
        tol: of the solve.
        sources: nodes whose features were erased.
        response: mean change of states by distance in edges, relative to the source's own.
        spread: largest of them.
        seed: of all choices.
    """

    graph: Graph
    states: Tensor
    predicted: Tensor
    classes: tuple[int, ...]
    steps: int
    residual: float
    converged: bool
    traces: tuple[ResidualTrace, ...]
    most: int
    radius: float
    exponent: float
    eigenvalues: Tensor
    row_sum: float
    kappa: float
    tol: float
    sources: tuple[int, ...]
    response: tuple[float, ...]
    spread: tuple[float, ...]
    seed: int

    @property
    def labels(self) -> Tensor:
        """Class of each node, -1 unknown, (N,)."""
        return self.graph.y if self.graph.y is not None else torch.full((self.graph.nodes,), -1)

    def part(self, name: str) -> Tensor:
        """Nodes of a part, bool (N,); without a mask of its own, all that are labelled."""
        masks = {
            "train": self.graph.train_mask, "validation": self.graph.val_mask,
            "test": self.graph.test_mask,
        }  # fmt: skip
        mask = masks[name]
        return self.labels >= 0 if mask is None else mask

    def accuracy(self, name: str) -> tuple[float, float]:
        """Accuracy on a part, and its standard error."""
        mask = self.part(name)
        share = float((self.predicted == self.labels)[mask].double().mean())
        return share, math.sqrt(share * (1.0 - share) / int(mask.sum()))

    @property
    def commonest(self) -> float:
        """Share of test nodes of the commonest class."""
        counts = torch.bincount(self.labels[self.part("test")])
        return float(counts.max() / counts.sum())

    def confusion(self) -> Tensor:
        """Test nodes of class i called class j."""
        c, mask = len(self.classes), self.part("test")
        pairs = self.labels[mask] * c + self.predicted[mask]
        return torch.bincount(pairs, minlength=c * c).reshape(c, c)

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        parts = {}
        for name in ("train", "validation", "test"):
            share, error = self.accuracy(name)
            parts[name] = {"nodes": int(self.part(name).sum()), "accuracy": share, "error": error}
        plain: dict[str, Any] = plain_values({
            "nodes": self.graph.nodes,
            "edges": self.graph.edges.shape[1] // 2,
            "parts": parts,
            "steps": self.steps,
            "residual": self.residual,
            "tol": self.tol,
            "converged": self.converged,
            "evaluations_to_tol": {t.solver: t.reached(self.tol) for t in self.traces},
            "spectral_radius": self.radius,
            "lyapunov": self.exponent,
            "row_sum": self.row_sum,
            "kappa": self.kappa,
            "response_by_distance": self.response,
            "confusion": self.confusion().tolist(),
            "seed": self.seed,
        })  # fmt: skip
        return plain


def measure_graph(run: ModelRun, request: Request) -> GraphMeasurements:
    """The network on the graph it was trained on.

    Args:
        run: of `driftwell.training.kinds.ignn`.
        request: the seed; samples choose among images and mean nothing here.

    Raises:
        InvalidInput: the graph is not there any more.
    """
    model, graph = network_of(run), graph_of(run.config)
    law, drive = model.layer(graph), model.drive(graph)
    start = torch.zeros_like(drive)
    with torch.no_grad():
        found = fixed_point(
            law, start, drive, solver=model.solver, tol=model.tol, max_steps=model.max_steps,
            throw=False,
        )  # fmt: skip
        states = node_states(graph, found)
        logits = model.decode(graph, states)
    request.tell(20)
    most = min(model.max_steps, 150)
    solvers = [model.solver] if isinstance(model.solver, Picard) else [model.solver, Picard()]
    traces = tuple(residual_trace(law, start, drive, solver, most) for solver in solvers)
    request.tell(60)
    W = model.weight().detach()
    chosen = permutation(graph.nodes, seed=request.seed, purpose=Purpose.DATA, step=21)[:SOURCES]
    response, spread = _reach(model, graph, chosen.tolist())
    request.tell(80)
    (at_rest,) = leaves(found.z)
    measured = GraphMeasurements(
        graph=graph, states=states, predicted=logits.argmax(1), classes=tuple(range(model.classes)),
        steps=int(found.steps.max()), residual=float(found.residual.max()),
        converged=bool((found.status == 0).all()), traces=traces, most=most,
        radius=float(spectral_radius(law, at_rest, drive, seed=request.seed)),
        exponent=float(lyapunov_exponent(law, at_rest, drive, 80, request.seed)),
        eigenvalues=torch.linalg.eigvals(W.double()), row_sum=float(W.abs().sum(1).max()),
        kappa=model.kappa, tol=model.tol, sources=tuple(chosen.tolist()), response=response,
        spread=spread, seed=request.seed,
    )  # fmt: skip
    request.tell(100)
    return measured


def network_of(run: ModelRun) -> IGNN:
    """The run's model, as what it is."""
    if not isinstance(run.model, IGNN):
        raise InvalidInput(f"{run.path} does not hold an implicit graph network")
    return run.model


def _reach(
    model: IGNN, graph: Graph, sources: list[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and largest relative change of states by distance from an erased node.

    In float64, as far nodes change by less than float32 resolves.
    """
    law, x = copy.deepcopy(model).double(), graph.x.double()

    def solved(features: Tensor) -> Tensor:
        with torch.no_grad():
            found = fixed_point(
                law.layer(exact), torch.zeros_like(law.drive(exact, x)),
                law.drive(exact, features), solver=model.solver, tol=EXACT,
                max_steps=10 * model.max_steps, throw=False,
            )  # fmt: skip
        return node_states(exact, found)

    exact = replace(graph, x=x)
    states = solved(x)
    total, count, largest = (torch.zeros(HOPS + 1, dtype=torch.float64) for _ in range(3))
    for source in sources:
        erased = x.clone()
        erased[source] = 0.0
        change = (solved(erased) - states).norm(dim=1)
        if not float(change[source]) > 0.0:
            continue  # a node without features has nothing to erase
        change /= float(change[source])
        hops = _distances(graph, source)
        near = (hops >= 0) & (hops <= HOPS)
        total.index_add_(0, hops[near], change[near])
        count.index_add_(0, hops[near], torch.ones(int(near.sum()), dtype=torch.float64))
        largest = largest.scatter_reduce(0, hops[near], change[near], "amax")
    reached = int((count > 0).sum())
    mean = total[:reached] / count[:reached].clamp(min=1)
    return tuple(mean.tolist()), tuple(largest[:reached].tolist())


def _distances(graph: Graph, source: int) -> Tensor:
    """Edges between a node and every other, -1 where there is no way, int64 (N,)."""
    hops = torch.full((graph.nodes,), -1)
    hops[source] = 0
    front = torch.tensor([source])
    for hop in range(1, graph.nodes):
        there = graph.edges[1][torch.isin(graph.edges[0], front)].unique()
        front = there[hops[there] < 0]
        if not len(front):
            break
        hops[front] = hop
    return hops


__all__ = ["HOPS", "SOURCES", "GraphMeasurements", "measure_graph", "network_of"]
