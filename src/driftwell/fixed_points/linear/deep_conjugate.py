"""Conjugate directions guessed by a network, and its training from Ritz vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper
from driftwell.fixed_points.linear.solver import Correction, LinearSolver, Operator

KANEDA_DCDM = Paper(
    key="kaneda2023dcdm",
    title="A Deep Conjugate Direction Method for Iteratively Solving Linear Systems",
    authors="Kaneda, Ayano and Akar, Osman and Chen, Jingyu and Kala, Victoria Alicia Trevino and "
    "Hyde, David and Teran, Joseph",
    year=2023,
    arxiv="2205.10763",
    venue="ICML 2023",
)


class _Direction(NamedTuple):
    """A past direction p (B, D), A p, and p^T A p (B,)."""

    p: Tensor
    Ap: Tensor
    curvature: Tensor


@final
class DeepConjugateDirection(nn.Module, LinearSolver):
    """Deep conjugate direction method, from Kaneda et al., *A deep conjugate direction method for
    iteratively solving linear systems*, 2023, arXiv:2205.10763, for a symmetric positive A.

    Conjugate gradients whose direction is a network's guess of A^-1 r, up to scale:

        q = net(r / |r|),  d = q - sum over the last two p of p (q^T A p) / (p^T A p)
        a = d^T r / d^T A d,  z <- z + a d,  r <- r - a A d

    Whatever the network says, the energy norm of the error never grows, because each step is an
    exact line search; where q has no curvature the residual itself takes its place. The network
    works in its own precision, everything else in that of r.

    Args:
        net: (B, D) -> (B, D), residuals of length 1 to directions, such as `PyramidNet`.

    Example:
        >>> from driftwell.fixed_points.linear import solve_linear
        >>> a = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> dcdm = DeepConjugateDirection(torch.nn.Identity())  # then it is conjugate gradients
        >>> solve_linear(lambda y: y @ a, torch.tensor([[3.0, 3.0]]), solver=dcdm).z
        tensor([[1.0000, 1.0000]])
    """

    papers = (KANEDA_DCDM,)

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def cycle(self, A: Operator, r: Tensor, target: Tensor, budget: int) -> Correction:
        """Steps until every sample's recursion is below its target or the budget is spent."""
        z, past = torch.zeros_like(r), list[_Direction]()
        running = torch.linalg.vector_norm(r, dim=1) > target
        broke_down = torch.zeros_like(running)
        steps = torch.zeros(len(r), dtype=torch.int64, device=r.device)
        used = 0
        while used < budget and bool(running.any()):
            step, spent = self._direction(A, r, past, running)
            used, steps = used + spent, steps + spent * running
            broke_down = broke_down | (running & ~(step.curvature > 0))
            running = running & ~broke_down
            a = _dot(step.p, r) / torch.where(step.curvature > 0, step.curvature, 1.0)
            a = torch.where(running, a, 0.0)[:, None]
            z = torch.where(running[:, None], z + a * step.p, z)
            r = torch.where(running[:, None], r - a * step.Ap, r)
            past = [*past[-1:], step]
            running = running & (torch.linalg.vector_norm(r, dim=1) > target)
        return Correction(z, steps, broke_down)

    def _direction(
        self, A: Operator, r: Tensor, past: list[_Direction], running: Tensor
    ) -> tuple[_Direction, int]:
        """The next direction, and the products with A it took: a second one for the residual."""
        q = _unit(self._guess(r))
        found = _measured(A, _unit(_conjugated(q, past)))
        tiny = 10 * torch.finfo(r.dtype).eps * torch.linalg.vector_norm(found.Ap, dim=1)
        bad = running & ~(found.curvature > tiny)
        if not bool(bad.any()):
            return found, 1
        p = torch.where(bad[:, None], _unit(_conjugated(_unit(r), past)), found.p)
        return _measured(A, p), 2

    def _guess(self, r: Tensor) -> Tensor:
        dtype = next((p.dtype for p in self.net.parameters()), r.dtype)
        guess: Tensor = self.net(_unit(r).to(dtype)).to(r.dtype)
        return torch.where(torch.isfinite(guess).all(dim=1, keepdim=True), guess, r)


