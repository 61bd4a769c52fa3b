"""A transformer block repeated until it rests."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.core.results import FixedPoint
from driftwell.core.state import State, leaves
from driftwell.dynamics.laws import Map
from driftwell.fixed_points import Anderson, Gradient, Implicit, Solver, fixed_point
from driftwell.fixed_points.gradients.implicit import BAI_KOLTER_KOLTUN
from driftwell.nn.drawn_layers import drawn_linear


@final
class TransformerLayer(Map):
    """One post-norm transformer layer on the state z, into which the tokens x are injected.

        [q k v] = z W^T + x U^T,     a = softmax(q k^T / sqrt(d)) v   (per head of width d)
        h = LN(z + x + a W_o^T),     f(z, x) = LN(h + MLP(h)),     MLP: D -> 4 D -> D, GELU

    Its input is the dict ``{"tokens": x}``, with ``"mask"`` beside it if there are paddings.
    Other arguments are those of `DEQTransformerBlock`.

    Example:
        >>> layer = TransformerLayer(8, 2, draw=torch.Generator().manual_seed(0))
        >>> tokens = torch.ones(1, 3, 8)
        >>> layer(torch.zeros(1, 3, 8), {"tokens": tokens}).shape
        torch.Size([1, 3, 8])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        draw: torch.Generator,
        expansion: int = 4,
        causal: bool = False,
        gain: float = 0.3,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.W = drawn_linear(width, 3 * width, draw, gain=gain, bias=False, dtype=dtype)
        self.U = drawn_linear(width, 3 * width, draw, dtype=dtype)
        self.W_o = drawn_linear(width, width, draw, gain=gain, dtype=dtype)
        self.mlp = nn.Sequential(
            drawn_linear(width, expansion * width, draw, dtype=dtype),
            nn.GELU(),
            drawn_linear(expansion * width, width, draw, gain=gain, dtype=dtype),
        )
        self.norm_1 = nn.LayerNorm(width, dtype=dtype)
        self.norm_2 = nn.LayerNorm(width, dtype=dtype)

    def forward(self, z: State, x: Any = None) -> Tensor:
        """f(z, x), (B, T, D)."""
        return self.at(leaves(z)[0], x)

    def at(self, z: Tensor, x: dict[str, Tensor], index: Tensor | None = None) -> Tensor:
        """f(z, x) of the tokens number `index` (B, n) of each sequence only, as (B, n, D).

        What they attend to is the whole of z; only keys and values are computed for all tokens.

        Args:
            z: states, (B, T, D).
            x: the dict of tokens and, if there are paddings, their mask.
            index: which, (B, n); None: all, in order.
        """
        some, tokens = pick(z, index), pick(x["tokens"], index)
        h = self.norm_1(some + tokens + self.W_o(self._attention(z, x, index)))
        out: Tensor = self.norm_2(h + self.mlp(h))
        return out

    def _attention(self, z: Tensor, x: dict[str, Tensor], index: Tensor | None) -> Tensor:
        """a, (B, n, D): what each of the tokens takes from those it may see."""
        (batch, length, width), tokens = z.shape, x["tokens"]
        W_q, W_kv = self.W.weight.split([width, 2 * width])
        U_q, U_kv = self.U.weight.split([width, 2 * width])
        b_q, b_kv = self.U.bias.split([width, 2 * width])
        joint = z @ W_kv.T + functional.linear(tokens, U_kv, b_kv)
        k, v = joint.view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = pick(z, index) @ W_q.T + functional.linear(pick(tokens, index), U_q, b_q)
        q = q.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
        # Written out: torch's fused attention has no second derivative.
        scores = q @ k.mT / (width / self.heads) ** 0.5
        if self.causal:
            place = torch.arange(length, device=z.device)
            own = place.expand(batch, -1) if index is None else index
            scores = scores.masked_fill((place > own[..., None])[:, None], -torch.inf)
        if "mask" in x:
            scores = scores.masked_fill(~x["mask"][:, None, None, :], -torch.inf)
        mixed: Tensor = functional.softmax(scores, dim=-1) @ v
        return mixed.transpose(1, 2).reshape(batch, -1, width)


