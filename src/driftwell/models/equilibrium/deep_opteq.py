"""Deep OptEq: the equilibrium of several averaged OptEq layers in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.results import FixedPoint
from driftwell.core.state import State
from driftwell.dynamics.laws import Map
from driftwell.fixed_points import Anderson, Gradient, Implicit, Solver, fixed_point
from driftwell.models.equilibrium.opteq import OPTEQ, OptEqLayer, rows_like


@final
class DeepOptEq(Map):
    """Deep OptEq, from Xie et al., *Optimization Induced Equilibrium Networks*, 2021,
    arXiv:2105.13228.

    z <- f_L o ... o f_1 (z),  f_l(z) = averaging W_l^T s(W_l z + U_l x + b_l) + (1 - averaging) z

    A composition of averaged nonexpansive maps is one, so a plain iteration converges to an
    equilibrium if there is one; it is unique if every |W_l|_2 < 1. A composition has no explicit
    energy. Of one layer it has the equilibrium of that layer, whatever the averaging.

    Args:
        layers: the layers, of one state size and one input size.
        averaging: in (0, 1]; below 1 unless every layer's bound is.

    Raises:
        InvalidInput: no layer, layers of several sizes, an averaging outside its range.

    Example:
        >>> deep = DeepOptEq([OptEqLayer(3, 4, seed=k) for k in range(2)]).eval()
        >>> x = torch.ones(1, 3)
        >>> z = deep.equilibrium(x).z
        >>> bool((deep(z, x) - z).abs().max() < 1e-3)
        True
    """

    papers = (OPTEQ,)

    def __init__(self, layers: Sequence[OptEqLayer], averaging: float = 0.5) -> None:
        super().__init__()
        sizes = {(layer.state, layer.U.shape[1]) for layer in layers}
        if len(sizes) != 1:
            raise InvalidInput(
                f"the layers must have one state size and one input size, got {sorted(sizes)}"
            )
        if not 0.0 < averaging <= 1.0:
            raise InvalidInput(f"averaging must be in (0, 1], got {averaging}")
        if averaging == 1.0 and any(layer.bound == 1.0 for layer in layers):
            raise InvalidInput("with averaging = 1 every layer needs a bound below 1")
        self.units, self.averaging = tuple(layers), averaging
        self.layers = nn.ModuleList(layers)

    def forward(self, z: State, x: Any = None) -> State:
        """One pass through all layers, (B, d)."""
        z = rows_like(z, self.units[0].W0)
        for unit in self._at(x):
            z = unit(z)
        return z

    def equilibrium(
        self,
        x: Tensor,
        z0: Tensor | None = None,
        *,
        solver: Solver = Anderson(),
        gradient: Gradient = Implicit(),
        tol: float = 1e-4,
        max_steps: int = 100,
        throw: bool = True,
    ) -> FixedPoint:
        """Equilibria z* = f_L o ... o f_1 (z*), from 0 unless `z0` is given.

        Settings as in `fixed_point`; the weights' norms are taken once.
        """
        for layer in self.units:
            if layer.training:
                layer.tighten()
        units = self._at(x)

        def f(z: Tensor) -> Tensor:
            for unit in units:
                z = unit(z)
            return z

        first = self.units[0]
        start = first.W0.new_zeros(len(x), first.state) if z0 is None else z0
        return fixed_point(
            f, start, solver=solver, gradient=gradient, tol=tol, max_steps=max_steps, throw=throw
        )

    def _at(self, x: Any) -> list[Callable[[Tensor], Tensor]]:
        """The averaged layers for this x."""
        return [self._averaged(layer.at(x)) for layer in self.units]

    def _averaged(self, f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda z: torch.lerp(z, f(z), self.averaging)
