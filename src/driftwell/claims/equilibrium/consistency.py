"""Claims on the consistency student: few jumps against Picard, Anderson and a learned start."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal, permutation
from driftwell.core.state import norm, tree_map
from driftwell.fixed_points import Anderson, Picard, Solver, fixed_point
from driftwell.models.equilibrium.consistency import CDEQ, ConsistencyDEQ, ConsistencyJumps
from driftwell.models.equilibrium.distillation import Distillation
from driftwell.models.equilibrium.recorded_solves import RecordedSolve, record_trajectory

_D, _P, _TRAIN, _TEST = 64, 16, 4096, 512
_RECIPE = Distillation(updates=4000, batch=64, learning_rate=3e-3)
_BUDGETS = (1, 2, 4, 8)
# "2-20x": the lower end of what the paper states.
_TIMES_BETTER = 2.0


@dataclass(frozen=True)
class _Teacher:
    """z <- tanh(W z + U x), W positive semidefinite of norm 0.97: Picard needs 40 to 60 calls."""

    W: Tensor
    U: Tensor

    def __call__(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(z @ self.W.T + x @ self.U.T)


def _draw(rows: int, columns: int, seed: int, leaf: int) -> Tensor:
    purpose = Purpose.PARAMETERS
    return normal((rows, columns), seed=seed, purpose=purpose, chains=rows, step=0, leaf=leaf)


def _teacher(seed: int) -> _Teacher:
    A = _draw(_D, _D, seed, 0)
    W = A @ A.T
    return _Teacher(0.97 * W / torch.linalg.matrix_norm(W, 2), 0.05 * _draw(_D, _P, seed, 1))


def _inputs(seed: int) -> tuple[Tensor, Tensor]:
    """Training and test inputs."""
    return _draw(_TRAIN, _P, seed, 2), _draw(_TEST, _P, seed, 3)


@lru_cache(maxsize=4)
def _recorded(seed: int) -> RecordedSolve:
    return record_trajectory(_teacher(seed), torch.zeros(_TRAIN, _D), _inputs(seed)[0], steps=24)


@lru_cache(maxsize=4)
def _student(seed: int, targets: str) -> ConsistencyDEQ:
    """A distilled student; with "shuffled" targets its fixed points are those of other inputs."""
    record = _recorded(seed)
    if targets == "shuffled":
        z = record.z.clone()
        z[-1] = z[-1].roll(1, dims=0)
        record = replace(record, z=z)
    student = ConsistencyDEQ(_teacher(seed), _D, seed=seed)
    _RECIPE.run(student, record, seed)
    return student


@lru_cache(maxsize=4)
def _initialiser(seed: int) -> nn.Module:
    """x -> z*, as wide as the student, trained on as many points; it is called once a solve."""
    network = nn.utils.skip_init(nn.Linear, _P, 3 * _D), nn.utils.skip_init(nn.Linear, 3 * _D, _D)
    with torch.no_grad():
        for leaf, layer in enumerate(network):
            layer.weight.copy_(_draw(layer.out_features, layer.in_features, seed, 8 + leaf))
            layer.weight.mul_(math.sqrt(2.0 / layer.in_features))
            layer.bias.zero_()
    model = nn.Sequential(network[0], nn.ReLU(), network[1])
    x, star = _inputs(seed)[0], _recorded(seed).z[-1]
    optimizer = torch.optim.Adam(model.parameters(), lr=_RECIPE.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _RECIPE.updates)
    for update in range(_RECIPE.updates):
        chosen = permutation(_TRAIN, seed=seed, purpose=Purpose.DATA, step=update)
        rows = chosen[: _RECIPE.batch * _RECIPE.points]
        loss = functional.smooth_l1_loss(model(x[rows]), star[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.requires_grad_(False)


def _curve(
    seed: int, solver: Solver, start: Callable[[Tensor], Tensor] | None = None
) -> list[float]:
    """Mean relative error on test inputs after 0, 1, ... calls of f."""
    x = _inputs(seed)[1]
    z0 = torch.zeros(_TEST, _D) if start is None else start(x)
    record = record_trajectory(_teacher(seed), z0, x, steps=max(_BUDGETS) + 1, solver=solver)
    return [float(e) for e in record.errors().mean(dim=1)]


def _milliseconds(seed: int, solver: Solver, start: Callable[[Tensor], Tensor] | None) -> float:
    """End to end, to a residual of 1e-3, all test inputs at once; the best of nine."""
    f, x = _teacher(seed), _inputs(seed)[1]
    best = math.inf
    for _ in range(9):
        began = time.perf_counter()
        z0 = torch.zeros(_TEST, _D) if start is None else start(x)
        fixed_point(f, z0, x, solver=solver, tol=1e-3)
        best = min(best, time.perf_counter() - began)
    return 1e3 * best


def _two_jumps_kept(seed: int, student: ConsistencyDEQ) -> float:
    """Mean relative error of the best-residual iterate of two jumps."""
    f, x = _teacher(seed), _inputs(seed)[1]
    solver, z0 = ConsistencyJumps(student, jumps=2), torch.zeros(_TEST, _D)
    with torch.no_grad():
        kept = fixed_point(f, z0, x, solver=solver, tol=0.0, max_steps=3, throw=False).z
        star = fixed_point(f, z0, x, tol=1e-6).z
    gap = tree_map(torch.sub, kept, star)
    return float((norm(gap) / norm(star)).mean())


def _few_steps(seed: int, targets: str) -> Outcome:
    student, z = _student(seed, targets), _recorded(seed).z[3]
    boundary = torch.equal(student(z, torch.tensor(student.T), _inputs(seed)[0]), z)
    picard = _curve(seed, Picard())
    one, two = _curve(seed, ConsistencyJumps(student, 1)), _two_jumps_kept(seed, student)
    teacher = fixed_point(
        _teacher(seed), torch.zeros(_TEST, _D), _inputs(seed)[1], solver=Picard(), max_steps=500
    )
    calls = [float(n) for n in range(len(picard))]
    return Outcome(
        holds=boundary and one[1] <= picard[1] / 3 and two <= one[1],
        measured={
            "calls Picard needs": float(teacher.steps.float().mean()),
            "error Picard, 1 call": picard[1],
            "error 1 jump": one[1],
            "error 2 jumps": two,
            "boundary exact": float(boundary),
        },
        bound="1 jump <= 1/3 of Picard's error after 1 call; 2 jumps (best residual) <= 1 jump; "
        "F(z, T) = z to the last bit",
        series={
            "Picard": (calls, picard),
            "Anderson": (calls, _curve(seed, Anderson())),
            "1 jump, then Anderson": (calls, one),
            "8 jumps": (calls, _curve(seed, ConsistencyJumps(student, 8))),
        },
    )


@claim(
    id="cdeq-few-steps",
    paper=CDEQ,
    states="a student distilled from Picard's iterates comes in one jump at least three times "
    "nearer to z* than Picard's first step, and two jumps are no worse",
    stated="card: 1-step error <= 1/3 of the teacher's at one call, 2-step <= 1-step, F(z, T) = z",
    cpu_minutes=1.2,
    control=lambda seed: _few_steps(seed, "shuffled"),
    control_is="the student was distilled towards the fixed points of other inputs",
)
def few_steps(seed: int) -> Outcome:
    """One and two jumps against Picard."""
    return _few_steps(seed, "own")


def _against(seed: int, targets: str, start: Callable[[Tensor], Tensor] | None) -> Outcome:
    student = _student(seed, targets)
    ours = ConsistencyJumps(student, jumps=1, then=Anderson())
    theirs, mine = _curve(seed, Anderson(), start), _curve(seed, ours)
    ratio = {n: theirs[n] / mine[n] for n in _BUDGETS}
    calls = [float(n) for n in range(len(mine))]
    return Outcome(
        holds=min(ratio.values()) >= _TIMES_BETTER,
        measured={f"times better, {n} calls": ratio[n] for n in _BUDGETS}
        | {f"error, {n} calls": mine[n] for n in _BUDGETS}
        | {f"error of the baseline, {n} calls": theirs[n] for n in _BUDGETS}
        | {
            "ms to 1e-3": _milliseconds(seed, ours, None),
            "ms to 1e-3 of the baseline": _milliseconds(seed, Anderson(), start),
        },
        bound=f"error {_TIMES_BETTER:g} times smaller after each of {_BUDGETS} calls of f; "
        "times are reported without a bound",
        series={"1 jump, then Anderson": (calls, mine), "baseline": (calls, theirs)},
    )


@claim(
    id="cdeq-against-anderson",
    paper=CDEQ,
    states="at an equal few-step budget the student (one jump, then Anderson) is at least twice as "
    "accurate as this library's Anderson from the same start",
    stated="paper: 2-20 times better accuracy at an equal few-step budget",
    cpu_minutes=1.2,
    control=lambda seed: _against(seed, "shuffled", None),
    control_is="the student was distilled towards the fixed points of other inputs",
)
def against_anderson(seed: int) -> Outcome:
    """Student against Anderson from zero."""
    return _against(seed, "own", None)


@claim(
    id="cdeq-against-initialiser",
    paper=CDEQ,
    states="at an equal few-step budget the student (one jump, then Anderson) is at least twice as "
    "accurate as a learned start x -> z_0 of the same size, followed by Anderson",
    stated="paper: 2-20 times better accuracy at an equal few-step budget",
    cpu_minutes=1.5,
    control=lambda seed: _against(seed, "shuffled", _initialiser(seed)),
    control_is="the student was distilled towards the fixed points of other inputs",
    expected="not_reproduced",
)
def against_initialiser(seed: int) -> Outcome:
    """Student against a learned start."""
    return _against(seed, "own", _initialiser(seed))
