"""What matters for the couplings of a Neural Langevin Machine: moments of the states it visits.

With J^ = J + D the force changes, to first order in D, by

    dF = A^T D phi + phi' * (D^T e),     A = I - J diag(phi')

so that, over the states of the machine's own chains and with rows i of D taken one at a time,

    < |dF|^2 > ~ sum_i m_i D_i <phi phi^T> D_i^T + <e_i^2> sum_j <phi'_j^2> D_ij^2
    m_i = <(A A^T)_ii> = 1 + sum_k J_ik^2 <phi'_k^2>   (J_ii = 0)

The first term is the error of J phi, a layer's usual one. The second is that of J^T e: near
equilibrium e is almost white (E = |e|^2 / 2), so it adds to the diagonal only. Both are one
quadratic form of a row, and every method for a layer's weights takes it as its Gram matrix:

    G = <phi phi^T> + rho diag(<phi'^2>),   rho = sum_i <e_i^2> / sum_i m_i

What D <phi> does on average a bias takes back; where there is one, <phi phi^T> is a covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.models.langevin.machine import NeuralLangevinMachine
from driftwell.sampling import Langevin, Sampler, sample


@final
@dataclass(frozen=True, eq=False)
class VisitedMoments:
    """Moments over visited states; see the head of this file.

    Attributes:
        rates: <phi>, (N,).
        products: <phi phi^T>, (N, N).
        slopes: <phi'^2>, (N,).
        errors: <e^2>, (N,).
        count: number of states.
    """

    rates: Tensor
    products: Tensor
    slopes: Tensor
    errors: Tensor
    count: int

    def gram(self, J: Tensor, *, bias: bool, both: bool = True) -> Tensor:
        """G (N, N) of the joint objective.

        Args:
            J: couplings, (N, N).
            bias: whether a bias takes back what the rounding does on average.
            both: False leaves the second product, J^T e, out.
        """
        forward = self.products - bias * torch.outer(self.rates, self.rates)
        if not both:
            return forward
        weight = 1.0 + J.square() @ self.slopes - 2.0 * J.diagonal() * self.slopes.sqrt()
        rho = self.errors.sum() / weight.sum().clamp(min=1e-12)
        return forward + torch.diag(rho * self.slopes)


def visited_moments(machine: NeuralLangevinMachine, states: Tensor) -> VisitedMoments:
    """Moments over states (S, N) of the machine's chains.

    Raises:
        InvalidInput: no states, of another size, or NaN in them.

    Example:
        >>> machine = NeuralLangevinMachine(3, seed=0)
        >>> visited_moments(machine, torch.zeros(5, 3)).slopes.tolist()
        [1.0, 1.0, 1.0]
    """
    check_states(states, machine.n)
    with torch.no_grad():
        phi, e = torch.tanh(states), machine.residual(states)
        return VisitedMoments(
            phi.mean(0), phi.T @ phi / len(phi), (1 - phi * phi).square().mean(0),
            e.square().mean(0), len(states),
        )  # fmt: skip


def visited_states(
    machine: NeuralLangevinMachine, *, chains: int = 256, steps: int = 1000, seed: int = 0,
    sampler: Sampler | None = None, keep: int = 10,
) -> Tensor:  # fmt: skip
    """States (S, N) of the machine's own chains from noise, the way included.

    Args:
        machine: the float machine.
        chains: how many.
        steps: Langevin steps of each.
        seed: of start states and noise.
        sampler: None takes `Langevin()`.
        keep: steps between kept states, at most `steps`.

    Example:
        >>> visited_states(NeuralLangevinMachine(3), chains=4, steps=20, keep=10).shape
        torch.Size([8, 3])
    """
    made = sample(
        machine, machine.initial_state(chains, seed), steps=steps, sampler=sampler or Langevin(),
        seed=seed, keep=min(keep, steps), diagnostics=False,
    )  # fmt: skip
    if not isinstance(made.kept, Tensor):
        raise InvalidInput(f"calibration needs at least one step, got {steps}")
    return made.kept.flatten(0, 1)


def check_states(states: Tensor, n: int) -> None:
    """Raise one sentence unless `states` is a finite, non-empty (S, n)."""
    if states.ndim != 2 or states.shape[1] != n or not len(states):
        raise InvalidInput(f"calibration states have shape (S, {n}), got {tuple(states.shape)}")
    if not bool(states.isfinite().all()):
        raise InvalidInput("calibration states hold NaN or infinite numbers: drop those chains")
