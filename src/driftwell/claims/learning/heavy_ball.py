"""Claims on heavy-ball momentum: a Lyapunov function that never grows, and O(1/k)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal
from driftwell.learning.optimizers.heavy_ball import SUN_HEAVY_BALL, HeavyBall

RIDGE = 1e-3


def _run(
    f: Callable[[Tensor], Tensor], start: Tensor, lr: float, beta: float, steps: int
) -> tuple[Tensor, Tensor]:
    """f(x_k) and xi_k for k = 0 .. steps."""
    x = start.clone().requires_grad_(True)
    ball = HeavyBall([x], lr=lr, beta=beta)
    values, lyapunov = [], []
    for _ in range(steps + 1):
        loss = f(x)
        values.append(float(loss.detach()))
        lyapunov.append(ball.lyapunov(loss.detach()))
        (x.grad,) = torch.autograd.grad(loss, x)
        ball.step()
    return torch.tensor(values, dtype=torch.float64), torch.tensor(lyapunov, dtype=torch.float64)


def _logistic(seed: int) -> tuple[Callable[[Tensor], Tensor], Tensor, float, float]:
    """Ridge logistic regression: f, a start, its Lipschitz constant L, and its minimum."""
    n, p = 200, 20
    X, hidden, start = (
        normal(shape, seed=seed, purpose=Purpose.DATA, chains=shape[0], step=0, leaf=leaf,
               dtype=torch.float64)
        for leaf, shape in enumerate([(n, p), (1, p), (1, p)])
    )  # fmt: skip
    noise = normal((n,), seed=seed, purpose=Purpose.DATA, chains=n, step=1, dtype=torch.float64)
    y = torch.sign(X @ hidden[0] + noise)

    def f(w: Tensor) -> Tensor:
        margins = torch.nn.functional.softplus(-y * (X @ w))
        return margins.mean() + 0.5 * RIDGE * w.square().sum()

    L = float(torch.linalg.eigvalsh(X.T @ X)[-1]) / (4.0 * n) + RIDGE
    w = torch.zeros(p, dtype=torch.float64)
    for _ in range(50):  # Newton's method
        gradient = torch.func.grad(f)(w)
        w = w - torch.linalg.solve(torch.func.hessian(f)(w), gradient)
    return f, 5.0 * start[0], L, float(f(w))


def _rise(values: Tensor) -> float:
    """The largest increase from one step to the next."""
    return float(values.diff().max())


def _judge(c: float, seed: int) -> Outcome:
    f, start, L, best = _logistic(seed)
    measured: dict[str, float] = {}
    holds = True
    for beta in (0.5, 0.9, 0.99):
        lr = 2.0 * (1.0 - beta) * c / L
        values, xi = _run(f, start, lr, beta, steps=1000)
        k = torch.arange(len(values), dtype=torch.float64)
        speed = k * (values - best)
        # On L x^2 / 2 with L = 1 the bound on the step is sharp.
        _, quadratic = _run(
            lambda x: 0.5 * x.square().sum(), torch.ones(1, dtype=torch.float64),
            2.0 * (1.0 - beta) * c, beta, steps=300,
        )  # fmt: skip
        worst = max(_rise(xi), _rise(quadratic))
        late = float(speed[500:].max() / speed[:500].max())
        measured |= {
            f"largest rise of xi, beta {beta:g}": worst,
            f"largest rise of f, beta {beta:g}": _rise(values),
            f"k (f - f*), late / early, beta {beta:g}": late,
        }
        holds = holds and worst <= 1e-12 and late <= 1.0
    return Outcome(
        holds=holds and measured["largest rise of f, beta 0.99"] > 1e-6,
        measured=measured,
        bound="xi rises by at most 1e-12 in any step, on the logistic loss and on x^2 / 2, though "
        "f itself rises at beta 0.99; k (f_k - f*) is no larger after 500 steps than before",
    )


def _too_large_steps(seed: int) -> Outcome:
    return _judge(1.2, seed)


@claim(
    id="heavy-ball-lyapunov",
    paper=SUN_HEAVY_BALL,
    states="with lr = 2 (1 - beta) c / L, c < 1, f + beta / (2 lr) |x_k - x_{k-1}|^2 never grows "
    "and the last iterate converges like 1/k (c = 0.95, beta 0.5, 0.9, 0.99)",
    stated="card: monotone to 1e-12; with c = 1.2 it rises by 3e-3 (beta 0.5) and 1e-2 (beta 0.9) "
    "on a quadratic",
    cpu_minutes=0.07,
    control=_too_large_steps,
    control_is="steps beyond the bound, c = 1.2",
    fast=True,
)
def lyapunov(seed: int) -> Outcome:
    """Monotone Lyapunov function on a logistic loss and on a quadratic."""
    return _judge(0.95, seed)
