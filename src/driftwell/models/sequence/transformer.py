"""A small transformer that reads characters: every product is a linear layer of its own."""

from __future__ import annotations

from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.nn.drawn_layers import drawn_linear

TRANSFORMER = Paper(
    "vaswani2017attention",
    "Attention Is All You Need",
    "Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and "
    "Gomez, Aidan N. and Kaiser, Lukasz and Polosukhin, Illia",
    2017,
    arxiv="1706.03762",
)


@final
class SelfAttention(nn.Module):
    """Causal self-attention of several heads.

        out = softmax(q k^T / sqrt(d) + mask) v,    q, k, v linear in x, d = width / heads

    Args:
        width: features of a token.
        heads: they divide the width.
        draw: source of the start weights.
        rotary: turns queries and keys (B, H, T, d) by their positions, or None.

    Raises:
        InvalidInput: heads that do not divide the width.

    Example:
        >>> layer = SelfAttention(8, 2, draw=torch.Generator().manual_seed(0))
        >>> layer(torch.zeros(1, 3, 8)).shape
        torch.Size([1, 3, 8])
    """

    papers = (TRANSFORMER,)

    def __init__(
        self, width: int, heads: int, *, draw: torch.Generator, rotary: nn.Module | None = None
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InvalidInput(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.query = drawn_linear(width, width, draw)
        self.key = drawn_linear(width, width, draw)
        self.value = drawn_linear(width, width, draw)
        self.output = drawn_linear(width, width, draw, gain=0.5)
        self.rotary = rotary

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T, width) -> what they attend to, (B, T, width)."""
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out

    def split(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, H, T, d)."""
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


@final
class TransformerBlock(nn.Module):
    """Attention and a two-layer network, each on normalised tokens and added to them.

        x <- x + attention(norm(x));    x <- x + down(gelu(up(norm(x))))

    Args:
        width: features of a token.
        heads: of attention.
        draw: source of the start weights.
        expansion: width of the hidden layer over that of a token.
        rotary: see `SelfAttention`.

    Example:
        >>> block = TransformerBlock(8, 2, draw=torch.Generator().manual_seed(0))
        >>> block(torch.zeros(1, 3, 8)).shape
        torch.Size([1, 3, 8])
    """

    papers = (TRANSFORMER,)

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        draw: torch.Generator,
        expansion: int = 4,
        rotary: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, draw=draw, rotary=rotary)
        self.norm_network = nn.LayerNorm(width)
        self.up = drawn_linear(width, expansion * width, draw)
        self.down = drawn_linear(expansion * width, width, draw, gain=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T, width) -> tokens."""
        x = x + self.attention(self.norm_attention(x))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm_network(x))))
        return out


@final
class CharacterTransformer(nn.Module):
    """A causal transformer over characters, from Vaswani et al., *Attention Is All You Need*,
    2017, arXiv:1706.03762, with normalisation before each part.

    Args:
        vocabulary: number of characters.
        width: features of a token.
        depth: blocks.
        heads: of attention.
        context: longest window with learned positions.
        positions: "learned", or "none" where `rotary` or nothing says the order.
        rotary: turns queries and keys by their positions, shared by all blocks.
        seed: of the start weights.

    Raises:
        InvalidInput: sizes that cannot be; in `forward`, a window longer than the context.

    Example:
        >>> model = CharacterTransformer(30, width=16, depth=1, heads=2, context=8)
        >>> model(torch.zeros(2, 8, dtype=torch.int64)).shape
        torch.Size([2, 8, 30])
    """

    papers = (TRANSFORMER,)

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 128,
        depth: int = 3,
        heads: int = 4,
        context: int = 64,
        positions: Literal["learned", "none"] = "learned",
        rotary: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(vocabulary, width, depth, context) < 1:
            raise InvalidInput("vocabulary, width, depth and context are at least 1")
        if positions not in ("learned", "none"):
            raise InvalidInput(f"positions are 'learned' or 'none', not {positions!r}")
        draw = torch.Generator().manual_seed(seed)
        self.context = context
        self.embedding = _drawn_embedding(vocabulary, width, draw)
        learned = positions == "learned"
        self.position = _drawn_embedding(context, width, draw) if learned else None
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, draw=draw, rotary=rotary) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = drawn_linear(width, vocabulary, draw)

    def forward(self, tokens: Tensor) -> Tensor:
        """Characters (B, T) int64 -> logits of the next ones, (B, T, vocabulary)."""
        x = self.embedding(tokens)
        if self.position is not None:
            length = tokens.shape[1]
            if length > self.context:
                raise InvalidInput(f"a window of {length} is longer than {self.context}")
            x = x + self.position.weight[:length]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def next_character_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log p(next character), in nats.

    Example:
        >>> next_character_loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64))
        tensor(1.3863)
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _drawn_embedding(count: int, width: int, draw: torch.Generator) -> nn.Embedding:
    layer: nn.Embedding = nn.utils.skip_init(nn.Embedding, count, width)
    with torch.no_grad():
        layer.weight.copy_(0.1 * torch.randn(count, width, generator=draw))
    return layer
