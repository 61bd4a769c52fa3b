"""A layered network whose layers also receive from the layer above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.state import State
from driftwell.dynamics import Map
from driftwell.learning.rules.holomorphic import LABORIEUX_ZENKE


def rate(u: Tensor) -> Tensor:
    """Firing rate sigma(u) = 1 / (1 + exp(2 - 4 u)) of slope 1 at u = 1/2, holomorphic.

    Example:
        >>> rate(torch.tensor([0.5]))
        tensor([0.5000])
    """
    return torch.sigmoid(4.0 * u - 2.0)


@final
class FeedbackNetwork(Map):
    """Layered network with feedback weights of their own, from Laborieux and Zenke, *Improving
    equilibrium propagation without weight symmetry through Jacobian homeostasis*, 2023,
    arXiv:2309.02214.

    The fixed point of the potentials u_1, ..., u_L, with a_l = sigma(u_l) and a_0 = x:

        u_l = W_l a_{l-1} + B_l a_{l+1} + b_l        (no feedback into the last layer)
        B_l = cos(angle) W_{l+1}^T + sin(angle) (a random matrix of the same law)   at the start

    With angle 0 the Jacobian in the rates is symmetric at the start, and `HolomorphicEP` with
    ``activation=rate`` exact; at 90 degrees feedback knows nothing of the forward weights.

    Args:
        sizes: neurons of the input and of every layer, at least one layer.
        angle: between feedback and transposed forward weights, in degrees.
        gain: standard deviation of a weight times the root of its layer's inputs.
        seed: of the keyed start weights.
        dtype: of the parameters.

    Raises:
        InvalidInput: fewer than two sizes, or one below 1.

    Example:
        >>> import driftwell as dw
        >>> network = FeedbackNetwork((4, 8, 3))
        >>> x = torch.rand(5, 4)
        >>> u = dw.fixed_point(network, network.rest(5), x).z
        >>> network.output(u).shape
        torch.Size([5, 3])
    """

    papers = (LABORIEUX_ZENKE,)

    def __init__(
        self,
        sizes: Sequence[int],
        angle: float = 0.0,
        gain: float = 1.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise InvalidInput(
                f"a feedback network needs an input and a layer of at least one neuron each, "
                f"got sizes {tuple(sizes)}"
            )
        self.sizes, self.angle = tuple(sizes), float(angle)
        turn = math.radians(self.angle)

        def drawn(rows: int, columns: int, fan_in: int, leaf: int) -> Tensor:
            numbers = normal(
                (rows, columns), seed=seed, purpose=Purpose.PARAMETERS, chains=rows, step=0,
                leaf=leaf, dtype=dtype,
            )  # fmt: skip
            scaled: Tensor = numbers * (gain / math.sqrt(fan_in))
            return scaled

        pairs = list(zip(self.sizes[1:], self.sizes, strict=False))
        forward = [drawn(n, m, m, 2 * l) for l, (n, m) in enumerate(pairs)]
        feedback = [
            math.cos(turn) * forward[l].T + math.sin(turn) * drawn(m, n, m, 2 * l + 1)
            for l, (n, m) in enumerate(pairs)
            if l > 0
        ]
        self.W = nn.ParameterList(forward)
        self.B = nn.ParameterList(feedback)
        self.b = nn.ParameterList(torch.zeros(n, dtype=dtype) for n in self.sizes[1:])

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return f"sizes={self.sizes}, angle={self.angle:g}"

    def rest(self, samples: int) -> Tensor:
        """Potentials of zero, (samples, n_1 + ... + n_L)."""
        still: Tensor = self.b[0].new_zeros(samples, sum(self.sizes[1:]))
        return still

    def forward(self, z: State, x: Any = None) -> State:
        """Potentials that the rates of `z` and the input x (B, n_0) drive, like `z`."""
        a = [x, *rate(self._checked(z, x)).split(self.sizes[1:], dim=1)]
        driven = [below @ W.T + b for below, W, b in zip(a, self.W, self.b, strict=False)]
        for l, B in enumerate(self.B):
            driven[l] = driven[l] + a[l + 2] @ B.T
        return torch.cat(driven, dim=1)

    def output(self, z: State) -> Tensor:
        """Rates of the last layer at the potentials `z`, (B, n_L)."""
        return rate(self._checked(z)[:, -self.sizes[-1] :])

    def _checked(self, z: State, x: Any = None) -> Tensor:
        n = sum(self.sizes[1:])
        if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != n:
            raise InvalidInput(f"a state of this network has shape (B, {n})")
        if x is not None and x.shape != (len(z), self.sizes[0]):
            raise InvalidInput(
                f"the input has shape ({len(z)}, {self.sizes[0]}), got {tuple(x.shape)}"
            )
        return z