def pick(tokens: Tensor, index: Tensor | None) -> Tensor:
    """Tokens number `index` (B, n) of sequences (B, T, D), as (B, n, D); all if it is None."""
    if index is None:
        return tokens
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


@final
class DEQTransformerBlock(nn.Module):
    """Equilibrium of a weight-tied transformer, after Bai, Kolter and Koltun, *Deep Equilibrium
    Models*, 2019, arXiv:1909.01377.

    The output is where one layer (`TransformerLayer`: attention, then an MLP, each followed by a
    layer norm, the tokens injected) maps the sequence onto itself: z* = f(z*, x), the limit of
    infinitely many layers with the same weights. Memory in training is that of one layer.

    Besides the attention's projections, the tokens are added to the residual stream, which the
    paper does not do: with z alone the norms make f nearly the identity, and nothing draws the
    state anywhere. With it f contracts at the start weights; far from them, watch the residual.

    Args:
        width: D, entries of a token.
        heads: of the attention; divides `width`.
        expansion: hidden units of the MLP per entry.
        causal: whether a token sees only itself and what precedes it.
        gain: scale of the start weights that feed the state back.
        solver: of the fixed point.
        gradient: how derivatives pass through the solve.
        tol: relative tolerance of the solve, over a whole sequence.
        max_steps: evaluations of the layer that are allowed.
        seed: of the start weights.
        dtype: of the weights.

    Raises:
        InvalidInput: a size below 1, or heads that do not divide the width.

    Example:
        >>> block = DEQTransformerBlock(16, heads=2, causal=True, seed=0)
        >>> found = block(torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0)))
        >>> found.z.shape, bool((found.residual < 1e-4).all())
        (torch.Size([3, 5, 16]), True)
    """

    papers = (BAI_KOLTER_KOLTUN,)

    def __init__(
        self,
        width: int,
        heads: int = 4,
        *,
        expansion: int = 4,
        causal: bool = False,
        gain: float = 0.3,
        solver: Solver = Anderson(),
        gradient: Gradient = Implicit(tol=1e-5),
        tol: float = 1e-4,
        max_steps: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if min(width, heads, expansion) < 1 or width % heads:
            raise InvalidInput(
                "width, heads and expansion must be at least 1 and heads divide width, got "
                f"width={width}, heads={heads}, expansion={expansion}"
            )
        self.width = width
        self.solver, self.gradient, self.tol, self.max_steps = solver, gradient, tol, max_steps
        self.layer = TransformerLayer(
            width, heads, draw=torch.Generator().manual_seed(seed), expansion=expansion,
            causal=causal, gain=gain, dtype=dtype,
        )  # fmt: skip

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        z0: Tensor | None = None,
        throw: bool = False,
    ) -> FixedPoint:
        """Equilibria z* (B, T, D) of tokens (B, T, D), as the `FixedPoint` that holds them.

        Args:
            x: tokens, embedded and with their positions marked.
            mask: bool (B, T), False where a sequence is only padded; None: all are real.
            z0: start, such as the result for a similar input; zeros if None.
            throw: raise if a sequence does not come to rest; otherwise its status says so.

        Raises:
            InvalidInput: tokens of another width, or a mask of another shape or that hides all
                of a sequence.
        """
        if x.ndim != 3 or x.shape[2] != self.width:
            raise InvalidInput(f"tokens have the shape (B, T, {self.width}), got {tuple(x.shape)}")
        given = {"tokens": x}
        if mask is not None:
            given["mask"] = _checked(mask, x)
        return fixed_point(
            self.layer, torch.zeros_like(x).detach() if z0 is None else z0.detach(), given,
            solver=self.solver, gradient=self.gradient, tol=self.tol, max_steps=self.max_steps,
            throw=throw,
        )  # fmt: skip


def _checked(mask: Tensor, x: Tensor) -> Tensor:
    if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
        raise InvalidInput(
            f"mask must be bool of shape {tuple(x.shape[:2])}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}"
        )
    if not bool(mask.any(dim=1).all()):
        raise InvalidInput("mask hides every token of a sequence; leave at least one")
    return mask
