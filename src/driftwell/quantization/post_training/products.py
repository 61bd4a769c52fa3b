"""Every product of a weight with a state, seen as it is computed, whoever computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# Rows of unfolded patches that are held at a time.
_PATCHES = 1 << 16
# A matrix made from a weight counts as the weight where it is a multiple of it to this accuracy.
_ALIKE = 1e-2
_FLIPS = {aten.t, aten.transpose, aten.permute, aten.numpy_T, aten.matrix_H, aten.mT}


@final
@dataclass(frozen=True, eq=False)
class Product:
    """One product of a weight W with inputs, or a look-up in it.

    Attributes:
        weight: name of the parameter.
        transposed: whether the inputs met its rows (x W) and not its columns (x W^T).
        source: the tensor the inputs were in: layers that read one tensor share it.
        rows: the inputs, part by part: (group of output channels, rows (N, C)).
    """

    weight: str
    transposed: bool
    source: Tensor
    rows: Callable[[], Iterator[tuple[int, Tensor]]]


class _Role(NamedTuple):
    """A tensor that is a weight, or its transpose, or a multiple of either."""

    name: str
    flipped: bool


@final
class WatchedProducts(TorchDispatchMode):
    """While it is entered, each product of one of `weights` with anything else is told to `seen`.

    It watches torch's own operations and not modules, so that a matrix is found wherever it is
    used: in a layer, in `z @ W.T`, in attention, inside a solver. A weight is recognised by its
    memory through views and casts, and what is computed from it (rescaled to a spectral bound,
    projected on a ball) counts as it where it is a multiple of it, to one per cent; `altered`
    names those that were used after a change of another kind. Compiled kernels of one's own
    are not seen.

    Args:
        weights: parameters by name, of two axes or more; the first is the output's.
        seen: called with every `Product`.

    Example:
        >>> W = torch.ones(2, 3)
        >>> names = []
        >>> with WatchedProducts({"W": W}, lambda product: names.append(product.weight)):
        ...     _ = torch.ones(4, 3) @ (0.5 * W).T
        >>> names
        ['W']
    """

    def __init__(self, weights: Mapping[str, Tensor], seen: Callable[[Product], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights, self._seen = dict(weights), seen
        self._roles: dict[tuple[Any, ...], tuple[_Role, StorageWeakRef]] = {}
        self._storages: set[int] = set()
        self._verdicts: dict[tuple[Any, ...], bool] = {}
        self._plain = _PlainCalls()
        self.altered: set[str] = set()
        for name, weight in self._weights.items():
            self._remember(weight.detach(), _Role(name, False))

    def __enter__(self) -> WatchedProducts:
        self._plain.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *about: Any) -> None:
        super().__exit__(*about)  # type: ignore[no-untyped-call]
        self._plain.__exit__(*about)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if not any(_storage(tensor) in self._storages for tensor in tensors):
            return out
        roles = [self._role(tensor) for tensor in tensors]
        if any(roles):
            operation = func.overloadpacket
            if not self._product(operation, args, kwargs or {}):
                self._derive(operation, tensors, roles, out)
        return out

    # ------------------------------------------------------------ which tensors are weights
    def _role(self, tensor: Tensor) -> _Role | None:
        if _storage(tensor) not in self._storages:
            return None
        found = self._roles.get(_key(tensor))
        return found[0] if found else self._as_view(tensor)

    def _as_view(self, tensor: Tensor) -> _Role | None:
        """The role of a weight's own memory seen through axes of one entry, as einsum does."""
        axes = [(n, step) for n, step in zip(tensor.shape, tensor.stride(), strict=True) if n > 1]
        for name, weight in self._weights.items():
            whole = weight.numel() == tensor.numel() and weight.is_contiguous()
            if not whole or _storage(weight) != _storage(tensor) or len(axes) != 2:
                continue
            rows, columns = len(weight), weight[0].numel()
            if axes == [(rows, columns), (columns, 1)]:
                return _Role(name, False)
            if axes == [(columns, 1), (rows, columns)]:
                return _Role(name, True)
        return None

    def _remember(self, tensor: Tensor, role: _Role) -> None:
        # The reference keeps the storage's address from being given to another tensor.
        reference = StorageWeakRef(tensor.untyped_storage())
        self._roles[_key(tensor)] = (role, reference)
        self._storages.add(_storage(tensor))

    def _derive(
        self, operation: Any, tensors: list[Tensor], roles: list[_Role | None], out: Any
    ) -> None:
        """What is computed from a weight may be it still, if it has its shape."""
        source, role = next(
            (tensor, role) for tensor, role in zip(tensors, roles, strict=True) if role
        )
        flipped = role.flipped ^ (operation in _FLIPS and _flips(source, out))
        weight = self._weights[role.name]
        for result in tree_leaves(out):
            if not isinstance(result, Tensor) or not result.is_floating_point():
                continue
            columns = result.shape[-2 if flipped else -1] if result.ndim > 1 else 0
            if result.shape == weight.shape or columns == weight[0].numel():
                self._remember(result, _Role(role.name, flipped))

    def _is_multiple(self, tensor: Tensor, role: _Role) -> bool:
        """Whether a matrix is the weight it was made from, up to a factor and rounding."""
        weight = self._weights[role.name].detach()
        if _storage(tensor) == _storage(weight):
            return True
        key = _key(tensor)
        if key not in self._verdicts:
            made = (tensor.mT if role.flipped else tensor).double()
            whole = made.numel() == weight.numel()
            alike = False
            if whole:
                made, known = made.reshape(-1), weight.double().reshape(-1)
                factor = made @ known / (known @ known)
                alike = bool((made - factor * known).norm() <= _ALIKE * made.norm())
            self._verdicts[key] = alike
            if not alike:
                self.altered.add(role.name)
        return self._verdicts[key]

    # ------------------------------------------------------------ what is a product
    def _product(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Tell of a product; whether the operation is one."""
        if operation in (aten.mm, aten.bmm, aten.mv):
            self._matmul(args[0], args[1])
        elif operation in (aten.addmm, aten.baddbmm, aten.addmv):
            self._matmul(args[1], args[2])
        elif operation is aten.linear:
            self._matmul(args[0], args[1].mT, spread=True)
        elif operation is aten.convolution:
            self._convolution(*args)
        elif operation is aten.embedding:
            role = self._role(args[0])
            if role:
                self._seen(Product(role.name, False, args[1], lambda: iter(())))
        else:
            return False
        return True

    def _matmul(self, a: Tensor, b: Tensor, spread: bool = False) -> None:
        left, right = self._role(a), self._role(b)
        if spread and right is None and (weight := self._role(b.mT)):
            right = _Role(weight.name, not weight.flipped)
        if left is not None and right is not None:
            self.altered |= {left.name, right.name}  # W^T W: no state has met it
            return
        if right is not None and self._is_multiple(b, right):
            # x @ W.T meets the columns of W; x @ W its rows
            self._tell(right.name, not right.flipped, a, a)
        elif left is not None and self._is_multiple(a, left):
            # W @ x meets the columns of W
            self._tell(left.name, left.flipped, b, b.mT if b.ndim > 1 else b)

    def _tell(self, name: str, transposed: bool, source: Tensor, x: Tensor) -> None:
        rows = x.detach()
        self._seen(
            Product(name, transposed, source, lambda: iter([(0, rows.reshape(-1, rows.shape[-1]))]))
        )

    def _convolution(self, x: Tensor, weight: Tensor, *settings: Any) -> None:
        role = self._role(weight)
        _, stride, padding, dilation, is_transposed, _, groups = settings
        if role is None or is_transposed or weight.ndim > 4 or not self._is_multiple(weight, role):
            return
        kernel, x = tuple(weight.shape[2:]), x.detach()
        # torch hands on one number where it stands for all axes
        stride, padding, dilation = (
            list(sizes) * (len(kernel) // len(sizes)) for sizes in (stride, padding, dilation)
        )

        def rows() -> Iterator[tuple[int, Tensor]]:
            yield from patches(x, kernel, stride, padding, dilation, groups)

        self._seen(Product(role.name, False, x, rows))


def patches(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Iterator[tuple[int, Tensor]]:
    """What each output pixel of a convolution sees, group by group, a few samples at a time.

    Args:
        x: (B, channels, L) or (B, channels, H, W).
        kernel: size of the kernel, one or two numbers.
        stride: as of the convolution, like `padding` and `dilation`.
        padding: zeros on either side.
        dilation: distance of two taps.
        groups: of channels.

    Yields:
        (group, rows (N, channels / groups * taps)).

    Example:
        >>> x = torch.arange(4.0).reshape(1, 1, 4)
        >>> [rows.tolist() for _, rows in patches(x, (2,), [1], [0], [1], 1)]
        [[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]]
    """
    if len(kernel) == 1:
        x, kernel = x.unsqueeze(2), (1, *kernel)
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    taps = x.shape[1] // groups * kernel[0] * kernel[1]
    pixels = max(1, x.shape[-1] * x.shape[-2] // (stride[0] * stride[1]))
    for part in x.split(max(1, _PATCHES // pixels)):
        seen = functional.unfold(part, kernel, tuple(dilation), tuple(padding), tuple(stride))
        for group in range(groups):
            rows = seen[:, group * taps : (group + 1) * taps]
            yield group, rows.transpose(1, 2).reshape(-1, taps)


class _PlainCalls(TorchFunctionMode):
    """Nothing changed: its presence keeps torch's layers off fused paths that show no product."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    if tensor.layout != torch.strided:
        return 0  # sparse tensors have none, and no weight is sparse
    return int(tensor.untyped_storage()._cdata)


def _key(tensor: Tensor) -> tuple[Any, ...]:
    return (
        _storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()),
        tensor.dtype,
    )  # fmt: skip


def _flips(source: Tensor, out: Any) -> bool:
    """Whether a transposition exchanged the last two axes."""
    if not isinstance(out, Tensor) or source.ndim < 2:
        return False
    return (out.shape[-2:], out.stride()[-2:]) == (
        (source.shape[-1], source.shape[-2]),
        (source.stride()[-1], source.stride()[-2]),
    )
