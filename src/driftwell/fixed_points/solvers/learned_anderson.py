"""Anderson acceleration whose mixing weights a small network predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform
from driftwell.core.papers import Paper
from driftwell.fixed_points.solvers.anderson import Anderson, History
from driftwell.fixed_points.solvers.solver import Solver

if TYPE_CHECKING:
    from driftwell.fixed_points.iteration import RunningMap

IGNN_SOLVER = Paper(
    key="lin2024ignnsolver",
    title="IGNN-Solver: A Graph Neural Solver for Implicit Graph Neural Networks",
    authors="Lin, Junchao and Ling, Zenan and Feng, Zhanbo and Xu, Jingwen and Liao, Minxuan and "
    "Zhou, Feng and Hou, Tianqi and Liao, Zhenyu and Qiu, Robert C.",
    year=2024,
    arxiv="2410.08524",
)
# log of the largest ratio of residual norms that the network is shown
_RANGE = 8.0


class Window(NamedTuple):
    """What the learned solver carries: the last m entries, oldest first, and whom it still serves.

    `values` and `residuals` are f(z) and r = f(z) - z, (B, D) each; `seen` are projections
    (B, R, e) of the rows of r; `sizes` are |r|, (B,). Samples that are not `trusted` (B,) belong
    to Anderson for good, and `history` is what that one carries.
    """

    values: tuple[Tensor, ...]
    residuals: tuple[Tensor, ...]
    seen: tuple[Tensor, ...]
    sizes: tuple[Tensor, ...]
    trusted: Tensor
    history: History | None


@final
class LearnedAnderson(Solver, nn.Module):
    """Learned Anderson acceleration with a safeguard, after Lin et al., *IGNN-Solver: A Graph
    Neural Solver for Implicit Graph Neural Networks*, 2024, arXiv:2410.08524.

    A flat state (D,) is a table of rows of width `dim` (the nodes of a graph). With n <= memory
    kept pairs and r_i = f(z_i) - z_i, row by row:

        h     = silu(U [P r_1, ..., P r_n] / s + C log(|r_i| / |r_n|) + b),   s = rms of r_n
        raw   = (0, ..., 0, 1) + V h
        alpha = raw + (1 - sum raw) / n                      (so that sum alpha = 1)
        z    <- sum_i alpha_i (f(z_i) - (1 - beta) r_i),     beta = 1 + tanh(<v, log ratios>) / 2

    No least-squares problem is solved. Everything the network sees is in units of the last
    residual, so it does not depend on the state's units; the paper's embedding of the residual
    is an MLP, here it is linear for that reason. An untrained solver is Picard iteration.

    Nothing guarantees that a learned step helps: a sample whose residual does not fall below
    `trust` times the one before is handed over, for good and with its history, to `Anderson`.

    Args:
        dim: width of a row; divides the size of the state.
        memory: pairs kept, at least 2.
        embed: numbers kept of each row's residual.
        hidden: width of the network.
        trust: in (0, 1]; 1 hands over when a residual grows. Infinity never does.
        damped: learn beta; otherwise beta = 1, at half the cost of mixing.
        fallback: who takes over.
        seed: of the keyed start weights.

    Raises:
        InvalidInput: a setting outside its range, or a state that is no table of such rows.

    Example:
        >>> import driftwell as dw
        >>> solver = LearnedAnderson(dim=1)
        >>> print(f"{dw.fixed_point(torch.cos, torch.zeros(1, 1), solver=solver).z.item():.3f}")
        0.739
    """

    papers = (IGNN_SOLVER,)

    def __init__(
        self,
        dim: int,
        memory: int = 6,
        *,
        embed: int = 16,
        hidden: int = 16,
        trust: float = 0.9,
        damped: bool = True,
        fallback: Anderson = Anderson(),
        seed: int = 0,
    ) -> None:
        nn.Module.__init__(self)
        if dim < 1 or memory < 2 or embed < 1 or hidden < 1:
            raise InvalidInput(
                "LearnedAnderson needs dim, embed, hidden >= 1 and memory >= 2, got "
                f"{dim}, {embed}, {hidden}, {memory}"
            )
        if not trust > 0.0:
            raise InvalidInput(f"LearnedAnderson(trust=...) must be positive, got {trust}")
        self.dim, self.memory, self.embed, self.hidden = dim, memory, embed, hidden
        self.trust, self.damped, self.fallback = trust, damped, fallback
        self.P = drawn(dim, embed, seed, 0)
        self.U = drawn(memory * embed, hidden, seed, 1)
        self.C = drawn(memory, hidden, seed, 2)
        self.b = nn.Parameter(torch.zeros(hidden))
        self.V = nn.Parameter(torch.zeros(hidden, memory))
        self.v = nn.Parameter(torch.zeros(memory), requires_grad=damped)

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return (
            f"dim={self.dim}, memory={self.memory}, embed={self.embed}, hidden={self.hidden}, "
            f"trust={self.trust}, damped={self.damped}"
        )

    def init(self, z: Tensor) -> Window:
        """Empty window for the start `z` (B, D)."""
        if z.shape[1] % self.dim:
            raise InvalidInput(
                f"LearnedAnderson(dim={self.dim}) serves states that are rows of that width, "
                f"got {z.shape[1]} numbers a sample"
            )
        everyone = torch.ones(z.shape[0], dtype=torch.bool, device=z.device)
        history = None if _readable(z) else self.fallback.init(z)
        return Window((), (), (), (), everyone, history)

    def step(self, z: Tensor, fz: Tensor, carry: Window, f: RunningMap) -> tuple[Tensor, Window]:
        """Next iterate (B, D) and window."""
        readable = _readable(z)
        if carry.history is not None and readable and not bool(carry.trusted.any()):
            classical, history = self.fallback.step(z, fz, carry.history, f)
            return classical, carry._replace(history=history)
        before = carry.history
        learned, window = self.propose(z, fz, carry)
        if before is None and (not readable or bool(window.trusted.all())):
            return learned, window
        if before is None:
            before = self._replayed(carry, f)
        classical, history = self.fallback.step(z, fz, before, f)
        after = torch.where(window.trusted[:, None], learned, classical)
        return after, window._replace(history=history)

    def propose(self, z: Tensor, fz: Tensor, carry: Window) -> tuple[Tensor, Window]:
        """The learned step without its safeguard, which is what is trained."""
        window = self._pushed(z, fz, carry)
        return self._mixed(window), window

    def select(self, carry: Window, rows: Tensor) -> Window:
        """Window of the samples `rows` only."""

        def kept(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(part[rows] for part in parts)

        history = carry.history
        return Window(
            values=kept(carry.values),
            residuals=kept(carry.residuals),
            seen=kept(carry.seen),
            sizes=kept(carry.sizes),
            trusted=carry.trusted[rows],
            history=None if history is None else self.fallback.select(history, rows),
        )

    def _pushed(self, z: Tensor, fz: Tensor, carry: Window) -> Window:
        """The window with the newest entry at its end."""
        r = fz - z
        size = torch.linalg.vector_norm(r, dim=1)
        seen = r.reshape(len(r), -1, self.dim) @ self.P.to(r.dtype)
        trusted = carry.trusted
        if carry.sizes:
            # a sample that is finished is shown the same again, which is no failure
            same = (fz == carry.values[-1]).all(dim=1) if len(fz) > 1 else False
            trusted = trusted & (same | (size <= self.trust * carry.sizes[-1]))
        m = self.memory
        return Window(
            (*carry.values, fz)[-m:],
            (*carry.residuals, r)[-m:],
            (*carry.seen, seen)[-m:],
            (*carry.sizes, size)[-m:],
            trusted,
            carry.history,
        )

    def _mixed(self, window: Window) -> Tensor:
        """Sum of alpha_i (f(z_i) - (1 - beta) r_i) over the window, (B, D)."""
        alpha, beta = self.weights(window)
        mixed = _combined(alpha, window.values, self.dim)
        if not self.damped:
            return mixed
        return mixed - (1.0 - beta)[:, None] * _combined(alpha, window.residuals, self.dim)

    def weights(self, window: Window) -> tuple[Tensor, Tensor]:
        """Mixing weights alpha (B, R, n), which sum to 1 over n, and beta (B,)."""
        n, dtype = len(window.seen), window.values[-1].dtype
        tiny = torch.finfo(dtype).tiny ** 0.5
        sizes = torch.stack(window.sizes, dim=1) + tiny
        ratios = (sizes / sizes[:, -1:]).log().clamp(-_RANGE, _RANGE)
        rows = window.values[-1].shape[1] ** 0.5
        # entries that are not there yet are the first rows of U and C
        U, C = self.U.to(dtype)[-n * self.embed :], self.C.to(dtype)[-n:]
        context = ratios @ C + self.b.to(dtype)
        seen = torch.cat(window.seen, dim=2) @ U * (rows / sizes[:, -1])[:, None, None]
        h = nn.functional.silu(seen + context[:, None, :])
        raw = h @ self.V.to(dtype)[:, -n:]
        # (0, ..., 0, 1) already sums to 1: only what was added to it is centred
        alpha = raw - raw.mean(dim=2, keepdim=True)
        newest = torch.arange(n, device=alpha.device) == n - 1
        beta = 1.0 + 0.5 * torch.tanh(ratios @ self.v.to(dtype)[-n:])
        return alpha + newest.to(dtype), beta

    def _replayed(self, window: Window, f: RunningMap) -> History:
        """What Anderson would carry, had it been there for the entries of `window`."""
        history = self.fallback.init(window.values[-1])
        for value, residual in zip(window.values, window.residuals, strict=True):
            _, history = self.fallback.step(value - residual, value, history, f)
        return history


def _combined(alpha: Tensor, parts: tuple[Tensor, ...], dim: int) -> Tensor:
    """Row by row, the sum of alpha_i parts_i, (B, D)."""
    rows = [part.reshape(len(part), -1, dim) for part in parts]
    total = alpha[:, :, :1] * rows[0]
    for i in range(1, len(rows)):
        total = torch.addcmul(total, alpha[:, :, i : i + 1], rows[i])
    return total.reshape(parts[0].shape)


def _readable(z: Tensor) -> bool:
    """Whether Python may look at numbers: not where torch compiles or batches the step."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(z)
    return not (torch.compiler.is_compiling() or wrapped)


def drawn(rows: int, columns: int, seed: int, step: int) -> nn.Parameter:
    """Start weights U(-1, 1) / sqrt(rows), keyed by seed and step."""
    u = uniform((rows, columns), seed=seed, purpose=Purpose.PARAMETERS, chains=rows, step=step)
    return nn.Parameter((2.0 * u - 1.0) / rows**0.5)
