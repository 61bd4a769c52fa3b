"""Fixed points beside torchdeq: evaluations, time for one solve, time for a training step.

    make bench ARGS="--only fixed_points"

Problems: z = tanh(W z + U x), W = .9 N(0,1)/sqrt(d), B = 256, d = 512 ("independent"), and
z = tanh(W z + drive), W = G G^T of spectral norm rho, B = 64, d = 256 ("positive"); relative
tolerance 1e-4 on the worst sample, from z = 0, float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import timing
import torch
from torch import Tensor

import driftwell as dw

try:
    from torchdeq import get_deq
    from torchdeq.solver.anderson import anderson_solver
    from torchdeq.solver.broyden import broyden_solver
    from torchdeq.solver.fp_iter import fixed_point_iter
except ImportError:
    get_deq = None

MAX_STEPS = 400
Map = Callable[[Tensor], Tensor]


def main() -> int:
    chosen = timing.options(__doc__)
    seconds = timing.duration(chosen, 6.0, 0.5)
    timing.say_machine()
    goals: list[timing.Goal] = []
    measured = {
        "independent": _independent(seconds, goals),
        "positive": _positive(goals),
        "units": _units(goals),
        "hard": _one_hard_sample(seconds, goals),
        "training": _training(seconds, goals),
    }
    timing.say_goals(goals)
    timing.write_results("fixed_points", measured, goals)
    return 0


# ---------------------------------------------------------------- problems


def _normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def independent(batch: int = 256, d: int = 512) -> tuple[Map, Tensor]:
    W, U = 0.9 * _normal(d, d, seed=0) / d**0.5, _normal(d, d, seed=1) / d**0.5
    drive = _normal(batch, d, seed=2) @ U.T
    return lambda z: torch.tanh(z @ W.T + drive), torch.zeros(batch, d)


def positive(rho: float, batch: int = 64, d: int = 256) -> tuple[Map, Tensor]:
    G = _normal(d, d, seed=0, dtype=torch.float64)
    W = (G @ G.T * rho / torch.linalg.matrix_norm(G @ G.T, 2)).float()
    drive = 0.05 * _normal(batch, d, seed=1) @ (_normal(d, d, seed=2) / d**0.5).T
    return lambda z: torch.tanh(z @ W.T + drive), torch.zeros(batch, d)


# ---------------------------------------------------------------- ways to solve


def _solves(f: Map, z0: Tensor) -> dict[str, Callable[[], Any]]:
    def ours(solver: dw.Solver) -> Callable[[], Any]:
        return lambda: dw.fixed_point(
            f, z0, solver=solver, tol=1e-4, max_steps=MAX_STEPS, throw=False
        )

    ways = {"driftwell Picard": ours(dw.Picard()), "driftwell Anderson": ours(dw.Anderson())}
    if get_deq is None:
        return ways

    def theirs(solve: Callable[..., Any], **settings: Any) -> Callable[[], Any]:
        return lambda: solve(f, z0, tol=1e-4, stop_mode="rel", max_iter=MAX_STEPS, **settings)

    return ways | {
        "torchdeq Picard": theirs(fixed_point_iter),
        "torchdeq Anderson (default)": theirs(anderson_solver),
        "torchdeq Anderson (lam=1e-8)": theirs(anderson_solver, lam=1e-8),
        "torchdeq Broyden": theirs(broyden_solver),
    }


def _evaluations(problem: tuple[Map, Tensor]) -> dict[str, int]:
    """Calls of f that each way makes; -1 where the worst residual stayed above 1e-4."""
    f, z0 = problem
    calls = 0

    def counted(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return f(z)

    found = {}
    for name, solve in _solves(counted, z0).items():
        calls = 0
        with torch.no_grad():
            result = solve()
        z = result.z if isinstance(result, dw.FixedPoint) else result[0]
        fz, count = f(z), calls
        worst = float(((fz - z).norm(dim=1) / fz.norm(dim=1)).max())
        found[name] = count if worst <= 1.2e-4 else -1
    return found


# ---------------------------------------------------------------- tables


def _independent(seconds: float, goals: list[timing.Goal]) -> dict[str, Any]:
    f, z0 = independent()
    counts = _evaluations((f, z0))
    with torch.no_grad():
        variants = [timing.Variant(name, solve) for name, solve in _solves(f, z0).items()]
        variants.append(timing.Variant("f alone", lambda: f(z0)))
        times = timing.interleave(variants, seconds=seconds)
    rows = [
        [name, counts[name], 1e3 * times[name].median, 1e3 * times[name].median / counts[name]]
        for name in counts
    ]
    rows.append(["f alone", 1, 1e3 * times["f alone"].median, 1e3 * times["f alone"].median])
    head = ["independent weights, B=256, d=512", "evaluations", "ms", "ms per evaluation"]
    print(timing.table("One solve", head, rows))
    each = {row[0]: row[3] for row in rows}
    peer = times.get("torchdeq Anderson (default)")
    ours = times["driftwell Anderson"].median
    goals += [
        timing.at_most("Anderson's evaluations, independent weights <= 20",
                       counts["driftwell Anderson"], 20),
        timing.at_most("Anderson's time / torchdeq's default Anderson <= .5",
                       ours / peer.median if peer else None, 0.5),
        timing.at_most("Anderson's time per evaluation / Picard's <= 1.5",
                       each["driftwell Anderson"] / each["driftwell Picard"], 1.5),
    ]  # fmt: skip
    return {name: [counts.get(name, 1), timed.median] for name, timed in times.items()}


def _positive(goals: list[timing.Goal]) -> dict[str, Any]:
    rows: dict[str, list[Any]] = {}
    for rho, bar in ((0.90, 16), (0.97, 24), (0.99, 33)):
        counts = _evaluations(positive(rho))
        for name, count in counts.items():
            rows.setdefault(name, [name]).append(count if count > 0 else f"> {MAX_STEPS}")
        goals.append(
            timing.at_most(f"Anderson's evaluations, positive weights, rho {rho} <= {bar}",
                           counts["driftwell Anderson"], bar)
        )  # fmt: skip
    head = ["positive weights, B=64, d=256", "rho .90", "rho .97", "rho .99"]
    print(timing.table("Evaluations", head, list(rows.values())))
    return rows


def _units(goals: list[timing.Goal]) -> dict[str, Any]:
    f, z0 = positive(0.97)
    rows: dict[str, list[Any]] = {}
    for c in (1e-3, 1.0, 1e3):
        for name, count in _evaluations((lambda z, c=c: c * f(z / c), z0)).items():
            rows.setdefault(name, [name]).append(count if count > 0 else f"> {MAX_STEPS}")
    head = ["the same map in other units, rho .97", "x 1e-3", "x 1", "x 1e3"]
    print(timing.table("Evaluations", head, list(rows.values())))
    counts = rows["driftwell Anderson"][1:]
    goals.append(
        timing.at_most("Anderson's spread of evaluations over units <= 1",
                       max(counts) - min(counts), 1)
    )  # fmt: skip
    return rows


def _one_hard_sample(seconds: float, goals: list[timing.Goal]) -> dict[str, Any]:
    d = 256
    G = _normal(d, d, seed=0)
    W = G @ G.T / torch.linalg.matrix_norm(G @ G.T, 2)
    rates = torch.tensor([[0.3], [0.3], [0.3], [0.999]])
    x = 0.05 * _normal(4, d, seed=1)

    def f(z: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
        rate, drive = given
        return rate * (z @ W) + drive

    def solve(rows: slice, compact: bool) -> Callable[[], Any]:
        return lambda: dw.fixed_point(
            f, torch.zeros_like(x[rows]), (rates[rows], x[rows]), max_steps=2000, compact=compact
        )

    hard, every = slice(3, 4), slice(0, 4)
    with torch.no_grad():
        times = timing.interleave(
            [
                timing.Variant("the hard sample alone", solve(hard, False)),
                timing.Variant("3 easy and it, compact", solve(every, True)),
                timing.Variant("3 easy and it, masked", solve(every, False)),
            ],
            seconds=seconds,
        )
    alone = times["the hard sample alone"].median
    rows = [[name, 1e3 * t.median, t.median / alone] for name, t in times.items()]
    print(timing.table("One hard sample", ["rho .3, .3, .3, .999; d=256", "ms", "ratio"], rows))
    goals.append(
        timing.at_most("3 easy samples and a hard one, compact / the hard one alone <= 1.3",
                       times["3 easy and it, compact"].median / alone, 1.3)
    )  # fmt: skip
    return {name: timed.median for name, timed in times.items()}


def _training(seconds: float, goals: list[timing.Goal]) -> dict[str, Any]:
    """Forward and backward of a layer with implicit gradients, both to 1e-4 and 1e-6."""
    batch, d = 256, 512
    W = torch.nn.Parameter(0.9 * _normal(d, d, seed=0) / d**0.5)
    drive, z0 = _normal(batch, d, seed=2), torch.zeros(batch, d)

    def layer(z: Tensor) -> Tensor:
        return torch.tanh(z @ W.T + drive)

    def ours() -> None:
        W.grad = None
        dw.fixed_point(layer, z0, tol=1e-4, max_steps=100).z.square().sum().backward()

    variants = [timing.Variant("driftwell Anderson, Implicit", ours)]
    if get_deq is not None:
        deq = get_deq(
            core="indexing", ift=True, f_solver="anderson", b_solver="anderson", f_tol=1e-4,
            f_stop_mode="rel", f_max_iter=100, b_tol=1e-6, b_stop_mode="rel", b_max_iter=100,
        ).train()  # fmt: skip

        def theirs() -> None:
            W.grad = None
            z, _ = deq(layer, z0)
            z[-1].square().sum().backward()

        variants.append(timing.Variant("torchdeq Anderson, IFT", theirs))
    times = timing.interleave(variants, seconds=seconds)
    rows = [[name, 1e3 * timed.median] for name, timed in times.items()]
    print(timing.table("One training step", ["independent weights, B=256, d=512", "ms"], rows))
    if len(rows) > 1:
        goals.append(
            timing.at_most("training step / torchdeq's <= 1", rows[0][1] / rows[1][1], 1.0)
        )
    return {name: timed.median for name, timed in times.items()}


if __name__ == "__main__":
    sys.exit(main())
