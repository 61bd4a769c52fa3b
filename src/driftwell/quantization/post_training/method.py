"""What every post-training method is: a frozen value that picks codes for one matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import Format, Quantized


@dataclass(frozen=True)
class Method(ABC):
    """A way to choose the codes of W (R, C) from the second moments of its inputs.

    All methods look at one objective, the error of the layer's output over the calibration
    inputs X, which needs their Gram matrix G = X^T X only and separates over the rows of W:

        E(Q) = |X (W - Q)^T|_F^2 = sum_r (w_r - q_r) G (w_r - q_r)^T
    """

    @abstractmethod
    def quantize(self, w: Tensor, gram: Tensor, format: Format) -> Quantized:
        """Codes for the weight `w` (R, ...), seen as (R, C), given the Gram matrix (C, C).

        Raises:
            InvalidInput: `w` cannot be quantized in this format, or `gram` is no Gram matrix of
                its inputs.
        """


def checked(w: Tensor, gram: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """The weight as a matrix (R, C) of float32 or float64 and its Gram matrix in that dtype.

    Raises:
        InvalidInput: one of them is not what it should be.
    """
    matrix = format.matrix(w)
    return matrix, checked_gram(gram, matrix)


def checked_gram(gram: Tensor, matrix: Tensor) -> Tensor:
    """The Gram matrix (C, C) in the dtype of `matrix` (R, C).

    Raises:
        InvalidInput: shape, numbers or symmetry are not those of a Gram matrix of C inputs.
    """
    columns = matrix.shape[1]
    if gram.shape != (columns, columns):
        raise InvalidInput(
            f"the Gram matrix of a weight with {columns} columns is ({columns}, {columns}), "
            f"not {tuple(gram.shape)}: it is X^T X of the inputs of this very layer"
        )
    if not gram.is_floating_point():
        raise InvalidInput(f"a Gram matrix is floating, not {gram.dtype}")
    gram = gram.detach().to(matrix)
    size = gram.abs().amax()
    if not size.isfinite():
        raise InvalidInput("the Gram matrix holds NaN or infinity: check the calibration inputs")
    if (gram - gram.T).abs().amax() > 1e-3 * size or gram.diagonal().amin() < 0:
        raise InvalidInput(
            "a Gram matrix X^T X is symmetric with no negative diagonal entry; this one is not"
        )
    return gram


def keeps_scale(format: Format) -> bool:
    """Whether the scale is bound to a set of its own, so that it must not be fitted again."""
    return bool(getattr(format, "power_of_two", False))
