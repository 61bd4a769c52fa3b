"""What a low-bit product is: a way to compute x W^T from a packed W."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from driftwell.quantization.formats.quantized import Packed

Activations = Literal["float", "int8"]


@dataclass(frozen=True)
class Kernel(ABC):
    """One way to compute y = x W^T, x (M, C) on the processor, W packed (R, C).

    Attributes:
        name: as tables show it.
        activations: "float", or "int8" where rows of x are rounded to 8 bits first.
        error: largest error, as a share of sum_c |x_c| |W_rc|; for "int8" of the product with the
            rounded x.
    """

    name: ClassVar[str]
    activations: ClassVar[Activations]
    error: ClassVar[float]

    @abstractmethod
    def missing(self) -> str:
        """Why it cannot run here, or an empty string."""

    @abstractmethod
    def refuses(self, packed: Packed) -> str:
        """Why it cannot take this weight, or an empty string."""

    @abstractmethod
    def prepare(self, packed: Packed) -> Any:
        """What `run` reads in place of the packed weight; made once."""

    @abstractmethod
    def run(self, x: Tensor, layout: Any) -> Tensor:
        """y (M, R) in the dtype of x (M, C): float32, bfloat16 or float16."""
