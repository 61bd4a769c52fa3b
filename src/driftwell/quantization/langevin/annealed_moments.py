"""What matters for the couplings of a noise-conditional machine along its annealed chains.

With q = sqrt(lambda / T'), T' = lambda + sigma^2, w = u / sqrt(T'), v = q w (the x / T of the
machine), d = phi' * (J_vh^T (q e)) and p = sigma / sqrt(T'), the error of the score at noise
level sigma, in the measure it was trained in, is to first order in the changes D of J_hv, V of
J_vh, with one row of D and V at a time,

    sigma dF = p * ( q * (J_vh phi' * (D v)) + q * (D^T d) + q * (V phi)
                     + q * (J_hv^T (phi' * (V^T (q e)))) )

    G_hv = m <v v^T> + <d_i^2> diag(<(p q)^2>),      m = mean_i <phi'_i^2 sum_k (p q)_k^2 J_ki^2>
    G_vh = M <phi phi^T> + <(q e)_k^2> diag(n),      M = mean_k <(p q)_k^2>,
                                                     n_j = <phi'_j^2 sum_k (p q)_k^2 (J_hv)_jk^2>

Unlike in a `NeuralLangevinMachine` the two matrices stand in series, so that each has its own
pair of terms; in both a row's cost is one quadratic form, as a method for layers wants it.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.models.langevin.annealing import annealed_sample
from driftwell.models.langevin.noise_conditional import Condition, NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe


@final
class AnnealedMoments:
    """Means over states of annealed chains; see the head of this file.

    Args:
        machine: the float machine.

    Example:
        >>> machine = NoiseConditionalMachine(torch.ones(3), hidden=4)
        >>> moments = AnnealedMoments(machine)
        >>> moments.add(torch.zeros(2, 3), machine.condition(2, sigma=1.0))
        >>> moments.grams()["J_vh"].shape
        torch.Size([4, 4])
    """

    def __init__(self, machine: NoiseConditionalMachine) -> None:
        self.machine, self.count = machine, 0
        self._sums: dict[str, Tensor] = {}

    def add(self, u: Tensor, x: Condition) -> None:
        """Count states u (B, K) at their condition."""
        m = self.machine
        with torch.no_grad():
            total = m.variance + x[0][:, None] ** 2
            q, p = (m.variance / total).sqrt(), x[0][:, None] * total.rsqrt()
            v, phi, e = _activities(m, u, x)
            slope = 1.0 - phi * phi
            reach = (p * q).square()
            back = slope * ((q * e) @ m.J_vh)
            found = {
                "vv": v.T @ v, "v": v.sum(0), "phiphi": phi.T @ phi,
                "phi": phi.T @ reach.mean(1), "reach": reach.sum(0),
                "back": back.square().sum(0), "residual": (q * e).square().sum(0),
                "into_visible": (slope.square() * (reach @ m.J_vh.square())).sum(0),
                "into_hidden": (slope.square() * (reach @ m.J_hv.square().T)).sum(0),
                "context": _context_gram(m, x), "total": reach.mean(1).sum(),
            }  # fmt: skip
        self.count += len(u)
        for name, value in found.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def mean(self, name: str) -> Tensor:
        """A mean over all states."""
        if not self.count:
            raise InvalidInput("moments of no states: call `add` with states of annealed chains")
        return self._sums[name] / self.count

    @property
    def rates(self) -> Tensor:
        """<phi> (H,), weighted by what reaches the visible neurons."""
        return self._sums["phi"] / self._sums["total"].clamp(min=1e-30)

    def grams(self) -> dict[str, Tensor]:
        """The quadratic form of a row of each coupling matrix."""
        forward = self.mean("into_visible").mean() * self.mean("vv")
        G_hv = forward + torch.diag(self.mean("back").mean() * self.mean("reach"))
        centred = self.mean("phiphi") - torch.outer(self.rates, self.rates)
        # weighting by level may leave the centred products a little indefinite
        values, vectors = torch.linalg.eigh(self.mean("reach").mean() * centred)
        products = (vectors * values.clamp(min=0.0)) @ vectors.T
        G_vh = products + torch.diag(self.mean("residual").mean() * self.mean("into_hidden"))
        return {"J_hv": G_hv, "J_vh": G_vh, "J_hk": self.mean("context"),
                "J_vk": self.mean("context")}  # fmt: skip


def annealed_states(
    machine: NoiseConditionalMachine, recipe: Recipe, *, chains: int = 256, seed: int = 0
) -> list[tuple[Tensor, Condition]]:
    """States (chains, K) at the end of each noise level of annealed sampling, with the condition.

    Example:
        >>> from driftwell.models.langevin.presets import preset
        >>> machine = NoiseConditionalMachine(torch.ones(3), hidden=4)
        >>> len(annealed_states(machine, preset("default"), chains=2))
        100
    """
    labels = machine.draw_labels(chains, seed)
    visited: list[tuple[Tensor, Condition]] = []

    def keep(u: Tensor, sigma: float) -> Tensor:
        visited.append((u, machine.condition(chains, sigma, labels)))
        return u

    annealed_sample(machine, recipe, chains, seed, labels=labels, hold=keep)
    return visited


def _activities(
    m: NoiseConditionalMachine, u: Tensor, x: Condition
) -> tuple[Tensor, Tensor, Tensor]:
    """v, phi(h) and the residual e of the machine's own units."""
    e, phi, q, scale = m._residual(*m._inputs(u, x))
    return q * u * scale, phi, e


def _context_gram(m: NoiseConditionalMachine, x: Condition) -> Tensor:
    context = torch.cat([x[1], m._level_code(x[0])], dim=1)
    return context.T @ context
