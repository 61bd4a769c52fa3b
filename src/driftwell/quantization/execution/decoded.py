"""Products with the decoded weight: the paths that always work, and serve large batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from torch import Tensor
from torch.nn import functional as F

from driftwell.quantization.execution.kernel import Activations, Kernel
from driftwell.quantization.formats.quantized import Packed


@final
@dataclass(frozen=True)
class Decoded16(Kernel):
    """The weight decoded once to bfloat16 and kept: as fast as a bfloat16 layer, as much memory.

    Example:
        >>> Decoded16().name
        'decoded to bfloat16'
    """

    name: ClassVar[str] = "decoded to bfloat16"
    activations: ClassVar[Activations] = "float"
    error: ClassVar[float] = 2.0**-7

    def missing(self) -> str:
        """Processors without products in bfloat16 are faster in float32."""
        flags = processor_flags()
        if flags & {"avx512_bf16", "amx_bf16", "bf16"}:
            return ""
        return "the processor has no products in bfloat16"

    def refuses(self, packed: Packed) -> str:
        """Nothing."""
        return ""

    def prepare(self, packed: Packed) -> Tensor:
        """The weight (R, C)."""
        return matrix(packed).bfloat16()

    def run(self, x: Tensor, layout: Tensor) -> Tensor:
        """y (M, R), computed in bfloat16."""
        return F.linear(x.bfloat16(), layout).to(x.dtype)


@final
@dataclass(frozen=True)
class Decoded32(Kernel):
    """The weight decoded once to float32 and kept.

    Example:
        >>> Decoded32().name
        'decoded to float32'
    """

    name: ClassVar[str] = "decoded to float32"
    activations: ClassVar[Activations] = "float"
    error: ClassVar[float] = 2.5e-4  # 4096 terms one after the other: K 2^-24

    def missing(self) -> str:
        """Nothing."""
        return ""

    def refuses(self, packed: Packed) -> str:
        """Nothing."""
        return ""

    def prepare(self, packed: Packed) -> Tensor:
        """The weight (R, C)."""
        return matrix(packed).float()

    def run(self, x: Tensor, layout: Tensor) -> Tensor:
        """y (M, R), computed in float32."""
        return F.linear(x.float(), layout).to(x.dtype)


def matrix(packed: Packed) -> Tensor:
    """The weight as a matrix (R, C), in the dtype of its grid."""
    return packed.unpack().matrix


def processor_flags() -> frozenset[str]:
    """Instruction sets that the system reports; empty where it reports none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(
        flag for name, _, value in lines if name.strip() in {"flags", "Features"}
        for flag in value.split()
    )  # fmt: skip
