"""Low-rank factors that make up for quantization: CLoQ, and the plain SVD of LoftQ."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

CLOQ = Paper(
    key="deng2025cloq",
    title="CLoQ: Enhancing Fine-Tuning of Quantized LLMs via Calibrated LoRA Initialization",
    authors="Deng, Yanxia and Zhang, Aozhong and Wang, Naigang and Gurses, Selcuk and "
    "Yang, Zi and Yin, Penghang",
    year=2025,
    venue="Transactions on Machine Learning Research",
    arxiv="2501.18475",
)
LOFTQ = Paper(
    key="li2023loftq",
    title="LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models",
    authors="Li, Yixiao and Yu, Yifan and Liang, Chen and He, Pengcheng and "
    "Karampatziakis, Nikos and Chen, Weizhu and Zhao, Tuo",
    year=2023,
    arxiv="2310.08659",
)
Split = Literal["A", "sym"]
# Directions of the inputs with less than this part of the largest eigenvalue carry no output.
_NOTHING = 1e-14


def cloq_init(
    w: Tensor,
    quantized: Tensor,
    gram: Tensor,
    rank: int,
    damp: float = 0.01,
    split: Split = "A",
) -> tuple[Tensor, Tensor]:
    """Calibrated low-rank factors, from Deng et al., *CLoQ: Enhancing Fine-Tuning of Quantized
    LLMs via Calibrated LoRA Initialization*, 2025, arXiv:2501.18475.

    The best rank-r repair of a quantized layer on the inputs X it sees, in closed form:

        min ||X (W - Q - B A)^T||_F,   G = X^T X = U L U^T,   R = L^1/2 U^T
        R (W - Q)^T = P S V^T,   A = (U L^-1/2 P_r S_r)^T,   B = V_r

    G is damped, G + damp * mean(diag G) I, and all is done in float64. Directions that no input
    has (L = 0, possible with damp = 0) get no update: any would do, and zero is the smallest.

    Args:
        w: weight W (out, in).
        quantized: what replaced it, Q (out, in).
        gram: G (in, in), symmetric.
        rank: r.
        damp: relative damping of G, at least 0.
        split: `"A"` puts the singular values on A, `"sym"` their roots on A and on B: the same
            product, other gradients.

    Returns:
        A (r, in) and B (out, r), in the dtype of `w`; divide A by the factor of the update if
        there is one.

    Raises:
        InvalidInput: shapes that do not fit, a rank outside 1..min(in, out), a negative damping,
            a Gram matrix that is not finite.

    Example:
        >>> w, seen = torch.eye(3), torch.diag(torch.tensor([9.0, 1.0, 4.0]))
        >>> a, b = cloq_init(w, torch.zeros(3, 3), seen, rank=2, damp=0.0)
        >>> torch.allclose(b @ a, torch.diag(torch.tensor([1.0, 0.0, 1.0])))
        True
    """
    _check(w, quantized, rank, split)
    columns = w.shape[1]
    if gram.shape != (columns, columns):
        raise InvalidInput(
            f"the Gram matrix of a layer with {columns} inputs is {columns} x {columns}, "
            f"got shape {tuple(gram.shape)}"
        )
    if not 0.0 <= damp < float("inf"):
        raise InvalidInput(f"damp must be finite and not negative, got {damp}")
    if not bool(torch.isfinite(gram).all()):
        raise InvalidInput("the Gram matrix has NaN or infinity: check the calibration inputs")
    g = gram.double()
    g = 0.5 * (g + g.mT)
    g.diagonal().add_(damp * g.diagonal().mean())
    eigenvalues, u = torch.linalg.eigh(g)
    seen = eigenvalues > _NOTHING * eigenvalues[-1].clamp(min=0.0)
    root = torch.where(seen, eigenvalues, 0.0).sqrt()
    inverse = torch.where(seen, root, torch.inf).reciprocal()
    residual = (w.double() - quantized.double()).mT
    p, s, v = torch.linalg.svd(root[:, None] * (u.mT @ residual), full_matrices=False)
    left = u @ (inverse[:, None] * p[:, :rank])
    return _factors(left, s[:rank], v[:rank].mT, split, w.dtype)


def svd_init(
    w: Tensor, quantized: Tensor, rank: int, split: Split = "sym"
) -> tuple[Tensor, Tensor]:
    """Low-rank factors nearest to the quantization residual, from Li et al., *LoftQ:
    LoRA-Fine-Tuning-Aware Quantization for Large Language Models*, 2023, arXiv:2310.08659.

        min ||W - Q - B A||_F,   the truncated SVD of W - Q

    It is one step of LoftQ's alternation and CLoQ for inputs that are white.

    Args:
        w: weight W (out, in).
        quantized: what replaced it, Q (out, in).
        rank: r.
        split: see `cloq_init`.

    Returns:
        A (r, in) and B (out, r), in the dtype of `w`.

    Raises:
        InvalidInput: shapes that do not fit, a rank outside 1..min(in, out).

    Example:
        >>> w = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> a, b = svd_init(w, torch.zeros(2, 2), rank=1)
        >>> torch.allclose(b @ a, torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        True
    """
    _check(w, quantized, rank, split)
    p, s, v = torch.linalg.svd((w.double() - quantized.double()).mT, full_matrices=False)
    return _factors(p[:, :rank], s[:rank], v[:rank].mT, split, w.dtype)


def _factors(
    left: Tensor, s: Tensor, right: Tensor, split: Split, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A = (left S)^T and B = right, or sqrt(S) on both."""
    if split == "sym":
        left, right = left * s.sqrt(), right * s.sqrt()
    else:
        left = left * s
    return left.mT.contiguous().to(dtype), right.contiguous().to(dtype)


def _check(w: Tensor, quantized: Tensor, rank: int, split: str) -> None:
    if w.ndim != 2 or w.shape != quantized.shape:
        raise InvalidInput(
            f"the weight and its quantized values must be matrices of one shape, got "
            f"{tuple(w.shape)} and {tuple(quantized.shape)}"
        )
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(w.shape):
        raise InvalidInput(
            f"rank must be an integer from 1 to {min(w.shape)} for a weight of shape "
            f"{tuple(w.shape)}, got {rank!r}"
        )
    if split not in ("A", "sym"):
        raise InvalidInput(f"split must be 'A' or 'sym', got {split!r}")
    if not bool(torch.isfinite(w).all() and torch.isfinite(quantized).all()):
        raise InvalidInput("the weight or its quantized values have NaN or infinity")
