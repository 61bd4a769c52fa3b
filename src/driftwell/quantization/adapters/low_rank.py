"""Low-rank adapters: LoRA, with the scaling of rsLoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform
from driftwell.core.papers import Paper
from driftwell.quantization.adapters.adapter import (
    Adapter,
    AdapterDescription,
    check_alpha,
    check_count,
    plain_weight,
)
from driftwell.quantization.adapters.calibrated import cloq_init, svd_init

LORA = Paper(
    key="hu2021lora",
    title="LoRA: Low-Rank Adaptation of Large Language Models",
    authors="Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and "
    "Li, Yuanzhi and Wang, Shean and Wang, Lu and Chen, Weizhu",
    year=2021,
    arxiv="2106.09685",
)
RSLORA = Paper(
    key="kalajdzievski2023rslora",
    title="A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
    authors="Kalajdzievski, Damjan",
    year=2023,
    arxiv="2312.03732",
)


@final
class LowRankAdapter(Adapter):
    """Low-rank adapter, from Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*,
    2021, arXiv:2106.09685.

        y = base(x) + scale * B A x,   A (r, in),  B (out, r)

    A starts uniform on +-1/sqrt(in), B at zero. Parameters are named as elsewhere in the field:
    `lora_A`, `lora_B`.

    Args:
        base: frozen layer.
        rank: r.
        scale: factor of the update, of either sign.
        split: where `start_from` puts the singular values: all on A, or their roots on both.
        seed: of the keyed start.
        index: number of this layer among those adapted.

    Raises:
        InvalidInput: a rank outside 1..min(in, out), or a base that is not a linear layer.

    Example:
        >>> import torch
        >>> layer = LowRankAdapter(torch.nn.Linear(6, 4), rank=2)
        >>> layer(torch.ones(3, 6)).shape, layer.parameter_count
        (torch.Size([3, 4]), 20)
    """

    papers = (LORA,)

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        scale: float = 1.0,
        split: Literal["A", "sym"] = "A",
        seed: int = 0,
        index: int = 0,
    ) -> None:
        super().__init__(base)
        check_count("rank", rank)
        if rank > min(self.in_features, self.out_features):
            raise InvalidInput(
                f"rank {rank} is more than a layer of {self.in_features} inputs and "
                f"{self.out_features} outputs can have; use at most "
                f"{min(self.in_features, self.out_features)}"
            )
        self.rank, self.scale, self.split = rank, float(scale), split
        like = plain_weight(self.base)
        self.lora_A = nn.Parameter(uniform_rows(rank, self.in_features, like, seed, index))
        self.lora_B = nn.Parameter(like.new_zeros(self.out_features, rank))

    def update(self, x: Tensor) -> Tensor:
        """scale * B A x."""
        return F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale

    def delta(self) -> Tensor:
        """scale * B A."""
        return self.lora_B @ self.lora_A * self.scale

    def start_from(self, target: Tensor, gram: Tensor | None, damp: float) -> None:
        """CLoQ's closed form, or the truncated SVD (LoftQ) without a Gram matrix."""
        if gram is None:
            a, b = svd_init(target, torch.zeros_like(target), self.rank, split=self.split)
        else:
            a, b = cloq_init(target, torch.zeros_like(target), gram, self.rank, damp, self.split)
        with torch.no_grad():
            self.lora_A.copy_(a / self.scale)
            self.lora_B.copy_(b)


@final
@dataclass(frozen=True)
class LoRA(AdapterDescription):
    """Description of a `LowRankAdapter`, from Hu et al., *LoRA*, 2021, arXiv:2106.09685.

    The update's factor is alpha / rank, or alpha / sqrt(rank) with `rank_stabilized`
    (Kalajdzievski, *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*, 2023,
    arXiv:2312.03732), which keeps the size of the update's gradients as the rank grows.

    Args:
        rank: r, at least 1.
        alpha: numerator of the factor; None takes it so that the factor is 1.
        rank_stabilized: divide by sqrt(rank) and not by rank.
        split: where a calibrated start puts the singular values.
        seed: of the keyed start of A.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> LoRA(rank=8, alpha=16.0).scale, LoRA(rank=4).count(64, 32)
        (2.0, 384)
    """

    papers = (LORA, RSLORA)

    rank: int
    alpha: float | None = None
    rank_stabilized: bool = False
    split: Literal["A", "sym"] = "A"
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("LoRA(rank=...)", self.rank)
        if self.alpha is not None:
            check_alpha("LoRA(alpha=...)", self.alpha)
        if self.split not in ("A", "sym"):
            raise InvalidInput(f"LoRA(split=...) must be 'A' or 'sym', got {self.split!r}")

    @property
    def scale(self) -> float:
        """Factor of the update."""
        if self.alpha is None:
            return 1.0
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def attach(self, layer: nn.Module, index: int = 0) -> LowRankAdapter:
        """The adapter of one layer."""
        return LowRankAdapter(layer, self.rank, self.scale, self.split, self.seed, index)

    def count(self, in_features: int, out_features: int) -> int:
        """r (in + out)."""
        return self.rank * (in_features + out_features)


def uniform_rows(rows: int, columns: int, like: Tensor, seed: int, index: int) -> Tensor:
    """Keyed uniform numbers on +-1/sqrt(columns), (rows, columns): Kaiming's with a = sqrt(5)."""
    drawn = uniform(
        (rows, columns),
        seed=seed,
        purpose=Purpose.PARAMETERS,
        chains=rows,
        step=index,
        dtype=like.dtype,
        device=like.device,
    )
    return (2.0 * drawn - 1.0) / math.sqrt(columns)
