"""Heavy-ball momentum, with the Lyapunov function that its last iterate decreases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, words
from driftwell.core.papers import Paper

SUN_HEAVY_BALL = Paper(
    key="sun2019heavyball",
    title="Non-ergodic Convergence Analysis of Heavy-Ball Algorithms",
    authors="Sun, Tao and Yin, Penghang and Li, Dongsheng and Huang, Chun and Guan, Lei and "
    "Jiang, Hao",
    year=2019,
    arxiv="1811.01777",
    venue="AAAI 2019",
)

Variant = Literal["full", "cyclic", "random"]


@final
class HeavyBall(Optimizer):
    """Heavy-ball method, from Sun, Yin, Li, Huang, Guan and Jiang, *Non-ergodic convergence
    analysis of heavy-ball algorithms*, 2019, arXiv:1811.01777.

        x_{k+1} = x_k - lr grad f(x_k) + beta (x_k - x_{k-1})

    At a constant `lr` it is `torch.optim.SGD` with momentum beta, to rounding; when `lr` changes,
    this one keeps the displacement and not the velocity. With an L-smooth f and
    lr <= 2 (1 - beta) / L, `lyapunov` never grows, though f itself may:

        xi_k = f(x_k) + beta / (2 lr) |x_k - x_{k-1}|^2
        xi_k - xi_{k+1} >= ((1 - beta) / lr - L / 2) |x_{k+1} - x_k|^2

    The block variants move one parameter tensor a step, with a displacement of its own.

    Args:
        params: tensors or parameter groups.
        lr: step size, positive.
        beta: momentum, in [0, 1).
        variant: ``"full"``, ``"cyclic"`` (tensors in turn) or ``"random"`` (keyed choice).
        seed: of the keyed choice.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> x = torch.tensor([1.0], requires_grad=True)
        >>> ball = HeavyBall([x], lr=0.1, beta=0.5)
        >>> for _ in range(100):
        ...     ball.zero_grad()
        ...     (0.5 * x.square().sum()).backward()
        ...     ball.step()
        >>> bool(x.abs() < 1e-3)
        True
    """

    papers = (SUN_HEAVY_BALL,)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        beta: float = 0.9,
        variant: Variant = "full",
        seed: int = 0,
    ) -> None:
        if not 0.0 < lr < float("inf"):
            raise InvalidInput(f"HeavyBall(lr=...) must be positive and finite, got {lr}")
        if not 0.0 <= beta < 1.0:
            raise InvalidInput(f"HeavyBall(beta=...) must be in [0, 1), got {beta}")
        if variant not in ("full", "cyclic", "random"):
            raise InvalidInput(
                f"HeavyBall(variant=...) must be 'full', 'cyclic' or 'random', got {variant!r}"
            )
        super().__init__(params, {"lr": lr, "beta": beta, "taken": 0})
        self.variant, self.seed = variant, seed

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure's loss, that before the step, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        blocks = [(group, p) for group in self.param_groups for p in group["params"]]
        chosen = self._chosen(len(blocks))
        for index, (group, p) in enumerate(blocks):
            if p.grad is not None and chosen in (None, index):
                self._move(p, p.grad, group["lr"], group["beta"])
        # Counted in a group so that `state_dict` keeps it.
        self.param_groups[0]["taken"] += 1
        return loss

    @torch.no_grad()
    def lyapunov(self, loss: Tensor | float) -> float:
        """xi_k = f(x_k) + sum beta / (2 lr) |x_k - x_{k-1}|^2, from `loss` = f(x_k)."""
        kinetic = 0.0
        for group in self.param_groups:
            for p in group["params"]:
                if "displacement" in self.state[p]:
                    moved = float(self.state[p]["displacement"].double().square().sum())
                    kinetic += group["beta"] / (2.0 * group["lr"]) * moved
        return float(loss) + kinetic

    def _move(self, p: Tensor, gradient: Tensor, lr: float, beta: float) -> None:
        state = self.state[p]
        if "displacement" not in state:
            state["displacement"] = torch.zeros_like(p)
        displacement = state["displacement"].mul_(beta).sub_(gradient, alpha=lr)
        p.add_(displacement)

    def _chosen(self, blocks: int) -> int | None:
        """The block that moves, or None for all."""
        if self.variant == "full":
            return None
        step = self.param_groups[0]["taken"]
        if self.variant == "cyclic":
            return int(step % blocks)
        word = words((1, 1), seed=self.seed, purpose=Purpose.USER, chains=1, step=step)
        return int(word) * blocks >> 32
