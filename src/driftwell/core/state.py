"""State trees: a tensor, or nested tuples and dicts of tensors, batch first `(B, ...)`.

Every function here is per sample: it never mixes rows of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput

State: TypeAlias = "Tensor | tuple[State, ...] | dict[str, State]"


def leaves(z: State) -> list[Tensor]:
    """Tensors of the tree, in order (tuples by position, dicts by insertion)."""
    if isinstance(z, Tensor):
        return [z]
    if isinstance(z, dict):
        return [leaf for branch in z.values() for leaf in leaves(branch)]
    if isinstance(z, (tuple, list)):
        return [leaf for branch in z for leaf in leaves(branch)]
    raise InvalidInput(
        f"a state is a tensor or a nested tuple or dict of tensors, got {type(z).__name__}"
    )


def rebuild(like: State, new_leaves: Sequence[Tensor]) -> State:
    """Tree with the structure of `like` and the given leaves."""
    return _build(like, iter(new_leaves))


def tree_map(function: Callable[..., Tensor], z: State, *others: State) -> State:
    """Apply `function` leaf by leaf; all trees must have the same structure.

    Example:
        >>> tree_map(torch.add, (torch.ones(1), torch.ones(1)), (torch.ones(1), torch.ones(1)))
        (tensor([2.]), tensor([2.]))
    """
    columns = [leaves(z), *(leaves(other) for other in others)]
    if len({len(column) for column in columns}) != 1:
        raise InvalidInput(
            f"states must have the same structure, got trees of {[len(c) for c in columns]} tensors"
        )
    return rebuild(z, [function(*row) for row in zip(*columns, strict=True)])


def batch_size(z: State) -> int:
    """Number of samples B, the common first dimension of all leaves."""
    return leaves(z)[0].shape[0]


def check_state(z: State, name: str = "z0", finite: bool = True) -> State:
    """Return `z` if it can be a state, else say what is wrong with it.

    Args:
        z: the candidate.
        name: what the sentence calls it.
        finite: look at the entries too, which compiled code cannot.

    Raises:
        InvalidInput: no tensor, no batch dimension, an empty batch, different batch sizes, an
            integer or boolean dtype, or NaN/Inf entries.
    """
    tensors = leaves(z)
    if not tensors:
        raise InvalidInput(f"{name} holds no tensor; give a tensor of shape (B, ...)")
    for tensor in tensors:
        if tensor.ndim == 0:
            raise InvalidInput(f"{name} has no batch dimension; give shape (B, ...), got a scalar")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise InvalidInput(
                f"{name} must be of a floating-point dtype, got {tensor.dtype}; "
                f"convert it, for example with {name}.float()"
            )
        if tensor.shape[0] == 0:
            raise InvalidInput(
                f"{name} is an empty batch of shape {tuple(tensor.shape)}; give at least one sample"
            )
        if tensor.shape[0] != tensors[0].shape[0]:
            raise InvalidInput(
                f"all tensors of {name} must share the batch size, got "
                f"{[tuple(t.shape) for t in tensors]}"
            )
        if not finite:
            continue
        bad = ~torch.isfinite(tensor)
        if bool(bad.any()):
            row = int(bad.reshape(tensor.shape[0], -1).any(dim=1).nonzero()[0])
            raise InvalidInput(
                f"{name} holds {int(bad.sum())} NaN or infinite entries, first in sample {row}; "
                "clean the input"
            )
    return z


def check_same_form(z: State, like: State, what: str) -> State:
    """Return `z` if its leaves have the shapes and dtypes of `like`, else one sentence."""
    if len(leaves(z)) != len(leaves(like)):
        raise InvalidInput(
            f"{what} must return a tree like its state with {len(leaves(like))} tensors, "
            f"got {len(leaves(z))}"
        )
    for got, expected in zip(leaves(z), leaves(like), strict=True):
        if got.shape != expected.shape or got.dtype != expected.dtype:
            raise InvalidInput(
                f"{what} must keep the state's shape and dtype {tuple(expected.shape)} "
                f"{expected.dtype}, got {tuple(got.shape)} {got.dtype}"
            )
    return z


def detach(z: State) -> State:
    """Tree of the detached leaves."""
    return tree_map(Tensor.detach, z)


def _column(mask: Tensor, leaf: Tensor) -> Tensor:
    return mask.reshape(-1, *([1] * (leaf.ndim - 1)))


def where(mask: Tensor, a: State, b: State) -> State:
    """Per sample: `a` where `mask` (B,) is true, else `b`."""
    return tree_map(lambda u, v: torch.where(_column(mask, u), u, v), a, b)


def select(z: State, index: Tensor) -> State:
    """Samples `index` of the batch (a LongTensor, or a bool mask of shape (B,))."""
    return tree_map(lambda leaf: leaf[index], z)


def flatten(z: State) -> Tensor:
    """All leaves side by side as real coordinates, shape (B, D).

    A complex entry gives two coordinates, its real and imaginary part; leaves of different
    dtypes are promoted to their common one.
    """
    tensors = [_real(leaf) for leaf in leaves(z)]
    if len(tensors) == 1:
        return tensors[0].reshape(tensors[0].shape[0], -1)
    return torch.cat([leaf.reshape(leaf.shape[0], -1) for leaf in tensors], dim=1)


def unflatten(flat: Tensor, like: State) -> State:
    """Inverse of `flatten`, with the shapes and dtypes of `like` (the batch size may differ)."""
    parts = flat.split([_real(leaf)[0].numel() for leaf in leaves(like)], dim=1)
    return rebuild(
        like, [_shaped(part, leaf) for part, leaf in zip(parts, leaves(like), strict=True)]
    )


def inner(a: State, b: State) -> Tensor:
    """Per-sample inner product of the real coordinates, (B,), in at least float32."""
    total: Tensor | None = None
    for u, v in zip(leaves(a), leaves(b), strict=True):
        product = (_widen(_real(u)) * _widen(_real(v))).reshape(u.shape[0], -1).sum(dim=1)
        total = product if total is None else total + product
    if total is None:
        raise InvalidInput("a state holds at least one tensor, got none")
    return total


def norm(z: State) -> Tensor:
    """Per-sample Euclidean norm over all leaves, shape (B,), in at least float32."""
    return inner(z, z).sqrt()


def is_finite(z: State) -> Tensor:
    """Per sample: whether every entry is finite, bool (B,)."""
    return torch.isfinite(flatten(z)).all(dim=1)


def _widen(u: Tensor) -> Tensor:
    return u.float() if u.dtype in (torch.float16, torch.bfloat16) else u


def _build(branch: State, remaining: Iterator[Tensor]) -> State:
    # A module-level function: a recursive closure would be a reference cycle that keeps the
    # leaves alive until Python collects garbage.
    if isinstance(branch, Tensor):
        return next(remaining)
    if isinstance(branch, dict):
        return {key: _build(value, remaining) for key, value in branch.items()}
    return tuple(_build(value, remaining) for value in branch)


def _real(u: Tensor) -> Tensor:
    return torch.view_as_real(u) if u.is_complex() else u


def _shaped(part: Tensor, leaf: Tensor) -> Tensor:
    if not leaf.is_complex():
        return part.reshape(part.shape[0], *leaf.shape[1:]).to(leaf.dtype)
    pairs = part.reshape(part.shape[0], *leaf.shape[1:], 2).to(leaf.real.dtype)
    return torch.complex(pairs[..., 0], pairs[..., 1])
