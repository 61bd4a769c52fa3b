"""Tokens that choose whether a block is worth its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.nn.drawn_layers import drawn_linear

ROUTING = Paper(
    key="ma2023dit",
    title="DiT: Efficient Vision Transformers with Dynamic Token Routing",
    authors="Ma, Yuchen and Fei, Zhengcong and Huang, Junshi",
    year=2023,
    arxiv="2308.03409",
)
# Below it the two gates count as closed: tokens pass as they are.
_CLOSED = 1e-6


@final
class AttentionBlock(nn.Module):
    """A pre-norm transformer block that can be asked for some of the tokens only.

        t + W_o a + MLP(LN(t + W_o a)),   a = softmax(q k^T / sqrt(d)) v,   [q k v] of LN(t)

    Keys and values are those of all tokens, so that a token that is skipped can still be seen.

    Args:
        width: D, entries of a token.
        heads: of the attention; divides `width`.
        draw: source of the start weights.
        expansion: hidden units of the MLP per entry.

    Raises:
        InvalidInput: heads that do not divide the width.

    Example:
        >>> block = AttentionBlock(8, 2, torch.Generator().manual_seed(0))
        >>> some = torch.tensor([[True, False, False, True, False]])
        >>> block(torch.zeros(1, 5, 8), some).shape
        torch.Size([2, 8])
    """

    def __init__(
        self, width: int, heads: int, draw: torch.Generator, *, expansion: int = 4
    ) -> None:
        super().__init__()
        if min(width, heads, expansion) < 1 or width % heads:
            raise InvalidInput(
                f"heads must be at least 1 and divide width, got width={width}, heads={heads}"
            )
        self.width, self.heads, self.expansion = width, heads, expansion
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.W_q, self.W_o = (drawn_linear(width, width, draw) for _ in range(2))
        self.W_kv = drawn_linear(width, 2 * width, draw)
        self.mlp = nn.Sequential(
            drawn_linear(width, expansion * width, draw),
            nn.GELU(),
            drawn_linear(expansion * width, width, draw, gain=0.5),
        )

    def forward(self, t: Tensor, some: Tensor | None = None) -> Tensor:
        """The block's value for tokens (B, T, D); with a mask `some`, bool (B, T), for those only.

        Returns:
            (B, T, D), or (n, D) for the n tokens of the mask, in their order.
        """
        normed = self.norm_1(t)
        if some is None:
            h = t + self.W_o(self._attend(self.W_q(normed), normed))
        else:
            h = t[some] + self.W_o(self._attend_some(normed, some))
        out: Tensor = h + self.mlp(self.norm_2(h))
        return out

    def _attend(self, q: Tensor, normed: Tensor) -> Tensor:
        """a, (B, n, D), of queries (B, n, D)."""
        batch, length, width = normed.shape
        k, v = self.W_kv(normed).view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = q.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
        a = functional.scaled_dot_product_attention(q, k, v)
        return a.transpose(1, 2).reshape(batch, -1, width)

    def _attend_some(self, normed: Tensor, some: Tensor) -> Tensor:
        """a, (n, D): within the attention alone, rows are padded to the fullest sample's."""
        place = some.cumsum(dim=1)[some] - 1
        sample = some.nonzero()[:, 0]
        q = self.W_q(normed[some])
        padded = q.new_zeros(len(normed), int(some.sum(dim=1).max()), normed.shape[2])
        padded = padded.index_put((sample, place), q)
        return self._attend(padded, normed)[sample, place]

    def flops(self, length: int, asked: Tensor) -> Tensor:
        """Multiplications for `asked` (B,) of `length` tokens, (B,): the keys cost in any case.

        Samples with fewer open tokens than the fullest pay for its attention too; not counted.
        """
        D = self.width
        each = 2 * D * D + 2 * length * D + 2 * self.expansion * D * D
        return 2 * length * D * D + asked * each


