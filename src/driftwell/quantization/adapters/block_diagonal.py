"""Block-diagonal adapters: DiaBlo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, permutation
from driftwell.core.papers import Paper
from driftwell.quantization.adapters.adapter import (
    Adapter,
    AdapterDescription,
    check_count,
    plain_weight,
)

DIABLO = Paper(
    key="gurses2025diablo",
    title="DiaBlo: Diagonal Blocks Are Sufficient For Finetuning",
    authors="Gurses, Selcuk and Zhang, Aozhong and Deng, Yanxia and Dong, Xun and Li, Xin and "
    "Wang, Naigang and Yin, Penghang and Yang, Zi",
    year=2025,
    venue="ICLR 2026",
    arxiv="2506.03230",
)


@final
class BlockDiagonalAdapter(Adapter):
    """Block-diagonal adapter, from Gurses et al., *DiaBlo: Diagonal Blocks Are Sufficient For
    Finetuning*, 2025, arXiv:2506.03230.

        y = base(x) + D^T x,   D = diag(D_1, ..., D_N),   D_n (ceil(in/N), ceil(out/N))

    D starts at zero: there is one factor only, so its gradient is not zero there and no other
    start is needed. Where N does not divide a side, x is padded with zeros and outputs are cut;
    the entries of D on the padding never matter.

    Args:
        base: frozen layer.
        blocks: N.
        permuted: None couples input block n to output block n in the order of the channels; a
            seed draws the order of the inputs, an ablation of that choice.
        index: number of this layer among those adapted.

    Raises:
        InvalidInput: N outside 1..min(in, out), or a base that is not a linear layer.

    Example:
        >>> layer = BlockDiagonalAdapter(torch.nn.Linear(6, 4), blocks=2)
        >>> layer.blocks.shape, layer(torch.ones(3, 6)).shape
        (torch.Size([2, 3, 2]), torch.Size([3, 4]))
    """

    papers = (DIABLO,)
    order: Tensor | None

    def __init__(
        self, base: nn.Module, blocks: int, permuted: int | None = None, index: int = 0
    ) -> None:
        super().__init__(base)
        check_count("blocks", blocks)
        if blocks > min(self.in_features, self.out_features):
            raise InvalidInput(
                f"{blocks} blocks do not fit a layer of {self.in_features} inputs and "
                f"{self.out_features} outputs; use at most "
                f"{min(self.in_features, self.out_features)}"
            )
        like = plain_weight(self.base)
        rows, columns = (math.ceil(n / blocks) for n in (self.in_features, self.out_features))
        self.blocks = nn.Parameter(like.new_zeros(blocks, rows, columns))
        order = None
        if permuted is not None:
            order = permutation(
                self.in_features,
                seed=permuted,
                purpose=Purpose.PARAMETERS,
                step=index,
                device=like.device,
            )
        self.register_buffer("order", order)

    def update(self, x: Tensor) -> Tensor:
        """D^T x, block by block."""
        number, rows, _ = self.blocks.shape
        if self.order is not None:
            x = x[..., self.order]
        padded = F.pad(x, (0, number * rows - self.in_features))
        parts = padded.unflatten(-1, (number, rows))
        value = torch.einsum("...ni,nio->...no", parts, self.blocks).flatten(-2)
        return value[..., : self.out_features]

    def delta(self) -> Tensor:
        """The matrix diag(D_1, ..., D_N)^T without its padding, columns in the input's order."""
        dense: Tensor = torch.block_diag(*self.blocks.unbind()).mT
        dense = dense[: self.out_features, : self.in_features]
        return dense if self.order is None else dense[:, torch.argsort(self.order)]

    def start_from(self, target: Tensor, gram: Tensor | None, damp: float) -> None:
        """Best block-diagonal matrix: each block is a least squares problem of its own.

        Row o of dW lives on the inputs I of its block, so with t the row of the target
        dW[o, I] = t G[:, I] (G[I, I] + damp * mean(diag G) 1)^-1 without damping in the limit;
        for white inputs it is t[I].
        """
        t = target.double()
        g = torch.eye(t.shape[1], dtype=t.dtype, device=t.device) if gram is None else gram.double()
        if gram is not None:
            g = g + damp * g.diagonal().mean() * torch.eye(len(g), dtype=g.dtype, device=g.device)
        if self.order is not None:
            t, g = t[:, self.order], g[self.order][:, self.order]
        number, rows, columns = self.blocks.shape
        with torch.no_grad():
            self.blocks.zero_()
            for n in range(number):
                own = slice(n * rows, min((n + 1) * rows, self.in_features))
                outputs = slice(n * columns, min((n + 1) * columns, self.out_features))
                if own.stop <= own.start or outputs.stop <= outputs.start:
                    continue  # a block that is all padding
                wanted = (t[outputs] @ g[:, own]).mT
                best = torch.linalg.lstsq(g[own, own], wanted, driver="gelsd").solution
                self.blocks[n, : best.shape[0], : best.shape[1]] = best.to(self.blocks.dtype)


@final
@dataclass(frozen=True)
class DiaBlo(AdapterDescription):
    """Description of a `BlockDiagonalAdapter`, from Gurses et al., *DiaBlo: Diagonal Blocks Are
    Sufficient For Finetuning*, 2025, arXiv:2506.03230.

    It has in * out / N parameters, as many as LoRA of rank in * out / (N (in + out)).

    Args:
        blocks: N, at least 1; 1 is full finetuning of the layer.
        permuted: seed of an order of the inputs, or None.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> DiaBlo(blocks=64).count(4096, 4096)
        262144
    """

    papers = (DIABLO,)

    blocks: int = 64
    permuted: int | None = None

    def __post_init__(self) -> None:
        check_count("DiaBlo(blocks=...)", self.blocks)
        if self.permuted is not None:
            check_count("DiaBlo(permuted=...)", self.permuted, at_least=0)

    def attach(self, layer: nn.Module, index: int = 0) -> BlockDiagonalAdapter:
        """The adapter of one layer."""
        return BlockDiagonalAdapter(layer, self.blocks, self.permuted, index)

    def count(self, in_features: int, out_features: int) -> int:
        """N ceil(in / N) ceil(out / N)."""
        n = self.blocks
        return n * math.ceil(in_features / n) * math.ceil(out_features / n)
