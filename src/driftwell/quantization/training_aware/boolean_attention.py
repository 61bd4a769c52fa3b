"""How tokens attend when queries, keys and values are signs: with or without a softmax."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.training_aware.activations import BinaryActivation, Sign
from driftwell.quantization.training_aware.binary_layers import BIBERT
from driftwell.quantization.training_aware.straight_through import ClippedSTE

__all__ = [
    "Attending",
    "BooleanAttention",
    "SignedSoftmaxAttention",
    "SoftmaxAttention",
    "attention_entropy",
]

_SIGN = Sign(ClippedSTE(1.0))
_STEP = BinaryActivation(ClippedSTE(1.0))


@dataclass(frozen=True)
class Attending(ABC):
    """A rule by which a query weighs values, as in Qin et al., *BiBERT: Accurate Fully Binarized
    BERT*, 2022, arXiv:2203.06390.

        A = q k^T / sqrt(d),   context = W(A) v
    """

    papers: ClassVar[tuple[Paper, ...]] = (BIBERT,)

    @abstractmethod
    def shown(self, x: Tensor) -> Tensor:
        """Queries, keys or values (..., T, d) as the rule sees them: as they are, or signs."""

    @abstractmethod
    def weights(self, scores: Tensor, keep: Tensor) -> Tensor:
        """Weights (B, H, T, T) of the scores A, for keys that `keep` (B, 1, 1, T) keeps."""

    def context(self, weights: Tensor, values: Tensor, keep: Tensor) -> Tensor:
        """What the weights make of values (B, H, T, d), (B, H, T, d)."""
        return weights @ values


@final
@dataclass(frozen=True)
class SoftmaxAttention(Attending):
    """W(A) = softmax(A): the float network that a binary one learns from; see Qin et al., 2022,
    arXiv:2203.06390.

    Example:
        >>> keep = torch.ones(1, 1, 1, 4, dtype=torch.bool)
        >>> SoftmaxAttention().weights(torch.zeros(1, 1, 1, 4), keep).tolist()
        [[[[0.25, 0.25, 0.25, 0.25]]]]
    """

    def shown(self, x: Tensor) -> Tensor:
        """x."""
        return x

    def weights(self, scores: Tensor, keep: Tensor) -> Tensor:
        """Shares that sum to one over the keys that are kept."""
        return scores.masked_fill(~keep, -math.inf).softmax(dim=-1)


@final
@dataclass(frozen=True)
class SignedSoftmaxAttention(Attending):
    """W(A) = sign(softmax(A) - 1/2), a transformer binarised as it is: the baseline of Qin et al.,
    2022, arXiv:2203.06390.

    A share beyond one half is rare among many tokens, so the sign is nearly always -1 and says
    nothing.

    Example:
        >>> keep = torch.ones(1, 1, 1, 4, dtype=torch.bool)
        >>> rule = SignedSoftmaxAttention()
        >>> rule.weights(torch.tensor([[[[2.0, 0.5, -1.0, 0.0]]]]), keep).tolist()
        [[[[1.0, -1.0, -1.0, -1.0]]]]
    """

    def shown(self, x: Tensor) -> Tensor:
        """sign(x)."""
        signs: Tensor = _SIGN(x)
        return signs

    def weights(self, scores: Tensor, keep: Tensor) -> Tensor:
        """+1 for a key with more than half of the attention, else -1; 0 if it is not kept."""
        signs: Tensor = _SIGN(scores.masked_fill(~keep, -math.inf).softmax(dim=-1) - 0.5)
        return signs * keep.to(signs.dtype)

    def context(self, weights: Tensor, values: Tensor, keep: Tensor) -> Tensor:
        """Counts over the root of the number of keys."""
        return _counts(weights, values, keep)


@final
@dataclass(frozen=True)
class BooleanAttention(Attending):
    """Bi-Attention, W(A) = 1[A > 0] in place of a softmax, from Qin et al., *BiBERT: Accurate
    Fully Binarized BERT*, 2022, arXiv:2203.06390.

        context = 1[q k^T > 0] sign(v) / sqrt(n),      n keys that are kept

    Signs of queries and keys are centred, so about half of the scores are positive and a weight
    says nearly a bit. Softmax keeps the order of scores: with the best threshold it would make
    the same choice. Backward, a score passes its gradient where |A| < 1. Keys that are not kept
    get weight 0 after the comparison.

    The paper leaves the integer counts as they are; over sqrt(n) they have the same signs, which
    is all a binary layer sees, and more of them lie where its estimator passes a gradient.

    Example:
        >>> keep = torch.tensor([[[[True, True, True, False]]]])
        >>> rule = BooleanAttention()
        >>> rule.weights(torch.tensor([[[[2.0, 0.0, -1.0, 3.0]]]]), keep).tolist()
        [[[[1.0, 0.0, 0.0, 0.0]]]]
    """

    def shown(self, x: Tensor) -> Tensor:
        """sign(x)."""
        signs: Tensor = _SIGN(x)
        return signs

    def weights(self, scores: Tensor, keep: Tensor) -> Tensor:
        """1 for a key that is kept and has a positive score, else 0."""
        chosen: Tensor = _STEP(scores)
        return chosen * keep.to(chosen.dtype)

    def context(self, weights: Tensor, values: Tensor, keep: Tensor) -> Tensor:
        """Counts over the root of the number of keys."""
        return _counts(weights, values, keep)


def attention_entropy(weights: Tensor, keep: Tensor | None = None) -> Tensor:
    """Bits that one weight of a binary attention says, the measure of Qin et al., 2022,
    arXiv:2203.06390.

        H(p) = -p log2 p - (1 - p) log2(1 - p),    p = share of positive weights among kept keys

    Args:
        weights: (B, H, T, T), of which the sign counts.
        keep: which keys count, (B, T) bool; None for all.

    Returns:
        One entropy for each head, over samples and queries, (H,).

    Raises:
        InvalidInput: other shapes.

    Example:
        >>> weights = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
        >>> attention_entropy(weights), attention_entropy(-weights)
        (tensor([1.]), tensor([0.]))
    """
    if weights.ndim != 4:
        raise InvalidInput(f"weights have shape (B, H, T, T), not {tuple(weights.shape)}")
    positive = weights > 0
    if keep is None:
        p = positive.double().mean(dim=(0, 2, 3))
    else:
        seen = keep_of(keep, weights.shape[0], weights.shape[3]).expand_as(positive)
        p = (positive & seen).double().sum(dim=(0, 2, 3)) / seen.double().sum(dim=(0, 2, 3))
    bits = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2.0)
    return bits.abs().to(weights.dtype)


def keep_of(keep: Tensor, batch: int, length: int) -> Tensor:
    """Which keys are kept, (B, T) bool, as (B, 1, 1, T).

    Raises:
        InvalidInput: another shape or type, or a sample that keeps nothing.
    """
    if keep.dtype != torch.bool or keep.shape != (batch, length):
        raise InvalidInput(
            f"keep is a bool for each of {batch} x {length} tokens, not {keep.dtype} of shape "
            f"{tuple(keep.shape)}"
        )
    if not bool(keep.any(dim=1).all()):
        raise InvalidInput("a sample keeps no token: leave at least one True in each row of keep")
    return keep[:, None, None, :]


def _counts(weights: Tensor, values: Tensor, keep: Tensor) -> Tensor:
    number = keep.sum(dim=-1, keepdim=True).to(values.dtype)
    return weights @ values / number.sqrt()
