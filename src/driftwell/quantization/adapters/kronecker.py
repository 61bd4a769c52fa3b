"""Kronecker adapters: CDKA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.adapters.adapter import (
    Adapter,
    AdapterDescription,
    check_alpha,
    check_count,
    plain_weight,
)
from driftwell.quantization.adapters.kronecker_fit import check_components, closest_kronecker
from driftwell.quantization.adapters.low_rank import uniform_rows

CDKA_PAPER = Paper(
    key="bai2026cdka",
    title="Diving into Kronecker Adapters: Component Design Matters",
    authors="Bai, Jiayu and Yu, Danchen and Liao, Zhenyu and Hou, TianQi and Zhou, Feng and "
    "Qiu, Robert and Ling, Zenan",
    year=2026,
    arxiv="2602.01267",
)


@final
class KroneckerAdapter(Adapter):
    """Kronecker adapter, from Bai et al., *Diving into Kronecker Adapters: Component Design
    Matters*, 2026, arXiv:2602.01267.

        y = base(x) + scale * sum_i (B_i (x) A_i) x,
        A_i (r1, in/r2),  B_i (out/r1, r2),  i = 1..r

    The rank of the update reaches r r1 r2, at r (out r2/r1 + in r1/r2) parameters; r1 = r2 = 1 is
    LoRA, bit for bit. With x as rows X (r2, in/r2), each term is B_i X A_i^T as rows
    (out/r1, r1): two small products, and the Kronecker matrix is never formed. A starts uniform on
    +-1/sqrt(in/r2), B at zero. The parameters are `kron_A` (r, r1, in/r2), A_i its entry i, and
    `kron_B` (out/r1, r, r2), B_i its middle entry i, the order in which one product takes them.

    Args:
        base: frozen layer.
        r1: rows of A_i, a divisor of out.
        r2: columns of B_i, a divisor of in.
        r: number of terms.
        scale: factor of the update.
        seed: of the keyed start.
        index: number of this layer among those adapted.

    Raises:
        InvalidInput: r1 or r2 does not divide its side, or a base that is not a linear layer.

    Example:
        >>> layer = KroneckerAdapter(torch.nn.Linear(6, 4), r1=2, r2=2, r=3)
        >>> layer(torch.ones(3, 6)).shape, layer.parameter_count
        (torch.Size([3, 4]), 30)
    """

    papers = (CDKA_PAPER,)

    def __init__(
        self,
        base: nn.Module,
        r1: int,
        r2: int,
        r: int,
        scale: float = 1.0,
        seed: int = 0,
        index: int = 0,
    ) -> None:
        super().__init__(base)
        check_components(self.out_features, self.in_features, r1, r2, r)
        self.r1, self.r2, self.r, self.scale = r1, r2, r, float(scale)
        like = plain_weight(self.base)
        first = uniform_rows(r * r1, self.in_features // r2, like, seed, index)
        self.kron_A = nn.Parameter(first.reshape(r, r1, self.in_features // r2))
        self.kron_B = nn.Parameter(like.new_zeros(self.out_features // r1, r, r2))

    def update(self, x: Tensor) -> Tensor:
        """scale * sum_i B_i X A_i^T, as (..., out)."""
        rows = x.unflatten(-1, (self.r2, -1))
        inner = F.linear(rows, self.kron_A.flatten(0, 1)).unflatten(-1, (self.r, self.r1))
        inner = inner.transpose(-1, -3).flatten(-2)  # (..., r1, r r2)
        value = F.linear(inner, self.kron_B.flatten(1)).transpose(-1, -2)
        return value.flatten(-2) * self.scale

    def delta(self) -> Tensor:
        """scale * sum_i B_i (x) A_i."""
        product = torch.einsum("bip,iaq->bapq", self.kron_B, self.kron_A)
        return product.reshape(self.out_features, self.in_features) * self.scale

    def start_from(self, target: Tensor, gram: Tensor | None, damp: float) -> None:
        """The sum of r Kronecker products nearest to `target` in the Frobenius norm."""
        if gram is not None:
            raise InvalidInput(
                "the best Kronecker update has a closed form for white inputs only: "
                "start a CDKA adapter without Gram matrices, or use LoRA"
            )
        b, a = closest_kronecker(target / self.scale, self.r1, self.r2, self.r)
        with torch.no_grad():
            self.kron_A.copy_(a)
            self.kron_B.copy_(b)


@final
@dataclass(frozen=True)
class CDKA(AdapterDescription):
    """Description of a `KroneckerAdapter`, from Bai et al., *Diving into Kronecker Adapters:
    Component Design Matters*, 2026, arXiv:2602.01267.

    The update's factor is alpha / sqrt(r) as in the authors' code, alpha / r as in LoRA, or
    alpha / sqrt(r r2), which keeps the variance of an output: a sum of r r2 products.

    Args:
        r1: rows of A_i, a divisor of every layer's outputs.
        r2: columns of B_i, a divisor of every layer's inputs.
        r: number of terms.
        alpha: numerator of the factor; None takes it so that the factor is 1.
        scaling: what alpha is divided by.
        seed: of the keyed start of A.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> CDKA(r1=2, r2=2, r=8, alpha=64.0).count(128, 128) == 8 * (128 + 128)
        True
    """

    papers = (CDKA_PAPER,)

    r1: int
    r2: int
    r: int
    alpha: float | None = None
    scaling: Literal["sqrt(r)", "r", "sqrt(r r2)"] = "sqrt(r)"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("r1", "r2", "r"):
            check_count(f"CDKA({name}=...)", getattr(self, name))
        if self.alpha is not None:
            check_alpha("CDKA(alpha=...)", self.alpha)
        if self.scaling not in ("sqrt(r)", "r", "sqrt(r r2)"):
            raise InvalidInput(
                f"CDKA(scaling=...) must be 'sqrt(r)', 'r' or 'sqrt(r r2)', got {self.scaling!r}"
            )

    @property
    def scale(self) -> float:
        """Factor of the update."""
        if self.alpha is None:
            return 1.0
        by = {"sqrt(r)": math.sqrt(self.r), "r": self.r, "sqrt(r r2)": math.sqrt(self.r * self.r2)}
        return self.alpha / by[self.scaling]

    def attach(self, layer: nn.Module, index: int = 0) -> KroneckerAdapter:
        """The adapter of one layer."""
        return KroneckerAdapter(layer, self.r1, self.r2, self.r, self.scale, self.seed, index)

    def count(self, in_features: int, out_features: int) -> int:
        """r (out r2 / r1 + in r1 / r2)."""
        return self.r * (out_features // self.r1 * self.r2 + in_features // self.r2 * self.r1)
