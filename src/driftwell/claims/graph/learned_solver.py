"""Claims on the learned solver of implicit graph networks: evaluations, and time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, permutation
from driftwell.data.graph_generators import stochastic_block_model
from driftwell.data.graphs import Graph
from driftwell.fixed_points import Anderson, Solver, fixed_point
from driftwell.fixed_points.solvers.learned_anderson import IGNN_SOLVER, LearnedAnderson
from driftwell.fixed_points.solvers.learned_anderson_lesson import (
    LearnedStart,
    SolverLesson,
    fit_learned_anderson,
)
from driftwell.models.graph import IGNN, accuracy, fit_ignn, node_states

_WIDTH, _DRAWS, _FRESH = 64, 30, 5
_TOL = 1e-4
_UPDATES = 300


@dataclass(frozen=True, eq=False)
class _Trained:
    """A trained network, inputs of solves nobody was trained on, and a solver with its start."""

    model: IGNN
    graph: Graph
    fresh: list[Tensor]
    solver: LearnedAnderson
    start: LearnedStart


@lru_cache(maxsize=2)
@torch.enable_grad()
def _prepared(seed: int, updates: int) -> _Trained:
    """Cora's size: 2000 nodes, 1433 features, width 64, kappa .95; 30 draws of features."""
    graph = stochastic_block_model(
        2000, classes=7, degree=4.0, homophily=0.8, features=1433, signal=3.0, seed=seed
    )
    graph = replace(graph, x=graph.x / 1433**0.5)  # rows of length 1, as those of citation graphs
    model = IGNN(1433, _WIDTH, 7, 0.95, seed=seed)
    fit_ignn(model, graph, updates=60, seed=seed)
    model.requires_grad_(False)
    drives = [model.drive(graph, _redrawn(graph, seed, k)) for k in range(_DRAWS + _FRESH)]
    solver = LearnedAnderson(_WIDTH, embed=8, hidden=16, damped=False, seed=seed)
    start = LearnedStart(_WIDTH, _WIDTH, hidden=16, seed=seed)
    if updates:
        fit_learned_anderson(
            solver, model.layer(graph), drives[:_DRAWS], start=start,
            lesson=SolverLesson(updates=updates, horizon=6),
        )  # fmt: skip
    return _Trained(model, graph, drives[_DRAWS:], solver, start.requires_grad_(False))


def _redrawn(graph: Graph, seed: int, draw: int) -> Tensor:
    """Features dealt anew among the nodes of each class."""
    x, y = graph.x.clone(), torch.as_tensor(graph.y)
    for k in range(int(y.max()) + 1):
        rows = (y == k).nonzero().squeeze(1)
        step = 1000 + 16 * draw + k
        order = permutation(len(rows), seed=seed, purpose=Purpose.DATA, step=step)
        x[rows] = graph.x[rows[order]]
    return x


def _solve(made: _Trained, drive: Tensor, solver: Solver, learned_start: bool, steps: int) -> float:
    """Relative residual after exactly `steps` evaluations."""
    z0 = made.start(drive) if learned_start else torch.zeros_like(drive)
    found = fixed_point(
        made.model.layer(made.graph), z0, drive, solver=solver, tol=0.0, max_steps=steps,
        throw=False,
    )  # fmt: skip
    return float(found.residual.max())


def _evaluations(made: _Trained, drive: Tensor, solver: Solver, learned_start: bool) -> int:
    z0 = made.start(drive) if learned_start else torch.zeros_like(drive)
    found = fixed_point(
        made.model.layer(made.graph), z0, drive, solver=solver, tol=_TOL, max_steps=400
    )
    return int(found.steps.max())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


@torch.no_grad()
def _judge_start(updates: int, seed: int) -> Outcome:
    made = _prepared(seed, updates)
    zero, begun = (
        _mean([_solve(made, d, Anderson(), learned, 1) for d in made.fresh])
        for learned in (False, True)
    )
    learned = sum(p.numel() for m in (made.solver, made.start) for p in m.parameters())
    share = learned / sum(p.numel() for p in made.model.parameters())
    full, short = _accuracies(made)
    return Outcome(
        holds=begun <= 0.5 * zero and abs(full - short) <= 0.005 and share < 0.05,
        measured={
            "first residual from zero": zero,
            "first residual from start": begun,
            "accuracy": full,
            "accuracy after 5": short,
            "share of parameters": share,
        },
        bound="the start halves the first residual; accuracy after 5 evaluations within 0.5 "
        "points of the equilibrium's; learned parameters < 5 % of the model's",
    )


def _untrained_start(seed: int) -> Outcome:
    return _judge_start(0, seed)


