"""Columns in the order of their size, so that those that share a scale are alike."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.formats import Format, Quantized
from driftwell.quantization.post_training.comq import COMQ
from driftwell.quantization.post_training.method import Method, checked

CHEN = Paper(
    "chen2026permutation",
    "Weight Group-wise Post-Training Quantization for Medical Foundation Models",
    "Chen, Yineng and Huang, Peng and Zhang, Aozhong and Guo, Hui and Yin, Penghang and Hu, Shu "
    "and Lin, Shao and Li, Xin and Kao, Tzu-Jen and Prabhakaran, Balakrishnan and Chang, "
    "MingChing and Wang, Xin",
    2026,
    arxiv="2604.07674",
)
Layer = TypeVar("Layer", nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@final
@dataclass(frozen=True, eq=False)
class Permuted:
    """A matrix quantized with its columns in another order.

    Attributes:
        order: (C,) int64; column k of the quantized matrix is column order[k] of the weight.
        quantized: the permuted matrix (R, C).
        shape: shape of the weight.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> w, gram = torch.tensor([[0.1, 3.0, 0.3, 2.0]]), torch.eye(4)
        >>> permuted = PermutedCOMQ(group_size=2).permute(w, gram, Uniform(4))
        >>> permuted.order.tolist()
        [1, 3, 2, 0]
        >>> torch.allclose(permuted(torch.eye(4)), permuted.decode().T)
        True
    """

    order: Tensor
    quantized: Quantized
    shape: tuple[int, ...]

    def decode(self) -> Tensor:
        """The weight, its columns back in their own places."""
        return self.quantized.decode()[:, self.order.argsort()].reshape(self.shape)

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T for x (..., C), its columns put in order by one `index_select`.

        A layer before this one can save that by `fold_permutation`.
        """
        return linear(x.index_select(-1, self.order), self.quantized.decode().to(x.dtype))


@final
@dataclass(frozen=True)
class PermutedCOMQ(Method):
    """COMQ by groups of columns of like magnitude, from Chen et al., *Weight Group-wise
    Post-Training Quantization for Medical Foundation Models*, 2026, arXiv:2604.07674.

    One order pi for all rows, by falling size of the columns; then coordinate descent on
    W[:, pi] and G[pi, pi] with a scale for each `group_size` neighbours:

        pi = argsort(-|W_i|),   x W^T = x[pi] W[:, pi]^T

    Storage is that of plain groups and one index vector, and no index at all where the layer
    before can put out its channels in the order pi (`fold_permutation`).

    Args:
        group_size: columns that share a scale.
        size: how a column is measured: its "norm" over the rows or its "largest" weight.
        descent: the coordinate descent.

    Raises:
        InvalidInput: `group_size` is not positive, or `size` is unknown.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> w, gram = torch.tensor([[0.1, 3.0, 0.3, 2.0]]), torch.eye(4)
        >>> PermutedCOMQ(group_size=2).quantize(w, gram, Uniform(2)).decode()
        tensor([[0.1000, 3.0000, 0.3000, 2.0000]])
    """

    papers = (CHEN,)

    group_size: int
    size: Literal["norm", "largest"] = "norm"
    descent: COMQ = COMQ()

    def __post_init__(self) -> None:
        """Raise on a setting that cannot be."""
        if self.group_size < 1:
            raise InvalidInput(f"a group has at least one column, not {self.group_size}")
        if self.size not in ("norm", "largest"):
            raise InvalidInput(f"size is 'norm' or 'largest', not {self.size!r}")

    def permute(self, w: Tensor, gram: Tensor, format: Format) -> Permuted:
        """The quantized permuted matrix and its order, the compact form.

        Raises:
            InvalidInput: as `Method.quantize`; the format cannot have groups, or they do not
                divide the columns.
        """
        matrix, gram = checked(w, gram, format)
        order = column_order(matrix, self.size)
        found = self.descent.quantize(
            matrix[:, order], gram[order[:, None], order], _grouped(format, self.group_size)
        )
        found = replace(found, dtype=w.dtype)
        return Permuted(order, found, tuple(w.shape))

    def quantize(self, w: Tensor, gram: Tensor, format: Format) -> Quantized:
        """The same with every column in its own place, and so with a scale of its own.

        This is what to measure with; it stores a scale per weight. `permute` is what to ship.
        """
        permuted = self.permute(w, gram, format)
        back = permuted.order.argsort()
        codes, grid = permuted.quantized.codes[:, back], permuted.quantized.grid.columns(back)
        return Quantized(codes, grid, tuple(w.shape), w.dtype)


def column_order(w: Tensor, size: Literal["norm", "largest"] = "norm") -> Tensor:
    """Columns of `w` (R, C) by falling size, (C,) int64.

    Example:
        >>> column_order(torch.tensor([[1.0, -3.0, 2.0]])).tolist()
        [1, 2, 0]
    """
    sizes = w.abs().amax(dim=0) if size == "largest" else torch.linalg.vector_norm(w, dim=0)
    return sizes.argsort(descending=True, stable=True)


def fold_permutation(previous: Layer, order: Tensor) -> Layer:
    """A copy of a layer that puts out its channels in the order `order`.

    What follows element by element (a ReLU, a GELU) keeps the order, so the next layer may hold
    its columns in that order and needs no index.

    Args:
        previous: the layer whose outputs are permuted; every reader of them must agree.
        order: (outputs,) permutation.

    Raises:
        InvalidInput: `order` is no permutation of the layer's outputs.

    Example:
        >>> first = nn.Linear(2, 3)
        >>> order, x = torch.tensor([2, 0, 1]), torch.randn(5, 2)
        >>> torch.equal(fold_permutation(first, order)(x), first(x)[:, order])
        True
    """
    outputs = previous.weight.shape[0]
    if order.shape != (outputs,) or not torch.equal(
        order.sort().values, torch.arange(outputs, device=order.device)
    ):
        raise InvalidInput(f"the order must be a permutation of the layer's {outputs} outputs")
    if getattr(previous, "groups", 1) != 1:
        raise InvalidInput("outputs of a grouped convolution cannot be permuted freely")
    folded = copy.deepcopy(previous)
    with torch.no_grad():
        folded.weight.copy_(previous.weight[order])
        if folded.bias is not None and previous.bias is not None:
            folded.bias.copy_(previous.bias[order])
    return folded


def _grouped(format: Format, group_size: int) -> Format:
    """`format` with a scale for each group of columns."""
    settings: dict[str, Any] = {"per": "group", "group_size": group_size}
    try:
        return replace(format, **settings)
    except TypeError:
        raise InvalidInput(f"{type(format).__name__} has no groups of columns") from None
