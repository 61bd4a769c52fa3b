"""A learned start: a network that guesses the fixed point from the input."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.state import State, check_same_form, flatten, norm, tree_map

NEURAL_SOLVERS = Paper(
    key="bai2022solvers",
    title="Neural Deep Equilibrium Solvers",
    authors="Bai, Shaojie and Koltun, Vladlen and Kolter, J. Zico",
    year=2022,
    venue="ICLR 2022",
)


@final
class InitialGuess(nn.Module):
    """Learned initialiser, from Bai, Koltun and Kolter, *Neural Deep Equilibrium Solvers*, 2022,
    ICLR.

    z_0 = h(x), fitted to the fixed points that solves have found:

        loss = mean over samples of |h(x) - z*|^2 / |z*|^2

    z* is detached: the guess learns from the solve and the solve not from the guess. With
    `Implicit()` the start has no gradient, so the two trainings do not meet; where the fixed
    point is unique the guess changes how long a solve takes and not what it finds.

    Args:
        network: h, from the input to a state (B, ...) or a tree of the form of z*.

    Example:
        >>> import driftwell as dw
        >>> x = torch.tensor([[1.0], [2.0]])
        >>> guess = InitialGuess(torch.nn.Linear(1, 1, bias=False))
        >>> _ = torch.nn.init.constant_(guess.network.weight, 2.0)
        >>> found = dw.fixed_point(lambda z, x: 0.5 * z + x, guess(x), x)
        >>> found.steps, bool(guess.loss(x, found.z) < 1e-6)
        (tensor([1, 1]), True)
    """

    papers = (NEURAL_SOLVERS,)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: State) -> State:
        """The start h(x), without a record."""
        with torch.no_grad():
            guess: State = self.network(x)
        return guess

    def loss(self, x: State, z: State) -> Tensor:
        """Mean relative squared distance of h(x) from the fixed points `z` (B, ...), a scalar.

        Raises:
            InvalidInput: h(x) is not of the form of `z`, or no sample of `z` differs from zero.
        """
        z = tree_map(Tensor.detach, z)
        guess = check_same_form(self.network(x), z, "the network of InitialGuess")
        size = norm(z).square()
        if not bool((size > 0).any()):
            raise InvalidInput("all fixed points are zero: there is nothing for a guess to learn")
        gap = (flatten(guess) - flatten(z)).square().sum(dim=1)
        # a sample at zero counts on the scale of the others
        return (gap / torch.where(size > 0, size, size[size > 0].mean())).mean()
