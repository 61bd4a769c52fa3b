"""Implicit graph neural network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, uniform
from driftwell.core.papers import Paper
from driftwell.core.results import FixedPoint
from driftwell.data.graphs import Graph
from driftwell.fixed_points import Anderson, Gradient, Implicit, Solver, fixed_point
from driftwell.models.graph.seats import Seats
from driftwell.nn.normalized import DUCHI, project_l1_ball

GU = Paper(
    key="gu2020ignn",
    title="Implicit Graph Neural Networks",
    authors="Gu, Fangda and Chang, Heng and Zhu, Wenwu and Sojoudi, Somayeh and El Ghaoui, Laurent",
    year=2020,
    arxiv="2009.06211",
    venue="NeurIPS 2020",
)

Level = Literal["node", "graph"]


@final
class IGNN(nn.Module):
    """Implicit graph neural network, from Gu, Chang, Zhu, Sojoudi and El Ghaoui, *Implicit Graph
    Neural Networks*, 2020, arXiv:2009.06211.

    Node states are the equilibrium of one layer, read out linearly:

        Z = relu(A Z W + A X B),    logits = Z V + c,    ||W||_inf = max_i sum_j |W_ij| <= kappa

    A is the symmetric normalised adjacency with self-loops, whose spectral radius is 1. With
    rows of W in the l1 ball of radius kappa < 1 the layer contracts by kappa in the norm
    (sum_i |Z_i|_1^2)^{1/2}, so its equilibrium exists, is unique, and is found from any start.
    The rows are projected on the ball wherever W is used: no update can leave it.

    A whole graph is one sample of the solve, see `Seats`; graphs side by side are several.

    Args:
        features: p, width of X.
        width: d, of the node state.
        classes: of the logits.
        kappa: bound on ||W||_inf, in (0, 1).
        level: "node" reads each node out; "graph" the sum of a graph's node states over the
            square root of their number.
        solver: of the equilibrium.
        gradient: through it.
        tol: relative tolerance of the equilibrium.
        max_steps: evaluations of the layer that are allowed.
        seed: of the keyed start weights.
        dtype: of the parameters.

    Raises:
        InvalidInput: a size below 1, or kappa outside (0, 1).

    Example:
        >>> from driftwell.data.graphs import Graph
        >>> path = Graph(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), torch.eye(3))
        >>> logits, found = IGNN(features=3, width=8, classes=2)(path)
        >>> logits.shape, found.status
        (torch.Size([3, 2]), tensor([0], dtype=torch.int8))
    """

    papers = (GU, DUCHI)

    def __init__(
        self,
        features: int,
        width: int,
        classes: int,
        kappa: float = 0.95,
        *,
        level: Level = "node",
        solver: Solver = Anderson(),
        gradient: Gradient = Implicit(max_steps=400),
        tol: float = 1e-5,
        max_steps: int = 400,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if min(features, width, classes) < 1:
            raise InvalidInput(
                f"features, width and classes must be at least 1, got {features}, {width}, "
                f"{classes}"
            )
        if not 0.0 < kappa < 1.0:
            raise InvalidInput(
                f"kappa must be in (0, 1) for the equilibrium to be unique, got {kappa}"
            )
        if level not in ("node", "graph"):
            raise InvalidInput(f'level must be "node" or "graph", got {level!r}')
        self.features, self.width, self.classes = features, width, classes
        self.kappa, self.level, self.tol, self.max_steps = kappa, level, tol, max_steps
        self.solver, self.gradient = solver, gradient

        def numbers(rows: int, columns: int, step: int) -> Tensor:
            return normal(
                (rows, columns), seed=seed, purpose=Purpose.PARAMETERS, chains=rows, step=step,
                dtype=dtype,
            )  # fmt: skip

        start = uniform(
            (width, width), seed=seed, purpose=Purpose.PARAMETERS, chains=width, step=0, dtype=dtype
        )
        self.W = nn.Parameter(project_l1_ball((2 * start - 1) / width**0.5, kappa))
        self.B = nn.Parameter(numbers(features, width, 1) * (2.0 / (features + width)) ** 0.5)
        self.V = nn.Parameter(numbers(width, classes, 2) * (2.0 / (width + classes)) ** 0.5)
        self.c = nn.Parameter(torch.zeros(classes, dtype=dtype))

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return (
            f"features={self.features}, width={self.width}, classes={self.classes}, "
            f"kappa={self.kappa}, level={self.level}"
        )

    def weight(self) -> Tensor:
        """W as it is used: rows projected on the l1 ball of radius kappa, (d, d)."""
        return project_l1_ball(self.W, self.kappa)

    def project_(self) -> None:
        """Write the projection into the parameter: the projected step of the paper's training."""
        with torch.no_grad():
            self.W.copy_(self.weight())

    def layer(self, graph: Graph) -> Callable[[Tensor, Tensor], Tensor]:
        """The map (Z, A X B) -> relu(A Z W + A X B) of states (G, n, d)."""
        along, W, seats = graph.propagation, self.weight(), Seats.of(graph)

        def step(z: Tensor, drive: Tensor) -> Tensor:
            rows = along(seats.stand(z) @ W)
            return torch.relu(seats.sit(rows) + drive)

        return step

    def drive(self, graph: Graph, x: Tensor | None = None) -> Tensor:
        """What the features add in every step, A X B, (G, n, d); `x` in place of the graph's."""
        x = graph.x if x is None else x
        if x.shape != (graph.nodes, self.features):
            raise InvalidInput(
                f"this network takes node features of width {self.features}, "
                f"got shape {tuple(x.shape)}"
            )
        return Seats.of(graph).sit(graph.propagation(x @ self.B))

    def equilibrium(
        self, graph: Graph, x: Tensor | None = None, z0: Tensor | None = None
    ) -> FixedPoint:
        """Z* as a state (G, n, d), from `z0` or zero, driven by `x` or the graph's features.

        Raises:
            InvalidInput: features of another width, an edge without its opposite.
            NotConverged: `max_steps` were too few.
        """
        drive = self.drive(graph, x)
        return fixed_point(
            self.layer(graph), torch.zeros_like(drive) if z0 is None else z0, drive,
            solver=self.solver, gradient=self.gradient, tol=self.tol, max_steps=self.max_steps,
        )  # fmt: skip

    def decode(self, graph: Graph, z: Tensor) -> Tensor:
        """Logits (N, classes), or (G, classes) at the graph level, of node states z (N, d)."""
        if self.level == "graph":
            member = graph.member
            if member is None:
                member = torch.zeros(graph.nodes, dtype=torch.int64, device=z.device)
            total = z.new_zeros(graph.graphs, self.width).index_add(0, member, z)
            sizes = torch.bincount(member, minlength=graph.graphs)
            z = total / sizes[:, None].to(z.dtype).sqrt()
        return z @ self.V + self.c

    def forward(self, graph: Graph) -> tuple[Tensor, FixedPoint]:
        """Logits, and the equilibrium they were read from."""
        found = self.equilibrium(graph)
        return self.decode(graph, node_states(graph, found)), found


def node_states(graph: Graph, found: FixedPoint) -> Tensor:
    """Node rows (N, d) of an equilibrium whose samples are graphs.

    Example:
        >>> from driftwell.data.graphs import Graph
        >>> path = Graph(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), torch.eye(3))
        >>> node_states(path, IGNN(features=3, width=8, classes=2).equilibrium(path)).shape
        torch.Size([3, 8])
    """
    if not isinstance(found.z, Tensor):
        raise InvalidInput("the equilibrium of a graph is one tensor (G, n, d)")
    return Seats.of(graph).stand(found.z)