@final
class PyramidNet(nn.Module):
    """Convolutional guess of A^-1 r on a square grid, after Kaneda et al., 2023: a linear first
    layer, residual 3x3 convolutions, and the same again on a grid of half the size, added.

    Args:
        side: points of a side; D = side^2, divisible by 2^(levels - 1).
        channels: of every hidden layer.
        levels: grids, at least 1; the paper has two.
        blocks: residual blocks on each grid.
        generator: of the start weights; None for torch's own.

    Raises:
        InvalidInput: a side that cannot be halved as often.

    Example:
        >>> PyramidNet(8, channels=4)(torch.ones(2, 64)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        side: int,
        channels: int = 16,
        levels: int = 3,
        blocks: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if levels < 1 or side < 1 or side % 2 ** (levels - 1):
            raise InvalidInput(
                f"a pyramid of {levels} levels needs a side divisible by {2 ** max(levels - 1, 0)},"
                f" got {side}"
            )
        self.side, self.levels = side, levels
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.down = nn.ModuleList(_blocks(channels, blocks) for _ in range(levels))
        self.up = nn.ModuleList(_blocks(channels, blocks) for _ in range(levels - 1))
        self.last = nn.Conv2d(channels, 1, 3, padding=1)
        for p in self.parameters():
            fan_in = max(p[0].numel(), 1)
            if p.ndim > 1:
                nn.init.normal_(p, std=(1.0 / fan_in) ** 0.5, generator=generator)
            else:
                nn.init.zeros_(p)

    def forward(self, r: Tensor) -> Tensor:
        """Directions (B, D) of unit residuals `r` (B, D)."""
        # Entries of a unit vector are small: they are brought to order one.
        h = self.first(self.side * r.reshape(-1, 1, self.side, self.side))
        fine: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            h = blocks(h)
            if level < self.levels - 1:
                fine.append(h)
                h = avg_pool2d(h, 2)
        for blocks, kept in zip(self.up, reversed(fine), strict=True):
            h = blocks(kept + interpolate(h, scale_factor=2, mode="bilinear"))
        directions: Tensor = self.last(h).flatten(1)
        return directions


class _Residual(nn.Module):
    """h + C relu(C h)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        after: Tensor = h + 0.5 * self.b(relu(self.a(h)))
        return after


def ritz_vectors(A: Operator, start: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Ritz values (m,), ascending, and vectors (m, D) of a symmetric A, by Lanczos' method with
    full re-orthogonalisation, *An iteration method for the solution of the eigenvalue problem*,
    1950; m is `count`, or less where the Krylov space closes.

    Args:
        A: symmetric operator on rows.
        start: (1, D), float64 for a good basis.
        count: vectors, at least 1.

    Raises:
        InvalidInput: count below 1, a zero start, or one that is not a single row.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        >>> ritz_vectors(lambda y: y @ A, torch.ones(1, 3, dtype=torch.float64), 3)[0]
        tensor([1.0000, 2.0000, 3.0000], dtype=torch.float64)
    """
    if count < 1 or start.ndim != 2 or len(start) != 1 or not bool(start.any()):
        raise InvalidInput("Ritz vectors need a count of at least 1 and a start (1, D), not zero")
    basis = _unit(start)
    for _ in range(min(count, start.shape[1]) - 1):
        w = A(basis[-1:])
        size = torch.linalg.vector_norm(w)
        for _ in range(2):
            w = w - (w @ basis.T) @ basis
        if float(torch.linalg.vector_norm(w)) <= 1e-10 * float(size):
            break
        basis = torch.cat([basis, _unit(w)])
    values, mixing = torch.linalg.eigh(basis @ A(basis).T)
    return values, mixing.T @ basis


def train_directions(
    net: nn.Module,
    A: Operator,
    values: Tensor,
    vectors: Tensor,
    *,
    updates: int = 1000,
    batch: int = 32,
    lr: float = 1e-3,
    seed: int = 0,
    emphasis: float = 9.0,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train a network to guess A^-1 b, up to scale, without labels, as Kaneda et al., 2023, do.

        b = sum_i c_i v_i / |.|,   c_i ~ N(0, 1), times `emphasis` for the lower half of A
        loss = |b - A q (q^T b) / (q^T A q)|^2,   q = net(b)

    Adam, with a learning rate that falls to zero along half a cosine.

    Args:
        net: (B, D) -> (B, D), trained in place.
        A: symmetric positive operator on rows of the net's dtype.
        values: Ritz values (m,); those below 1e-8 of the largest are left out.
        vectors: Ritz vectors (m, D).
        updates: of Adam.
        batch: right-hand sides in each.
        lr: at the start.
        seed: of the keyed right-hand sides.
        emphasis: weight of the lower half of the spectrum.
        progress: called with the number of the update and the loss.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> train_directions(net, lambda y: y, torch.ones(2), torch.eye(2), updates=2)
    """
    dtype = next(net.parameters()).dtype
    regular = values > 1e-8 * values.max()
    values, vectors = values[regular], vectors[regular].to(dtype)
    weight = torch.where(values < values.median(), emphasis, 1.0).to(dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(updates, 1))
    for k in range(updates):
        c = normal(
            (batch, len(values)), seed=seed, purpose=Purpose.DATA, chains=batch, step=k,
            dtype=dtype, device=vectors.device,
        )  # fmt: skip
        b = _unit((c * weight) @ vectors)
        q = _unit(net(b))
        Aq = A(q)
        left = b - Aq * (_dot(q, b) / _dot(q, Aq).clamp_min(1e-30))[:, None]
        loss = left.square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(k, float(loss.detach()))


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(channels) for _ in range(count)))


def _conjugated(q: Tensor, past: list[_Direction]) -> Tensor:
    """q made A-orthogonal to the past directions, twice because once leaves rounding."""
    for _ in range(2):
        for each in past:
            share = torch.where(each.curvature > 0, _dot(q, each.Ap) / each.curvature, 0.0)
            q = q - share[:, None] * each.p
    return q


def _measured(A: Operator, p: Tensor) -> _Direction:
    Ap = A(p)
    return _Direction(p, Ap, _dot(p, Ap))


def _unit(v: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return v / torch.where(size > 0, size, 1.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1)
