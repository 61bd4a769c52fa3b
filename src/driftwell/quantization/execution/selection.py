"""Which kernel a product takes: fixed rules from measured crossovers, never a race at run time.

The constants are printed by `python bench/low_bit_products.py --crossovers`, measured with weights
that come from memory. A kernel is considered only if it passed its self-test on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from driftwell.quantization.execution.aten import AtenInt4, AtenInt8, AtenIntegers
from driftwell.quantization.execution.compiled import CompiledFloats, CompiledIntegers
from driftwell.quantization.execution.decoded import Decoded16, Decoded32
from driftwell.quantization.execution.kernel import Activations, Kernel
from driftwell.quantization.execution.self_test import verdict
from driftwell.quantization.formats.quantized import Packed

KERNELS: tuple[Kernel, ...] = (
    CompiledIntegers(), CompiledFloats(), AtenIntegers(), AtenInt4(), AtenInt8(), Decoded16(),
    Decoded32(),
)  # fmt: skip

# rows of x up to which a kernel is faster than bfloat16; for `CompiledFloats` up to 4 bits, above
MOST_ROWS = {AtenInt4.name: 4, AtenInt8.name: 4}
MOST_ROWS_OF_FLOATS = (10, 8)
# `torch._int_mm` is fast for one row and for many
LEAST_ROWS_OF_ATEN_INTEGERS = 64
# weights and products below which calling a kernel costs more than a product in float32
SMALL_WEIGHT, SMALL_PRODUCT = 1 << 16, 1 << 18


@final
@dataclass(frozen=True)
class Choice:
    """A kernel and why it was chosen."""

    kernel: Kernel
    why: str


@final
@dataclass(frozen=True)
class KernelReport:
    """A row of `kernels`: what `driftwell doctor` says about one kernel."""

    name: str
    activations: str
    available: bool
    why: str


def kernels() -> tuple[KernelReport, ...]:
    """Every kernel of the library, whether it is used on this machine, and why or why not.

    Example:
        >>> [row.name for row in kernels() if row.name.startswith("decoded to float32")]
        ['decoded to float32']
    """
    found = ((kernel, verdict(kernel)) for kernel in KERNELS)
    return tuple(
        KernelReport(kernel.name, kernel.activations, v.available, v.why) for kernel, v in found
    )


def choose(
    packed: Packed,
    rows: int,
    activations: Activations,
    *,
    exact: bool = False,
    candidates: Sequence[Kernel] = KERNELS,
) -> Choice:
    """The kernel for a product with `rows` rows of x.

    Example:
        >>> import torch
        >>> from driftwell.quantization.formats import Uniform
        >>> packed = Uniform(4).encode(torch.randn(8, 8)).pack()
        >>> choose(packed, 3, "float", exact=True).kernel.name
        'decoded to float32'
    """
    if exact:
        return Choice(Decoded32(), "exact was asked for")
    size = packed.shape[0] * packed.columns
    if activations == "float" and size < SMALL_WEIGHT and rows * size < SMALL_PRODUCT:
        return Choice(Decoded32(), "so small a product costs less than calling a kernel")
    passed_over: list[str] = []
    for kernel in candidates:
        refusal = "".join(_refusals(kernel, packed, rows, activations))
        if not refusal:
            why = _reason(kernel, rows)
            return Choice(kernel, "; ".join([why, *passed_over]))
        if refusal != _OTHER and not isinstance(kernel, Decoded16 | Decoded32):
            passed_over.append(f"not {kernel.name}: {refusal}")
    return Choice(Decoded32(), "; ".join(["nothing faster applies", *passed_over]))


_OTHER = "for other activations"


def _refusals(
    kernel: Kernel, packed: Packed, rows: int, activations: Activations
) -> Iterator[str]:  # fmt: skip
    """At most one sentence, the first that holds."""
    if kernel.activations == "int8" and activations == "float":
        yield _OTHER
        return
    found = verdict(kernel)
    if not found.available:
        yield found.why
    elif refusal := kernel.refuses(packed):
        yield refusal
    elif rows > (most := _most_rows(kernel, packed) or rows):
        yield f"slower than bfloat16 beyond {most} rows"
    elif isinstance(kernel, AtenIntegers) and 1 < rows < LEAST_ROWS_OF_ATEN_INTEGERS:
        yield f"slower than bfloat16 from 2 to {LEAST_ROWS_OF_ATEN_INTEGERS - 1} rows"


def _most_rows(kernel: Kernel, packed: Packed) -> int:
    """Rows up to which the kernel pays; 0 where any number of them does."""
    if isinstance(kernel, CompiledFloats):
        return MOST_ROWS_OF_FLOATS[packed.grid.bits > 4]
    return MOST_ROWS.get(kernel.name, 0)


def _reason(kernel: Kernel, rows: int) -> str:
    if kernel.activations == "int8":
        return f"int8 activations, {rows} rows"
    if not isinstance(kernel, Decoded16 | Decoded32):
        return f"reading the weight is the cost of {rows} rows"
    return f"the fastest that applies to {rows} rows"
