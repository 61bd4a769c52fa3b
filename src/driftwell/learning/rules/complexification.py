"""Laws of real parameters at complex states, and derivatives of complex functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State, leaves, rebuild, tree_map

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


class Complexified(TorchFunctionMode):
    """Inside, an operation with any complex tensor sees its real tensors as complex ones too.

    So a network with real weights, `nn.Linear` included, can be evaluated at a complex state.

    Example:
        >>> with Complexified():
        ...     torch.ones(1, 2) @ torch.ones(2, 1, dtype=torch.complex64)
        tensor([[2.+0.j]])
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if any(_is_complex(each) for each in (*args, *kwargs.values())):
            args = tuple(_promoted(each) for each in args)
            kwargs = {name: _promoted(each) for name, each in kwargs.items()}
        return func(*args, **kwargs)


def as_complex(z: State) -> State:
    """The tree with complex leaves of the same precision.

    Raises:
        InvalidInput: a leaf that is neither float32, float64 nor complex.

    Example:
        >>> as_complex(torch.ones(1, 1))
        tensor([[1.+0.j]])
    """

    def convert(leaf: Tensor) -> Tensor:
        if leaf.is_complex():
            return leaf
        if leaf.dtype not in _COMPLEX:
            raise InvalidInput(
                f"a state of {leaf.dtype} has no complex dtype of its precision; "
                "use float32 or float64, or n_points=2, which stays real"
            )
        return leaf.to(_COMPLEX[leaf.dtype])

    return tree_map(convert, z)


def derivative(function: Callable[[State], Tensor], z: State) -> State:
    """df/dz of a holomorphic function of each sample, a tree like z, detached.

    Autograd's convention gives the conjugate of the complex derivative; it is undone here.

    Example:
        >>> derivative(lambda z: (z**3).sum(1), torch.tensor([[1j]]))
        tensor([[-3.+0.j]])
    """
    with torch.enable_grad(), Complexified():
        inputs = [leaf.detach().requires_grad_(True) for leaf in leaves(z)]
        value = function(rebuild(z, inputs))
        slopes = torch.autograd.grad(
            value, inputs, grad_outputs=torch.ones_like(value), materialize_grads=True,
            allow_unused=True,
        )  # fmt: skip
    return rebuild(z, [slope.conj().resolve_conj() for slope in slopes])


def _is_complex(thing: Any) -> bool:
    if isinstance(thing, Tensor):
        return thing.is_complex()
    return isinstance(thing, (tuple, list)) and any(_is_complex(each) for each in thing)


def _promoted(thing: Any) -> Any:
    if isinstance(thing, Tensor):
        return thing.to(_COMPLEX[thing.dtype]) if thing.dtype in _COMPLEX else thing
    if isinstance(thing, (tuple, list)) and any(isinstance(each, Tensor) for each in thing):
        parts: Sequence[Any] = [_promoted(each) for each in thing]
        return type(thing)(parts)
    return thing
