"""What each gradient through a fixed point really is: against the exact one, in float64.

    python bench/fixed_point_gradients.py

z* = tanh(W z* + x), W symmetric positive with largest eigenvalue rho, inputs small (times .05).
The exact gradient is (I - J)^{-T} v by dense algebra at the exact fixed point. Each option solves
forward to a loose or a tight tolerance; "cosine" and "error" are those of its gradient for W, nan
where it was refused. Evaluations are of the forward solve, of the slowest sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timing import options, say_machine, table, write_results
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import DriftwellError
from driftwell.fixed_points import Anderson, Implicit, Unrolled
from driftwell.fixed_points.gradients.one_step import OneStep
from driftwell.fixed_points.gradients.phantom import Phantom
from driftwell.fixed_points.gradients.reversible import Reversible

BATCH, SIZE = 16, 64
OPTIONS: dict[str, Any] = {
    "Implicit(tol=1e-12)": Implicit(tol=1e-12, max_steps=400),
    "Implicit()": Implicit(),
    "Implicit(tol=1e-2)": Implicit(tol=1e-2),
    "Unrolled(), Anderson": Unrolled(),
    "Unrolled(), Picard": Unrolled(),
    "Reversible(.5)": Reversible(0.5),
    "Reversible(.2)": Reversible(0.2),
    "OneStep()": OneStep(),
    "Phantom(5)": Phantom(5),
    "Phantom(5, .5)": Phantom(5, 0.5),
    "Phantom(20)": Phantom(20),
    "Phantom(100)": Phantom(100),
}


@dataclass(frozen=True)
class Case:
    """The problem of one rho, with its exact fixed points and gradient."""

    W: Tensor
    x: Tensor
    v: Tensor
    exact: Tensor


def case(rho: float) -> Case:
    g = torch.Generator().manual_seed(0)
    A = torch.randn(SIZE, SIZE, generator=g, dtype=torch.float64)
    W = A @ A.T
    W = W * (rho / float(torch.linalg.eigvalsh(W)[-1]))
    x = 0.05 * torch.randn(BATCH, SIZE, generator=g, dtype=torch.float64)
    v = torch.randn(BATCH, SIZE, generator=g, dtype=torch.float64)
    z = dw.fixed_point(
        lambda z, x: torch.tanh(z @ W.T + x), torch.zeros_like(x), x, tol=1e-14, max_steps=400,
        throw=False,
    ).z  # fmt: skip
    gate = 1 - z**2
    system = torch.eye(SIZE, dtype=torch.float64) - gate[:, :, None] * W
    adjoint = torch.linalg.solve(system.mT, v)
    return Case(W, x, v, (gate * adjoint).T @ z)


def measure(problem: Case, name: str, tol: float) -> tuple[int, float, float]:
    W = problem.W.clone().requires_grad_(True)
    solver = dw.Picard() if "Picard" in name else Anderson()
    found = dw.fixed_point(
        lambda z, x: torch.tanh(z @ W.T + x), torch.zeros_like(problem.x), problem.x,
        solver=solver, gradient=OPTIONS[name], tol=tol, max_steps=6000, throw=False,
    )  # fmt: skip
    try:
        (slope,) = torch.autograd.grad(found.z, W, problem.v)
    except DriftwellError:
        return int(found.steps.max()), float("nan"), float("nan")
    exact = problem.exact
    cosine = float((slope * exact).sum() / (slope.norm() * exact.norm()))
    return int(found.steps.max()), cosine, float((slope - exact).norm() / exact.norm())


def main() -> None:
    options(__doc__)
    say_machine()
    measured: dict[str, Any] = {}
    for rho in (0.9, 0.99):
        problem, rows = case(rho), []
        for name in OPTIONS:
            loose, tight = (measure(problem, name, tol) for tol in (1e-2, 1e-10))
            rows.append([name, *loose, *tight])
            measured[f"{name}, rho={rho}"] = {"tol=1e-2": loose, "tol=1e-10": tight}
        head = ["gradient", "evals", "cosine", "error", "evals", "cosine", "error"]
        print(table(f"rho = {rho}: forward tol 1e-2, then 1e-10", head, rows), "\n", flush=True)
    write_results("fixed_point_gradients", {"gradients": measured})


if __name__ == "__main__":
    main()
