"""The tensors that a map captures: found by running it, and given to it anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from driftwell.core.errors import InvalidInput

_LOST = (
    "what f computes cannot be followed: a torch.autograd.Function, torch.no_grad() or a "
    "torch.func transform inside f works on tensors that f captures; use gradient=Unrolled()"
)


class Captured:
    """A map f(z) as a function of z and of every tensor that it captures.

    Parameters of modules, tensors of closures and the input x reach f from outside. They are
    found by watching which tensors its operations meet that none of them made; they are replaced
    by handing those operations others instead. So f becomes what `torch.autograd.Function` wants,
    a function of its arguments alone, whatever way it was written.

    Attributes:
        tensors: what f captures, in the order of first use.

    Example:
        >>> w = torch.tensor(3.0)
        >>> f = Captured(lambda z: w * z, torch.ones(1))
        >>> f.tensors
        (tensor(3.),)
        >>> f(torch.ones(1), (torch.tensor(5.0),))
        tensor([5.])
    """

    def __init__(self, f: Callable[[Tensor], Tensor], z: Tensor) -> None:
        self._f = f
        watch = _Operations({id(z): z}, {})
        with watch, torch.enable_grad():
            f(z)
        self.tensors: tuple[Tensor, ...] = tuple(watch.met.values())
        self._hidden = watch.hidden

    def __call__(self, z: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """f(z) with `tensors` in the places of `self.tensors`.

        Raises:
            InvalidInput: f uses tensors that cannot be followed.
        """
        if self._hidden:
            raise InvalidInput(_LOST)
        instead = {id(a): b for a, b in zip(self.tensors, tensors, strict=True)}
        operations = _Operations({id(z): z}, instead)
        with operations:
            value = self._f(z)
        if operations.met:
            raise InvalidInput(_LOST)
        return value


class _Operations(TorchFunctionMode):
    """Every torch function called: tensors replaced, and those that came from outside noted."""

    def __init__(self, made: dict[int, Tensor], instead: dict[int, Tensor]) -> None:
        super().__init__()
        self.met: dict[int, Tensor] = {}
        self.hidden = False  # whether any was met where autograd does not look
        # Kept alive, since an id is only the name of a tensor while it lives.
        self._made, self._instead = made, instead

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self._take, (args, kwargs or {}))
        return tree_map_only(Tensor, self._make, func(*args, **kwargs))

    def _take(self, tensor: Tensor) -> Tensor:
        if id(tensor) in self._instead:
            return self._instead[id(tensor)]
        if id(tensor) not in self._made:
            self.met[id(tensor)] = tensor
            self.hidden = self.hidden or not torch.is_grad_enabled()
        return tensor

    def _make(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self.met:  # an operation in place returns what it was given
            self._made[id(tensor)] = tensor
        return tensor
