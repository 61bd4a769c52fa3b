"""Equilibrium models with their solve as a loop inside the graph."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from driftwell.core.state import leaves
from driftwell.fixed_points import Solver, fixed_point
from driftwell.fixed_points.loops import WhileLoop
from driftwell.models.equilibrium.classifier import DEQClassifier, TiedLayer
from driftwell.quantization.formats import Packed
from driftwell.quantization.modules import PackedWeight, QuantizedParameter


@final
class SettledClassifier(nn.Module):
    """A `DEQClassifier` as a graph holds it: couplings within their bound, the solve as a loop.

    Args:
        model: the classifier, quantized or not.
        solver: of the fixed point; the model's own if not given.
        tol: relative tolerance; the model's own if not given.
        mean: subtracted from inputs first, (inputs,).
        scale: inputs are divided by after that, one number.

    Example:
        >>> model = DEQClassifier(64, 32, 10, seed=0)
        >>> x = torch.rand(5, 64, generator=torch.Generator().manual_seed(0))
        >>> with torch.no_grad():
        ...     logits, steps = SettledClassifier(model)(x)
        >>> torch.allclose(logits, model(x)[0], atol=1e-3), steps.shape
        (True, torch.Size([5]))
    """

    W: Tensor
    U: Tensor
    V: Tensor
    mean: Tensor | None
    scale: Tensor | None

    def __init__(
        self, model: DEQClassifier, solver: Solver | None = None, tol: float | None = None,
        mean: Tensor | None = None, scale: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        like = model.b
        self.register_buffer("mean", None if mean is None else mean.to(like))
        self.register_buffer("scale", None if scale is None else scale.to(like))
        self.activation, self.max_steps = model.activation, model.max_steps
        self.solver = model.solver if solver is None else solver
        self.tol = model.tol if tol is None else tol
        with torch.no_grad():
            factor = _shrinkage(model)
            for name, held in (("W", "W_0"), ("U", "U"), ("V", "V")):
                _take(self, name, model, held, factor if name == "W" else 1.0)
        self.b, self.c = model.b, model.c

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) of inputs (B, inputs), and evaluations of the layer (B,)."""
        x = x if self.mean is None else x - self.mean
        x = x if self.scale is None else x / self.scale
        injected = torch.addmm(self.b, x, self.U.T)
        found = fixed_point(
            TiedLayer(self.W, self.activation), torch.zeros_like(injected), injected,
            solver=self.solver, tol=self.tol, max_steps=self.max_steps, throw=False,
            loop=WhileLoop(),
        )  # fmt: skip
        return torch.addmm(self.c, leaves(found.z)[0], self.V.T), found.steps


def _shrinkage(model: DEQClassifier) -> float:
    """W / W_0."""
    if model.bound is None:
        return 1.0
    return min(1.0, model.bound / float(torch.linalg.matrix_norm(model.W_0, 2)))


def _take(module: nn.Module, name: str, of: nn.Module, held: str, factor: float) -> None:
    """Register `factor` times a parameter of another module, packed if it is packed there."""
    packed = packed_parameter(of, held)
    values = getattr(of, held).detach()
    module.register_parameter(name, nn.Parameter(factor * values, requires_grad=False))
    if packed is None:
        return
    weight, transposed = packed
    scaled = replace(weight, grid=weight.grid.replaced(scale=factor * weight.grid.scale))
    QuantizedParameter.replace(module, name, PackedWeight(scaled), transposed)


def packed_parameter(module: nn.Module, name: str) -> tuple[Packed, bool] | None:
    """What a parameter is packed as, and whether by columns; None if it is not."""
    if not parametrize.is_parametrized(module, name):
        return None
    first = module.parametrizations[name][0]  # type: ignore[index]
    if not isinstance(first, QuantizedParameter):
        return None
    return first.packed_weight.packed, first.transposed
