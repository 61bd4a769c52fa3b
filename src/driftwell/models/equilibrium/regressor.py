"""Over-parameterised equilibrium regression: a plain ReLU layer that gradient descent can train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper
from driftwell.dynamics.laws import Map
from driftwell.fixed_points import Anderson, Gradient, Implicit, Solver, fixed_point

LING_GLOBAL = Paper(
    key="ling2023global",
    title="Global Convergence of Over-parameterized Deep Equilibrium Models",
    authors="Ling, Zenan and Xie, Xingyu and Wang, Qiuhao and Zhang, Zongpeng and Lin, Zhouchen",
    year=2023,
    arxiv="2205.13814",
    venue="AISTATS 2023",
)


@final
@dataclass(frozen=True)
class WellPosedness:
    """Whether a ReLU equilibrium is unique for every input: it is if |W|_2 < 1.

    Attributes:
        norm: |W|_2, exactly; power iteration would underestimate it.
        holds: norm < 1. Where it is false the guarantee is void, not the equilibrium.

    Example:
        >>> WellPosedness(norm=0.8).holds, WellPosedness(norm=1.55).holds
        (True, False)
    """

    norm: float

    @property
    def holds(self) -> bool:
        """Whether |W|_2 < 1."""
        return self.norm < 1.0


@final
class DEQRegressor(Map):
    """Over-parameterised equilibrium regression, from Ling, Xie, Wang, Zhang and Lin, *Global
    Convergence of Over-parameterized Deep Equilibrium Models*, 2023, arXiv:2205.13814.

        z* = relu(W z* + U x),     yhat = a . z*,     W, U and a all trained
        W_ij ~ N(0, 2 s_w2 / m),   U_ij ~ N(0, 2 / p),   a_i ~ N(0, 1 / m)

    For inputs of length sqrt(p). relu is 1-Lipschitz, so z* is unique while |W|_2 < 1; at the
    start |W|_2 is near sqrt(8 s_w2), so s_w2 < 1/8. For wide layers gradient descent on the
    squared loss then converges linearly and stays well-posed on the way.

    Args:
        inputs: p.
        width: m.
        s_w2: variance of the state weights in units of 2/m; not negative. From 1/8 on nothing is
            guaranteed, and `well_posedness` says so.
        solver: for the equilibrium.
        gradient: through the equilibrium.
        tol: relative tolerance of the equilibrium.
        seed: of the keyed start weights.
        dtype: of the parameters.

    Raises:
        InvalidInput: inputs or width below 1, or s_w2 negative.

    Example:
        >>> model = DEQRegressor(inputs=3, width=64, seed=1)
        >>> model.predict(torch.ones(2, 3)).shape, model.well_posedness().holds
        (torch.Size([2]), True)
    """

    papers = (LING_GLOBAL,)

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        s_w2: float = 0.08,
        solver: Solver = Anderson(),
        gradient: Gradient = Implicit(),
        tol: float = 1e-6,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if inputs < 1 or width < 1:
            raise InvalidInput(f"inputs and width must be at least 1, got {inputs} and {width}")
        if not 0.0 <= s_w2 < math.inf:
            raise InvalidInput(f"s_w2 must not be negative, got {s_w2}")
        self.solver, self.gradient, self.tol = solver, gradient, tol

        def draw(rows: int, columns: int, variance: float, leaf: int) -> nn.Parameter:
            noise = normal(
                (rows, columns), seed=seed, purpose=Purpose.INIT, chains=rows, step=0, leaf=leaf,
                dtype=dtype,
            )  # fmt: skip
            return nn.Parameter(math.sqrt(variance) * noise)

        self.W = draw(width, width, 2 * s_w2 / width, 0)
        self.U = draw(width, inputs, 2 / inputs, 1)
        self.a = nn.Parameter(draw(1, width, 1 / width, 2).detach()[0])

    def forward(self, z: Tensor, x: Any = None) -> Tensor:  # type: ignore[override]
        """relu(W z + U x), (B, m)."""
        return torch.relu(z @ self.W.T + x @ self.U.T)

    def equilibrium(self, x: Tensor, z0: Tensor | None = None) -> Tensor:
        """z*, (B, m), from `z0` or zero.

        Raises:
            NotConverged: the equilibrium was not found; see `well_posedness`.
        """
        start = x.new_zeros(x.shape[0], self.W.shape[0]) if z0 is None else z0
        found = fixed_point(
            self, start, x, solver=self.solver, gradient=self.gradient, tol=self.tol
        )
        state: Tensor = found.z  # type: ignore[assignment]
        return state

    def predict(self, x: Tensor, z0: Tensor | None = None) -> Tensor:
        """yhat, (B,), for inputs (B, p); differentiable."""
        return self.equilibrium(x, z0) @ self.a

    def well_posedness(self) -> WellPosedness:
        """|W|_2 as it is now, and whether it is below 1."""
        return WellPosedness(float(torch.linalg.matrix_norm(self.W.detach(), 2)))
