"""Consistency equilibrium model: a student that jumps from any iterate to the fixed point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper
from driftwell.dynamics.laws import Map, call
from driftwell.fixed_points import Anderson, Solver

if TYPE_CHECKING:
    from driftwell.fixed_points.iteration import RunningMap

CDEQ = Paper(
    key="lin2026cdeq",
    title="Consistency Deep Equilibrium Models",
    authors="Lin, Junchao and Ling, Zenan and Xu, Jingwen and Qiu, Robert C.",
    year=2026,
    arxiv="2602.03024",
)
# The stamps are even in t^(1/7): most of them lie where z is still far from z*.
_CURVATURE = 7.0


@final
class ConsistencyDEQ(nn.Module):
    """Consistency deep equilibrium model, C-DEQ, from Lin, Ling, Xu and Qiu, *Consistency Deep
    Equilibrium Models*, 2026, arXiv:2602.03024.

    The iterates of a solver are taken as one trajectory that ends at z* at time T; the student
    jumps from any of its points to the end. With the teacher's layer f, frozen:

        F(z, t) = (t/T) z + (1 - t/T) g(f(z), t),     g = MLP: D+1 -> width D -> D, ReLU
        t_j = (eps^(1/7) + (j/K) (T^(1/7) - eps^(1/7)))^7,     j = 0 .. K

    so that F(z, T) = z exactly. A jump costs one evaluation of f. `Distillation` trains the
    student; `ConsistencyJumps` makes a solver of it.

    Args:
        teacher: f, called f(z) or f(z, x) on states (B, D).
        dim: D, all entries of a state.
        T: time of the fixed point.
        eps: time of the start, in (0, T).
        width: hidden units per state dimension.
        seed: of the keyed start weights.

    Raises:
        InvalidInput: dim or width below 1, or not 0 < eps < T.

    Example:
        >>> student = ConsistencyDEQ(torch.cos, dim=3)
        >>> z = torch.tensor([[0.1, 0.2, 0.3]])
        >>> torch.equal(student(z, torch.tensor(5.0)), z)
        True
    """

    papers = (CDEQ,)

    def __init__(
        self,
        teacher: Map | Callable[..., Tensor],
        dim: int,
        *,
        T: float = 5.0,
        eps: float = 0.002,
        width: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if dim < 1 or width < 1:
            raise InvalidInput(f"dim and width must be at least 1, got {dim} and {width}")
        if not 0.0 < eps < T < float("inf"):
            raise InvalidInput(f"times must satisfy 0 < eps < T, got eps={eps} and T={T}")
        self.teacher, self.dim, self.T, self.eps = teacher, dim, T, eps
        self.g = nn.Sequential(
            _linear(dim + 1, width * dim, seed, 0), nn.ReLU(), _linear(width * dim, dim, seed, 1)
        )

    def times(self, steps: int) -> Tensor:
        """Stamps t_0 = eps .. t_K = T for K = `steps`, (K+1,), float64."""
        first, last = self.eps ** (1 / _CURVATURE), self.T ** (1 / _CURVATURE)
        t = torch.linspace(first, last, steps + 1, dtype=torch.float64) ** _CURVATURE
        t[-1] = self.T  # to the last bit: the boundary condition is exact
        return t

    def jump(self, z: Tensor, fz: Tensor, t: Tensor, g: nn.Module | None = None) -> Tensor:
        """F(z, t), (..., D), where f(z) is at hand.

        Args:
            z: states (..., D).
            fz: f(z).
            t: times, broadcast over (...).
            g: another network in place of the student's own, such as its running average.
        """
        stamp = t.to(z).expand(z.shape[:-1])[..., None]
        share = stamp / self.T
        network = g or self.g
        weights = next(network.parameters())
        proposal = network(torch.cat([fz, stamp], dim=-1).to(weights.dtype)).to(z.dtype)
        jumped: Tensor = share * z + (1.0 - share) * proposal
        return jumped

    def forward(self, z: Tensor, t: Tensor, x: Any = None) -> Tensor:
        """F(z, t), (B, D); `t` is a scalar or (B,)."""
        return self.jump(z, call(self.teacher, z, x=x), t)


class JumpCarry(NamedTuple):
    """Jumps made so far, (B,), and what the solver that follows carries."""

    made: Tensor
    then: Any


@final
@dataclass(frozen=True, eq=False)
class ConsistencyJumps(Solver):
    """Few-step inference of a consistency student, from Lin et al., *Consistency Deep Equilibrium
    Models*, 2026, arXiv:2602.03024, as a solver: `jumps` jumps, then another solver refines.

        z_{j+1} = F(z_j, t_j),   t_j = the stamp j of `jumps`,   j = 0 .. jumps - 1

    The verb judges every iterate by its residual and keeps the best, so a jump that leads away
    from z* is not what is returned; and as f itself refines, the tolerance is honest. A step reads
    how many jumps were made, so that it runs in Python's loops and not in a `WhileLoop`.

    Args:
        student: the trained model; its own teacher is not called, but the solve's f.
        jumps: at least 1.
        then: solver for the steps after the jumps, starting where the last one ended.

    Raises:
        InvalidInput: jumps below 1, or a state of another dimension than the student's.

    Example:
        >>> import driftwell as dw
        >>> solver = ConsistencyJumps(ConsistencyDEQ(torch.cos, dim=1))
        >>> dw.fixed_point(torch.cos, torch.zeros(1, 1), solver=solver).z
        tensor([[0.739...]])
    """

    papers = (CDEQ,)

    student: ConsistencyDEQ
    jumps: int = 1
    then: Solver = Anderson()

    def __post_init__(self) -> None:
        if self.jumps < 1:
            raise InvalidInput(f"ConsistencyJumps(jumps=...) must be at least 1, got {self.jumps}")

    def init(self, z: Tensor) -> JumpCarry:
        """No jump made; the next solver's own start."""
        if z.shape[1] != self.student.dim:
            raise InvalidInput(
                f"the student was made for states of {self.student.dim} entries, got {z.shape[1]}"
            )
        return JumpCarry(
            torch.zeros(z.shape[0], dtype=torch.int64, device=z.device), self.then.init(z)
        )

    def step(
        self, z: Tensor, fz: Tensor, carry: JumpCarry, f: RunningMap
    ) -> tuple[Tensor, JumpCarry]:
        """A jump, or a step of the next solver."""
        # All samples jump together: one number, read once, decides which rule is run.
        made = int(carry.made.max())
        if made >= self.jumps:
            after, then = self.then.step(z, fz, carry.then, f)
            return after, JumpCarry(carry.made, then)
        t = self.student.times(self.jumps)[made].to(z.device)
        with torch.no_grad():
            after = self.student.jump(z, fz, t).to(z.dtype)
        return after, JumpCarry(carry.made + 1, carry.then)

    def select(self, carry: JumpCarry, rows: Tensor) -> JumpCarry:
        """Carry of the samples `rows` only."""
        return JumpCarry(carry.made[rows], self.then.select(carry.then, rows))


def _linear(inputs: int, outputs: int, seed: int, leaf: int) -> nn.Linear:
    """A layer with keyed weights N(0, 2 / inputs), as a rectifier wants them, and no offset."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    noise = normal(
        (outputs, inputs), seed=seed, purpose=Purpose.INIT, chains=outputs, step=0, leaf=leaf
    )
    with torch.no_grad():
        layer.weight.copy_(math.sqrt(2.0 / inputs) * noise)
        layer.bias.zero_()
    return layer
