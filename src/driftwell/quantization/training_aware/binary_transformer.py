"""A small transformer that classifies sequences, in floats or entirely in signs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.nn.drawn_layers import drawn_linear
from driftwell.quantization.training_aware.binary_layers import (
    BIBERT,
    BinaryEmbedding,
    BinaryLinear,
    check_rows,
)
from driftwell.quantization.training_aware.boolean_attention import (
    Attending,
    BooleanAttention,
    keep_of,
)

__all__ = ["BinaryTransformer", "LayerTrace"]


@final
@dataclass(frozen=True, eq=False)
class LayerTrace:
    """What went on inside a transformer: what a student compares with its teacher.

    Attributes:
        logits: (B, classes).
        queries: of each block, as its attention saw them, (B, H, T, d).
        keys: likewise.
        values: likewise.
        weights: of each block's attention, (B, H, T, T).
        hidden: tokens behind each block, (B, T, width).
        keep: tokens that count, (B, T) bool.

    Example:
        >>> model = BinaryTransformer(10, 2, width=16, depth=1, heads=2, context=8)
        >>> seen = model.trace(torch.arange(8)[None])
        >>> seen.keys[0].shape, seen.keys[0].abs().unique().tolist()
        (torch.Size([1, 2, 8, 8]), [1.0])
    """

    logits: Tensor
    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]
    keep: Tensor


@final
class BinaryTransformer(nn.Module):
    """A transformer encoder in signs that classifies a sequence by its first token, after Qin et
    al., *BiBERT: Accurate Fully Binarized BERT*, 2022, arXiv:2203.06390.

        x <- x + output(attend(query(n), key(n), value(n))),   n = norm(x)
        x <- x + down(gelu(up(norm(x))))

    With `binary` every linear layer of a block is a `BinaryLinear` and the table of tokens a
    `BinaryEmbedding`; places, normalisations, offsets and the head, a few thousandths of the
    products, stay floats, and so does the sum that runs past the blocks. Without it, and with
    `SoftmaxAttention`, it is the float teacher; the parameters have the same names, so that a
    student starts as its teacher: `student.load_state_dict(teacher.state_dict())`.

    Args:
        vocabulary: number of tokens.
        classes: number of classes.
        width: features of a token.
        depth: blocks.
        heads: of attention; they divide the width.
        context: longest sequence.
        attending: how tokens attend.
        binary: whether layers are binary.
        seed: of the start weights.

    Raises:
        InvalidInput: sizes that cannot be; in `forward`, tokens or a mask that do not fit.

    Example:
        >>> model = BinaryTransformer(10, 2, width=16, depth=1, heads=2, context=8)
        >>> model(torch.zeros(3, 8, dtype=torch.int64)).shape
        torch.Size([3, 2])
    """

    papers = (BIBERT,)

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        *,
        width: int = 32,
        depth: int = 2,
        heads: int = 2,
        context: int = 16,
        attending: Attending = BooleanAttention(),
        binary: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(vocabulary, classes, width, depth, heads, context) < 1 or width % heads:
            raise InvalidInput(
                "vocabulary, classes, width, depth, heads and context are at least 1 and the "
                f"heads divide the width; got {heads} heads for a width of {width}"
            )
        draw = torch.Generator().manual_seed(seed)
        self.context = context
        self.embedding = _table(vocabulary, width, draw, binary)
        self.place = nn.Parameter(0.1 * torch.randn(context, width, generator=draw))
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads, attending=attending, binary=binary, draw=draw)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = drawn_linear(width, classes, draw)

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens (B, T) int64 -> logits (B, classes); `keep` (B, T) bool leaves out padding."""
        return self.trace(tokens, keep).logits

    def trace(self, tokens: Tensor, keep: Tensor | None = None) -> LayerTrace:
        """The same with what went on inside.

        Raises:
            InvalidInput: a sequence longer than the context, unknown tokens, a mask that does
                not fit.
        """
        if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= self.context:
            raise InvalidInput(
                f"tokens have shape (B, T) with 1 <= T <= {self.context}, not {tuple(tokens.shape)}"
            )
        check_rows(tokens, self.embedding.weight.shape[0])
        keep = torch.ones_like(tokens, dtype=torch.bool) if keep is None else keep
        keys = keep_of(keep, *tokens.shape)
        x = self.embedding(tokens) + self.place[: tokens.shape[1]]
        inside: list[tuple[Tensor, ...]] = []
        for block in self.blocks:
            x, *attended = block(x, keys)
            inside.append((*attended, x))
        q, k, v, weights, hidden = zip(*inside, strict=True)
        return LayerTrace(self.head(self.norm(x[:, 0])), q, k, v, weights, hidden, keep)


@final
class EncoderBlock(nn.Module):
    """A block of an encoder, in floats or in signs, after Qin et al., *BiBERT*, 2022,
    arXiv:2203.06390.

    Args:
        width: features of a token.
        heads: of attention.
        attending: how tokens attend.
        binary: whether layers are binary.
        draw: source of the start weights.
        expansion: width of the hidden layer over that of a token.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> block = EncoderBlock(8, 2, attending=BooleanAttention(), binary=True, draw=draw)
        >>> block(torch.zeros(1, 3, 8), torch.ones(1, 1, 1, 3, dtype=torch.bool))[0].shape
        torch.Size([1, 3, 8])
    """

    papers = (BIBERT,)

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        attending: Attending,
        binary: bool,
        draw: torch.Generator,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        self.heads, self.attending = heads, attending
        self.norm_attention = nn.LayerNorm(width)
        self.query = _layer(width, width, draw, binary)
        self.key = _layer(width, width, draw, binary)
        self.value = _layer(width, width, draw, binary)
        self.output = _layer(width, width, draw, binary, gain=0.5)
        self.norm_network = nn.LayerNorm(width)
        self.up = _layer(width, expansion * width, draw, binary)
        self.down = _layer(expansion * width, width, draw, binary, gain=0.5)

    def forward(self, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Tokens (B, T, width) -> tokens, queries, keys, values, weights of attention."""
        normal = self.norm_attention(x)
        q, k, v = (
            self.attending.shown(self.split(layer(normal)))
            for layer in (self.query, self.key, self.value)
        )
        weights = self.attending.weights(q @ k.mT / math.sqrt(q.shape[-1]), keep)
        context = self.attending.context(weights, v, keep)
        x = x + self.output(context.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm_network(x))))
        return x, q, k, v, weights

    def split(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, H, T, d)."""
        per_head: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return per_head


def _layer(
    inputs: int, outputs: int, draw: torch.Generator, binary: bool, gain: float = 1.0
) -> BinaryLinear | nn.Linear:
    if binary:
        return BinaryLinear(inputs, outputs, draw=draw, gain=gain)
    return drawn_linear(inputs, outputs, draw, gain=gain)


def _table(
    count: int, width: int, draw: torch.Generator, binary: bool
) -> BinaryEmbedding | nn.Embedding:
    table = BinaryEmbedding(count, width, draw=draw)
    return table if binary else nn.Embedding.from_pretrained(table.weight.detach(), freeze=False)