@claim(
    id="ignn-solver-start",
    paper=IGNN_SOLVER,
    states="a small learned start and solver leave the accuracy as it is after 5 evaluations",
    stated="card: start halves the first residual; accuracy within 0.5 points; parameters below "
    "5 % of the model's",
    cpu_minutes=1.5,
    control=_untrained_start,
    control_is="the same solver and start untrained",
)
def solver_start(seed: int) -> Outcome:
    """First residual, accuracy after five evaluations, number of parameters."""
    return _judge_start(_UPDATES, seed)


@torch.no_grad()
def _judge_evaluations(updates: int, seed: int) -> Outcome:
    made = _prepared(seed, updates)
    ways = {
        "Anderson": (Anderson(), False),
        "start + Anderson": (Anderson(), True),
        "learned": (made.solver, True),
    }
    measured = {
        f"residual {name} at {steps}": _mean([_solve(made, d, *how, steps) for d in made.fresh])
        for name, how in ways.items()
        for steps in (5, 10)
    }
    counts = {name: [_evaluations(made, d, *how) for d in made.fresh] for name, how in ways.items()}
    measured |= {f"evaluations {k}": _mean([float(n) for n in v]) for k, v in counts.items()}
    early = measured["residual learned at 5"] <= measured["residual Anderson at 10"]
    never_worse = all(a <= b for a, b in zip(counts["learned"], counts["Anderson"], strict=True))
    return Outcome(
        holds=early and never_worse,
        measured=measured,
        bound="residual after 5 evaluations <= Anderson's after 10, and evaluations to "
        f"{_TOL:g} never more than Anderson's",
    )


def _accuracies(made: _Trained) -> tuple[float, float]:
    """Test accuracy at the equilibrium, and after five evaluations of the learned solver."""
    model, graph = made.model, made.graph
    drive = model.drive(graph)
    found = fixed_point(
        model.layer(graph), made.start(drive), drive, solver=made.solver, tol=0.0, max_steps=5,
        throw=False,
    )  # fmt: skip
    named = model.decode(graph, node_states(graph, found)).argmax(dim=1)
    right = torch.eq(named, torch.as_tensor(graph.y))
    short = float(right[torch.as_tensor(graph.test_mask)].double().mean())
    return accuracy(model, graph, graph.test_mask), short


def _untrained_evaluations(seed: int) -> Outcome:
    return _judge_evaluations(0, seed)


@claim(
    id="ignn-solver-evaluations",
    paper=IGNN_SOLVER,
    states="a learned Anderson solver reaches in 5 evaluations what Anderson reaches in 10, "
    "and with its safeguard never needs more",
    stated="card: residual at 5 <= Anderson's at 10. Measured with seed 0: .0054 against .0009; "
    "Anderson from the learned start has .0053, so the start is what helps. One claim with "
    "`ignn-solver-start` until that was seen; the bounds are as they were",
    cpu_minutes=1.5,
    control=_untrained_evaluations,
    control_is="the same solver and start untrained",
    expected="not_reproduced",
)
def solver_evaluations(seed: int) -> Outcome:
    """Residuals and evaluations of learned and classical Anderson."""
    return _judge_evaluations(_UPDATES, seed)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@torch.no_grad()
def _judge_time(updates: int, seed: int) -> Outcome:
    made = _prepared(seed, updates)
    f = made.model.layer(made.graph)

    def classical() -> object:
        return [fixed_point(f, torch.zeros_like(d), d, tol=_TOL, max_steps=400) for d in made.fresh]

    def learned() -> object:
        return [
            fixed_point(f, made.start(d), d, solver=made.solver, tol=_TOL, max_steps=400)
            for d in made.fresh
        ]

    classical(), learned()
    pairs = [(_seconds(classical), _seconds(learned)) for _ in range(15)]
    ours, theirs = (median(column) / _FRESH for column in zip(*pairs, strict=True))
    ratio = median(a / b for a, b in pairs)
    return Outcome(
        holds=ratio >= 1.5,
        measured={"ms Anderson": 1e3 * ours, "ms learned": 1e3 * theirs, "speed-up": ratio},
        bound=f"to a residual of {_TOL:g}, all overhead included: median speed-up >= 1.5 over our "
        "Anderson",
    )


def _untrained_time(seed: int) -> Outcome:
    return _judge_time(0, seed)


@claim(
    id="ignn-solver-speed",
    paper=IGNN_SOLVER,
    states="the learned solver is 1.5 to 8 times faster end to end than Anderson",
    stated="paper: 1.5x to 8x faster inference. Measured with seed 0: 0.77x, that is slower; our "
    "Anderson is a compiled kernel and needs 14.6 evaluations, the learned solver 14.0",
    cpu_minutes=1.5,
    control=_untrained_time,
    control_is="the same solver and start untrained",
    expected="not_reproduced",
)
def solver_speed(seed: int) -> Outcome:
    """Wall time of learned and classical Anderson to one residual."""
    return _judge_time(_UPDATES, seed)
