"""Evaluations of f by each solver, and the gradients that reuse what a solve has learned.

    python bench/fixed_point_solvers.py        half a minute

Problems: z = tanh(W z + U x), W = .9 N(0,1)/sqrt(d), B = 256, d = 512 ("independent"), and
z = tanh(W z + drive), W = G G^T of spectral norm rho, B = 64, d = 256 ("positive"); relative
tolerance on the worst sample, from z = 0, 1e-4 in float32 and 1e-10 in float64. A product with the
Jacobian counts as an evaluation. A monotone layer of 128 neurons stands for laws that expand.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from timing import options, say_machine, table, write_results
from torch import Tensor
from torch.nn.functional import cosine_similarity

import driftwell as dw
from driftwell.fixed_points import Anderson, Picard, Solver
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.one_step import OneStep
from driftwell.fixed_points.gradients.shine import SHINE
from driftwell.fixed_points.solvers.broyden import Broyden
from driftwell.fixed_points.solvers.forward_backward import ForwardBackward
from driftwell.fixed_points.solvers.newton_krylov import NewtonKrylov
from driftwell.fixed_points.solvers.peaceman_rachford import PeacemanRachford
from driftwell.nn.monotone import MonotoneLayer

MAX_STEPS = 600
SOLVERS: tuple[Solver, ...] = (
    Picard(), Anderson(), Broyden(), NewtonKrylov(), NewtonKrylov(krylov=12),
)  # fmt: skip
Found = dict[str, dict[str, float | None]]
Map = Callable[[Tensor], Tensor]


def main(given: list[str] | None = None) -> int:
    options(__doc__, given=given)
    say_machine()
    with torch.no_grad():
        single, double = _evaluations(1e-4, torch.float32), _evaluations(1e-10, torch.float64)
        monotone = _monotone()
    cosines = _cosines()
    _say("evaluations of f, tolerance 1e-4, float32", single)
    _say("\nevaluations of f, tolerance 1e-10, float64", double)
    _say("\nevaluations of f, monotone layers of margin 1, by |W|, tolerance 1e-6", monotone)
    _say("\nmean cosine of dL/dx to the exact gradient, 64 tanh neurons, random dL/dz", cosines)
    write_results(
        "fixed_point_solvers",
        {"evaluations": single, "digits": double, "monotone": monotone, "cosines": cosines},
    )
    return 0


def _say(title: str, found: Found) -> None:
    columns = list(next(iter(found.values())))
    print(table(title, ["", *columns], [[name, *row.values()] for name, row in found.items()]))


def _evaluations(tol: float, dtype: torch.dtype) -> Found:
    problems = {"independent": _independent(dtype)}
    for rho in (0.90, 0.97, 0.99):
        problems[f"positive {rho:.2f}"] = _positive(rho, dtype)
    return {
        _name(s): {name: _count(f, z0, s, tol) for name, (f, z0) in problems.items()}
        for s in SOLVERS
    }  # fmt: skip


def _normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _independent(dtype: torch.dtype, d: int = 512) -> tuple[Map, Tensor]:
    batch = 256 if dtype is torch.float32 else 16  # many digits take long
    W, U = 0.9 * _normal(d, d, seed=0) / d**0.5, _normal(d, d, seed=1) / d**0.5
    return _network(W, _normal(batch, d, seed=2) @ U.T, dtype)


def _positive(rho: float, dtype: torch.dtype, batch: int = 64, d: int = 256) -> tuple[Map, Tensor]:
    G = _normal(d, d, seed=0, dtype=torch.float64)
    W = G @ G.T * rho / torch.linalg.matrix_norm(G @ G.T, 2)
    U = _normal(d, d, seed=2) / d**0.5
    return _network(W, 0.05 * _normal(batch, d, seed=1) @ U.T, dtype)


def _network(W: Tensor, drive: Tensor, dtype: torch.dtype) -> tuple[Map, Tensor]:
    W, drive = W.to(dtype), drive.to(dtype)
    return lambda z: torch.tanh(z @ W.T + drive), torch.zeros_like(drive)


def _count(
    f: Callable[..., Tensor], z0: Tensor, solver: Solver, tol: float, x: Tensor | None = None
) -> float | None:
    """Evaluations of the worst sample, None if one failed."""
    found = dw.fixed_point(
        f, z0, x, solver=solver, tol=tol, max_steps=MAX_STEPS, throw=False
    )  # fmt: skip
    return int(found.steps.max()) if bool((found.status == 0).all()) else None


def _monotone() -> Found:
    found: Found = {}
    for solver in (*SOLVERS[:3], NewtonKrylov(krylov=40), ForwardBackward(), PeacemanRachford()):
        row: dict[str, float | None] = {}
        for gain in (0.2, 0.5, 1.5):
            law = MonotoneLayer(32, 128, gain=gain, seed=0).double().law()
            x = torch.randn(16, 32, generator=torch.Generator().manual_seed(1)).double()
            norm = float(torch.linalg.matrix_norm(law.W, 2))
            row[f"{norm:.1f}"] = _count(law, x.new_zeros(16, 128), solver, 1e-6, x)
        found[_name(solver)] = row
    return found


def _cosines() -> Found:
    ways: dict[str, Gradient] = {
        "OneStep": OneStep(),
        "SHINE, no fallback": SHINE(fallback=None),
        "SHINE": SHINE(),
        "SHINE, refine 1": SHINE(refine=1),
        "SHINE, refine 3": SHINE(refine=3),
        "SHINE, refine 8": SHINE(refine=8),
    }
    found: Found = {}
    for name, way in ways.items():
        found[name] = {}
        for kind in ("independent .9", "positive .5", "positive .9", "positive .97"):
            exact = _gradient(kind, dw.Implicit(tol=1e-10))
            cosine = cosine_similarity(_gradient(kind, way), exact, dim=1).mean()
            found[name][kind] = round(float(cosine), 3)
    return found


def _gradient(kind: str, gradient: Gradient, d: int = 64, batch: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    name, size = kind.split()
    G = draw(d, d)
    W = G / d**0.5 if name == "independent" else G @ G.T / torch.linalg.matrix_norm(G @ G.T, 2)
    x = (draw(batch, d) * (1.0 if name == "independent" else 0.05)).requires_grad_(True)
    v = draw(batch, d)
    z = dw.fixed_point(
        lambda z, x: torch.tanh(float(size) * z @ W.T + x), x.new_zeros(batch, d).detach(), x,
        solver=Broyden(), gradient=gradient, max_steps=MAX_STEPS,
    ).z  # fmt: skip
    return torch.autograd.grad((z * v).sum(), x)[0]


def _name(solver: Solver) -> str:
    shown = {"NewtonKrylov": f"NewtonKrylov({getattr(solver, 'krylov', '')})"}
    return shown.get(type(solver).__name__, type(solver).__name__)


if __name__ == "__main__":
    began = time.perf_counter()
    code = main()
    print(f"\n({time.perf_counter() - began:.0f} s)")
    sys.exit(code)
