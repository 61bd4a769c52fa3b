"""Products with a packed weight."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from driftwell.core import native
from driftwell.core.errors import InvalidInput
from driftwell.quantization.execution.decoded import matrix
from driftwell.quantization.execution.kernel import Activations
from driftwell.quantization.execution.rounding import rounded
from driftwell.quantization.execution.selection import Choice, choose
from driftwell.quantization.formats.quantized import Packed

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@final
class Executor:
    """y = x W^T with W packed in b bits, by the fastest kernel that is right on this machine.

    Kernels are chosen by shape (see `path`), each after a self-test; what they read is prepared at
    the first use and kept. Where torch records, traces or transforms the call, and for float64, the
    weight is decoded and the product is torch's; the result is differentiable in x.

    Args:
        packed: the weight (R, C).
        activations: "float", or "int8" to round every row of x to 8 bits by its largest number.
        exact: products in float32 or better only, never in bfloat16.

    Raises:
        InvalidInput: `activations` is not one of the two.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> weight = torch.eye(3)
        >>> executor = Executor(Uniform(8).encode(weight).pack())
        >>> executor(torch.tensor([[1.0, 2.0, 3.0]])).round(decimals=2)
        tensor([[1., 2., 3.]])
        >>> executor.path(1)
        'decoded to float32: so small a product costs less than calling a kernel'
    """

    def __init__(
        self, packed: Packed, activations: Activations = "float", *, exact: bool = False
    ) -> None:
        """Keep the weight; nothing is prepared yet."""
        if activations not in ("float", "int8"):
            raise InvalidInput(f"activations are 'float' or 'int8', not {activations!r}")
        self.packed = packed
        self.activations = activations
        self.exact = exact
        self._choices: dict[tuple[Any, ...], Choice] = {}
        self._layouts: dict[str, Any] = {}
        self._stamp: tuple[int, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., R), in the dtype of x.

        Raises:
            InvalidInput: x has another number of columns or is not a floating-point tensor.
        """
        if x.ndim < 1 or x.shape[-1] != self.packed.columns or not x.is_floating_point():
            raise InvalidInput(
                f"the weight takes numbers with {self.packed.columns} columns, "
                f"not {x.dtype} of shape {tuple(x.shape)}"
            )
        if torch.is_grad_enabled() and x.requires_grad and native.takes(x.detach()):
            result: Tensor = _Differentiable.apply(x, self)  # type: ignore[no-untyped-call]
            return result
        return self._product(x)

    def path(self, rows: int, dtype: torch.dtype = torch.float32) -> str:
        """Which kernel a batch of `rows` rows takes, and why."""
        if dtype not in _DTYPES:
            return f"decoded: {dtype} is computed by torch in its own precision"
        choice = self._choice(rows)
        return f"{choice.kernel.name}: {choice.why}"

    def _product(self, x: Tensor) -> Tensor:
        if x.dtype not in _DTYPES or not native.takes(x, self.packed.data):
            return self._plain(x)
        self._refresh()
        flat = x.reshape(-1, x.shape[-1])
        if not flat.shape[0]:
            return x.new_empty(*x.shape[:-1], self.packed.shape[0])
        kernel = self._choice(flat.shape[0]).kernel
        layout = self._layouts.get(kernel.name)
        if layout is None:
            layout = self._layouts[kernel.name] = kernel.prepare(self.packed)
        if self.activations == "int8" and kernel.activations == "float":
            flat = rounded(flat.float()).to(x.dtype)
        return kernel.run(flat, layout).reshape(*x.shape[:-1], self.packed.shape[0])

    def _plain(self, x: Tensor) -> Tensor:
        """The product in the operations of torch alone, for whoever looks inside."""
        weight = matrix(self.packed).to(device=x.device, dtype=x.dtype)
        return F.linear(rounded(x) if self.activations == "int8" else x, weight)

    def _choice(self, rows: int) -> Choice:
        key = (rows, native.load("quantization/execution/products.c") is not None)
        if key not in self._choices:
            self._choices[key] = choose(self.packed, rows, self.activations, exact=self.exact)
        return self._choices[key]

    def _refresh(self) -> None:
        """Forget layouts of a weight whose buffers were written since (a state was loaded)."""
        grid = self.packed.grid
        parts = (self.packed.data, grid.scale, grid.zero, grid.levels)
        stamp = tuple(0 if part.is_inference() else part._version for part in parts)
        if stamp != self._stamp:
            self._layouts.clear()
            self._choices.clear()
            self._stamp = stamp


class _Differentiable(torch.autograd.Function):
    """y = x W^T, grad_x = grad_y W; the rounding of x to 8 bits passes gradients straight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, executor: Executor) -> Tensor:
        ctx.executor = executor
        return executor._product(x.detach())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        weight = matrix(ctx.executor.packed).to(device=grad.device, dtype=grad.dtype)
        return grad @ weight, None
