"""Distillation by directions: a binary student turns its similarity matrices as its teacher's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.training_aware.binary_layers import BIBERT
from driftwell.quantization.training_aware.binary_transformer import LayerTrace

__all__ = ["DirectionMatching", "direction_distance"]


@final
@dataclass(frozen=True)
class DirectionMatching:
    """The loss by which a binary transformer learns from a float one, from Qin et al., *BiBERT:
    Accurate Fully Binarized BERT*, 2022, arXiv:2203.06390.

        L = matching sum_blocks [D(Q Q^T) + D(K K^T) + D(V V^T) + D(H)]
            + soft H(softmax teacher, softmax student) + hard H(labels, softmax student)
        D(P) = |P_s / |P_s|_F - P_t / |P_t|_F|_F    of each sample, averaged over samples

    Signs and floats differ in size by nature; divided by their Frobenius norms the matrices
    compare by direction only, so no factor sqrt(d) matters. Tokens that padding leaves out are
    left out of every matrix. The authors' code takes one norm over the whole batch, with which
    the loss of a sample depends on its neighbours and the weight of the term on the batch size;
    here each sample has its own.

    Args:
        matching: weight of the matched directions.
        soft: weight of the cross-entropy to the teacher's classes.
        hard: weight of the cross-entropy to the labels.

    Raises:
        InvalidInput: a negative weight; when called, traces that do not fit each other.

    Example:
        >>> from driftwell.quantization.training_aware.binary_transformer import BinaryTransformer
        >>> model = BinaryTransformer(10, 2, width=16, depth=1, context=8)
        >>> trace = model.trace(torch.arange(8)[None])
        >>> loss = DirectionMatching(matching=1.0, soft=0.0, hard=0.0)
        >>> loss(trace, trace, torch.zeros(1, dtype=torch.int64)).item()
        0.0
    """

    papers = (BIBERT,)

    matching: float = 1.0
    soft: float = 1.0
    hard: float = 0.5

    def __post_init__(self) -> None:
        """Raise on a weight that cannot be."""
        weights = (self.matching, self.soft, self.hard)
        if not all(0.0 <= weight < math.inf for weight in weights):
            raise InvalidInput(f"matching, soft and hard are weights of 0 or more, not {weights}")

    def __call__(self, student: LayerTrace, teacher: LayerTrace, labels: Tensor) -> Tensor:
        """The loss; nothing flows into the teacher. Labels are (B,) int64."""
        loss = self.soft * _soft_cross_entropy(student.logits, teacher.logits.detach())
        loss = loss + self.hard * F.cross_entropy(student.logits, labels)
        if self.matching:
            loss = loss + self.matching * _directions(student, teacher)
        return loss


def direction_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """|P_s / |P_s|_F - P_t / |P_t|_F|_F of each sample, from Qin et al., 2022, arXiv:2203.06390.

    It is the chord between two directions, 0 to 2; a matrix of zeros has none and counts as 0.

    Args:
        student: P_s, (B, ...).
        teacher: P_t, of that shape.

    Returns:
        (B,).

    Raises:
        InvalidInput: shapes that differ.

    Example:
        >>> p = torch.tensor([[3.0, 4.0]])
        >>> direction_distance(p, 5 * p), direction_distance(p, -p)
        (tensor([0.]), tensor([2.]))
    """
    if student.shape != teacher.shape or student.ndim < 2:
        raise InvalidInput(
            "matrices of student and teacher have one shape (B, ...), not "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    gap = F.normalize(student.flatten(1), dim=1) - F.normalize(teacher.flatten(1), dim=1)
    distance: Tensor = torch.linalg.vector_norm(gap, dim=1)
    return distance


def _directions(student: LayerTrace, teacher: LayerTrace) -> Tensor:
    if len(student.hidden) != len(teacher.hidden) or not student.keep.equal(teacher.keep):
        raise InvalidInput("student and teacher have as many blocks and see the same tokens")
    keep = student.keep.to(student.logits.dtype)
    pairs = keep[:, None, :, None] * keep[:, None, None, :]
    total = student.logits.new_zeros(())
    for name in ("queries", "keys", "values"):
        for own, other in zip(getattr(student, name), getattr(teacher, name), strict=True):
            other = other.detach()
            gaps = direction_distance(own @ own.mT * pairs, other @ other.mT * pairs)
            total = total + gaps.mean()
    for own, other in zip(student.hidden, teacher.hidden, strict=True):
        kept = keep[:, :, None]
        total = total + direction_distance(own * kept, other.detach() * kept).mean()
    return total


def _soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return F.cross_entropy(student, teacher.softmax(dim=-1))