@final
@dataclass(frozen=True)
class Routed:
    """What a router did.

    Attributes:
        tokens: after the routed block, (B, T, D).
        open: which tokens took the block, bool (B, T).
        share: share of the tokens that did, over the batch, differentiable in the gates.

    Example:
        >>> Routed(torch.zeros(1, 2, 4), torch.tensor([[True, False]]), torch.tensor(0.5)).share
        tensor(0.5000)
    """

    tokens: Tensor
    open: Tensor
    share: Tensor


@final
class TokenRouter(nn.Module):
    """Dynamic token routing, from Ma, Fei and Huang, *DiT: Efficient Vision Transformers with
    Dynamic Token Routing*, 2023, arXiv:2308.03409: each token takes a block, is passed on, or both.

        (g_b, g_i) = max(0, tanh(W t + b)),     t' = (g_b Block(t) + g_i t) / (g_b + g_i)

    and t' = t where both gates are closed. A token with g_b = 0 needs no evaluation of the block:
    with ``sparse=True`` only the others are gathered, evaluated and scattered back, with the same
    result. Gates start open, b = 1.5, as a closed one has no slope; what `budget_loss` is told,
    the share of open gates, passes a slope through closed ones too (straight through a sigmoid).

    Args:
        block: called block(t) and block(t, some) with a mask, such as `AttentionBlock`.
        width: D, entries of a token.
        draw: source of the gates' start weights.
        bias: start of b.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> router = TokenRouter(AttentionBlock(8, 2, draw), 8, draw)
        >>> routed = router(torch.ones(2, 5, 8), sparse=True)
        >>> routed.tokens.shape, routed.open.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 5]))
    """

    papers = (ROUTING,)

    def __init__(
        self, block: nn.Module, width: int, draw: torch.Generator, *, bias: float = 1.5
    ) -> None:
        super().__init__()
        self.block = block
        self.gates = drawn_linear(width, 2, draw, gain=0.5)
        with torch.no_grad():
            self.gates.bias.fill_(bias)

    def forward(self, t: Tensor, *, sparse: bool = False) -> Routed:
        """Route tokens (B, T, D).

        Args:
            t: tokens.
            sparse: evaluate the block for open gates only; otherwise for all tokens, as training
                in large batches wants it. The results agree to rounding.
        """
        logits = self.gates(t)
        g = functional.relu(torch.tanh(logits))
        open_ = g[..., 0] > 0
        value = self._some(t, open_) if sparse else self.block(t)
        total = g.sum(dim=2, keepdim=True)
        mixed = (g[..., :1] * value + g[..., 1:] * t) / total.clamp_min(_CLOSED)
        tokens = torch.where(total > _CLOSED, mixed, t)
        soft = torch.sigmoid(logits[..., 0])
        share = (open_.to(t.dtype) + soft - soft.detach()).mean()
        return Routed(tokens, open_, share)

    def _some(self, t: Tensor, open_: Tensor) -> Tensor:
        """The block where gates are open, t elsewhere."""
        if not bool(open_.any()):
            return t
        rows = open_.flatten().nonzero()[:, 0]
        return t.flatten(0, 1).index_copy(0, rows, self.block(t, open_)).view_as(t)


def budget_loss(routed: Sequence[Routed], budget: float) -> Tensor:
    """(mean share of open gates - budget)^2 over the routers of a network.

    Args:
        routed: what each router did, blocks of equal cost.
        budget: share of the blocks' cost per token that is to be spent, in (0, 1].

    Raises:
        InvalidInput: no router, or a budget outside (0, 1].

    Example:
        >>> done = Routed(torch.zeros(1, 2, 4), torch.tensor([[True, False]]), torch.tensor(0.5))
        >>> budget_loss([done], 0.75)
        tensor(0.0625)
    """
    if not routed or not 0.0 < budget <= 1.0:
        raise InvalidInput(
            f"budget_loss needs at least one router and a budget in (0, 1], got {len(routed)} "
            f"and {budget}"
        )
    return (torch.stack([each.share for each in routed]).mean() - budget).square()
