"""A weight held as its packed bytes: what every quantized layer is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.execution import Activations, Executor
from driftwell.quantization.formats import Grid, Packed


@final
class PackedWeight(nn.Module):
    """A matrix (R, C) in b real bits a weight, as a module whose buffers are those bytes.

        what[r, c] = scale[r, c // group] (levels[code[r, c]] - zero[r, c // group])

    `data` holds the codes, b bits each; `scale` and `zero` are kept in the precision they were
    found in, whatever `.to(dtype)` asks for: only `decode()` then gives that dtype. `form` holds
    the numbers that say what the codes mean, so that a state dict says all there is to
    know. The layouts that fast kernels need are made on first use, and again after a change.

    Args:
        packed: the weight.
        activations: ``"float"``, or ``"int8"`` for products with inputs that are rounded to eight
            bits row by row as they come.
        exact: products in float32 or better and never in bfloat16, see `Executor`.

    Raises:
        InvalidInput: another word for `activations`.

    Example:
        >>> from driftwell.quantization.formats import Uniform
        >>> quantized = Uniform(4).encode(torch.linspace(-1, 1, 12).reshape(3, 4))
        >>> weight = PackedWeight(quantized.pack())
        >>> weight.data.shape, weight.bits, torch.equal(weight.decode(), quantized.decode())
        (torch.Size([3, 2]), 4, True)
    """

    data: Tensor
    scale: Tensor
    zero: Tensor
    levels: Tensor
    form: Tensor

    def __init__(self, packed: Packed, activations: str = "float", *, exact: bool = False) -> None:
        super().__init__()
        self.activations, self.exact = checked_activations(activations), exact
        self.dtype = packed.dtype
        self._executor: Executor | None = None
        grid = packed.grid
        form = [grid.bits, grid.group_size, packed.columns, len(grid.levels), *packed.shape]
        for name, tensor in (
            ("data", packed.data),
            ("scale", grid.scale),
            ("zero", grid.zero),
            ("levels", grid.levels),
            ("form", torch.tensor(form, device=packed.data.device)),
        ):
            said = name != "levels" or not grid.is_uniform  # 0, 1, 2, .. need not be stored
            self.register_buffer(name, tensor.detach().clone(), persistent=said)

    @property
    def bits(self) -> int:
        """Bits a weight."""
        return int(self.form[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.form[4:].tolist())

    @property
    def packed(self) -> Packed:
        """The bytes with what they mean; nothing is copied."""
        bits, group_size, columns, _, *shape = self.form.tolist()
        grid = Grid(self.levels, self.scale, self.zero, group_size, bits)
        return Packed(self.data, grid, columns, tuple(shape), self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zeros."""
        return self.packed.nbytes

    def decode(self) -> Tensor:
        """The weight's values, of its shape and dtype."""
        return self.packed.decode().to(self.dtype)

    def product(self, x: Tensor) -> Tensor:
        """x W^T of inputs (..., C), as (..., R), in x's dtype."""
        if self._executor is None:
            packed = self.packed
            matrix = replace(packed, shape=(len(packed.data), packed.columns))
            self._executor = Executor(matrix, self.activations, exact=self.exact)
        return self._executor(x)

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return described(self.packed, self.activations)

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own layouts: they may hold what cannot be copied.
        return {**self.__dict__, "_executor": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        kept = {name: self._buffers[name] for name in ("scale", "zero", "levels")}
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.data.device)).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            moved = self._buffers[name]
            if before is not None and moved is not None and moved.dtype != before.dtype:
                self._buffers[name] = before.to(moved.device)
        self._executor = None
        return self

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        found = state.get(prefix + "form")
        if found is not None and found.tolist() != self.form.tolist():
            raise InvalidInput(
                f"the stored weight {prefix.rstrip('.')!r} has (bits, group, columns, "
                f"levels, shape) {found.tolist()}, this one {self.form.tolist()}: build the model "
                "with the format it was stored in"
            )
        super()._load_from_state_dict(state, prefix, *rest)
        self._executor = None


def checked_activations(activations: str) -> Activations:
    """The word, if it is one of the two.

    Raises:
        InvalidInput: it is not.

    Example:
        >>> checked_activations("int8")
        'int8'
    """
    if activations == "float":
        return "float"
    if activations == "int8":
        return "int8"
    raise InvalidInput(
        f'activations must be "float" or "int8" (rounded row by row), got {activations!r}'
    )


def described(packed: Packed, activations: str) -> str:
    """Bits, grouping and activations in words, for `extra_repr`."""
    grid = packed.grid
    levels = "uniform" if grid.is_uniform else f"{len(grid.levels)} levels"
    per = "tensor" if grid.scale.numel() == 1 else "channel"
    if grid.scale.shape[1] > 1:
        per = f"group of {grid.group_size}"
    return f"bits={grid.bits}, {levels}, per={per}, activations={activations}"
