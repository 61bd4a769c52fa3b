"""Feature affinity: which places of a map look alike, and how two maps differ in that."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper

__all__ = ["feature_affinity", "feature_affinity_loss"]

FAQD = Paper(
    key="li2023faqd",
    title="Feature Affinity Assisted Knowledge Distillation and Quantization of Deep Neural "
    "Networks on Label-Free Data",
    authors="Li, Zhijian and Yang, Biao and Yin, Penghang and Qi, Yingyong and Xin, Jack",
    year=2023,
    arxiv="2302.10899",
    venue="IEEE Access",
)
_DARK = 1e-5  # a place whose features are shorter than this is like no other


def feature_affinity(features: Tensor) -> Tensor:
    """How alike the features of any two places of a map are, from Li et al., *Feature Affinity
    Assisted Knowledge Distillation and Quantization*, 2023, arXiv:2302.10899.

        A = F^T F,    columns of F (C, P) scaled to length 1

    Args:
        features: (B, C, L) or (B, C, H, W); P is L or H W.

    Returns:
        (B, P, P), cosines.

    Raises:
        InvalidInput: no map.

    Example:
        >>> feature_affinity(torch.tensor([[[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]]]))
        tensor([[[1.0000, 0.0000, 0.7071],
                 [0.0000, 1.0000, 0.7071],
                 [0.7071, 0.7071, 1.0000]]])
    """
    f = _directions(features)
    return f.mT @ f


def feature_affinity_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    order: Literal[1, 2] = 1,
    fast_dim: int | None = None,
    seed: int | None = None,
    step: int = 0,
) -> Tensor:
    """How differently student and teacher see which places of a map are alike, from Li et al.,
    *Feature Affinity Assisted Knowledge Distillation and Quantization of Deep Neural Networks on
    Label-Free Data*, 2023, arXiv:2302.10899.

        order 1:  |A_s - A_t|_1 / P^2          order 2:  |A_s - A_t|_F / P

    averaged over the batch (the authors sum, so that their weight of it depends on the batch).
    Places, not channels, are compared: channel counts may differ. A map of the teacher of another
    size is resized to the student's. No gradient reaches the teacher.

    With `fast_dim` = k, products with k normal vectors V stand for the matrices, in time O(P C k)
    in place of O(P^2 C):

        order 1:  mean_k |(A_s - A_t) V_k|_1 / P^2
        order 2:  sqrt(mean_k |(A_s - A_t) V_k|^2) / P

    The square of order 2 is unbiased. Order 1 is another norm: its mean over V is
    sqrt(2/pi) sum_i |row i|_2 / P^2, between sqrt(2 / (pi P)) and sqrt(2/pi) times the exact one.

    Args:
        student: map (B, C, H, W) or (B, C, L).
        teacher: map (B, C', H', W') or (B, C', L').
        order: 1 or 2.
        fast_dim: k, or None for the exact loss; 15 is the authors'.
        seed: of V; needed with `fast_dim`.
        step: counts updates, so that each has a V of its own.

    Raises:
        InvalidInput: maps that do not go together, or a setting that cannot be.

    Example:
        >>> student, teacher = torch.rand(2, 3, 4, 4), torch.rand(2, 8, 4, 4)
        >>> loss = feature_affinity_loss(student, teacher, fast_dim=15, seed=0)
        >>> float(feature_affinity_loss(teacher, 5 * teacher, order=2)) < 1e-6
        True
    """
    _check(student, teacher, order, fast_dim, seed)
    teacher = _resized(teacher.detach(), student.shape[2:]).to(student.dtype)
    s, t = _directions(student), _directions(teacher)
    places = s.shape[2]
    if fast_dim is None:
        gap = s.mT @ s - t.mT @ t
        if order == 1:
            return gap.abs().mean()
        return _frobenius(gap).mean() / places
    v = normal(
        (1, places, fast_dim), seed=0 if seed is None else seed, purpose=Purpose.PROBE,
        chains=1, step=step, dtype=s.dtype, device=s.device,
    )  # fmt: skip
    seen = s.mT @ (s @ v) - t.mT @ (t @ v)
    if order == 1:
        return seen.abs().sum(1).mean() / places**2
    return _frobenius(seen).mean() / (places * math.sqrt(fast_dim))


def _frobenius(gap: Tensor) -> Tensor:
    """Norms (B,) of matrices; their gradient at zero is zero."""
    norms: Tensor = torch.linalg.matrix_norm(gap)
    return norms


def _directions(features: Tensor) -> Tensor:
    """(B, C, P), the features of each place scaled to length 1; none where there are none."""
    if features.ndim not in (3, 4) or features.numel() == 0 or not features.is_floating_point():
        raise InvalidInput(
            "a map is floating, (B, C, L) or (B, C, H, W) and not empty, not "
            f"{tuple(features.shape)} {features.dtype}"
        )
    return F.normalize(features.flatten(2), dim=1, eps=_DARK)


def _resized(teacher: Tensor, size: torch.Size) -> Tensor:
    if teacher.shape[2:] == size:
        return teacher
    mode = "bilinear" if len(size) == 2 else "linear"
    return F.interpolate(teacher, size=tuple(size), mode=mode, align_corners=False)


def _check(
    student: Tensor, teacher: Tensor, order: int, fast_dim: int | None, seed: int | None
) -> None:
    if order not in (1, 2):
        raise InvalidInput(f"the order of an affinity loss is 1 or 2, not {order}")
    if fast_dim is not None and (fast_dim < 1 or seed is None):
        raise InvalidInput(
            f"the fast loss needs fast_dim >= 1 and a seed for its vectors, got {fast_dim=} "
            f"and {seed=}"
        )
    if student.ndim != teacher.ndim or len(student) != len(teacher):
        raise InvalidInput(
            "maps of student and teacher are of the same samples and kind, not "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
