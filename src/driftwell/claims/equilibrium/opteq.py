"""Claims on OptEq: its energy is minimised, descended and sampled; a prior selects equilibria."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal
from driftwell.core.state import leaves
from driftwell.fixed_points import fixed_point
from driftwell.models.equilibrium.opteq import OPTEQ, OptEqEnergy, OptEqLayer
from driftwell.models.equilibrium.primitives import Integrable, ReLU, Softplus, Tanh
from driftwell.models.equilibrium.selection import sam_solve

_ACTIVATIONS: tuple[Integrable, ...] = (ReLU(), Tanh(), Softplus())


def _draw(seed: int, step: int, *shape: int) -> Tensor:
    return normal(
        shape, seed=seed, purpose=Purpose.PROBE, chains=shape[0], step=step, dtype=torch.float64
    )


def _layer(inputs: int, d: int, m: int, s: Integrable, bound: float, seed: int) -> OptEqLayer:
    """A layer in float64 whose |W|_2 is exactly `bound`."""
    layer = OptEqLayer(inputs, d, m, s, bound, seed=seed, dtype=torch.float64).eval()
    with torch.no_grad():
        layer.W0.div_(torch.linalg.matrix_norm(layer.W0, 2) / (2 * bound))
    return layer


def _minimiser(law: OptEqEnergy, x: Tensor) -> Tensor:
    """Minimisers of E by L-BFGS; without a line search it is not limited by rounding of E."""
    z = torch.zeros(len(x), law.W.shape[1], dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [z], max_iter=1000, history_size=20, tolerance_grad=1e-14, tolerance_change=0.0
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        energy = law.energy(z, x).sum()
        energy.backward()
        return energy.detach()

    optimizer.step(closure)
    return z.detach()


def _rise_along_picard(nets: int, untied: bool, seed: int) -> tuple[float, float]:
    """Largest E(z+) - E(z) + 1/2 |z+ - z|^2 over random nets, in units of 1 + |E|; share of nets
    where E ever rises.
    """
    worst, rising = -math.inf, 0
    for net in range(nets):
        layer = _layer(3, 8, 12, _ACTIVATIONS[net % 3], 1.0, seed * nets + net)
        with torch.no_grad():
            law = layer.energy_law()
        x = 2.0 * _draw(seed, net, 4, 3)
        W, u = law.W.detach(), layer.injection(x).detach()
        back = W
        if untied:
            back = _draw(seed, nets + net, 12, 8)
            back = back / torch.linalg.matrix_norm(back, 2)
        z = 3.0 * _draw(seed, 2 * nets + net, 4, 8)
        energy = law.energy(z, x).detach()
        rose = False
        for _ in range(30):
            after = layer.activation.value(z @ W.T + u) @ back
            then = law.energy(after, x).detach()
            slack = (then - energy + 0.5 * (after - z).square().sum(1)) / (1 + energy.abs())
            worst = max(worst, float(slack.max()))
            rose |= bool((then > energy + 1e-12 * (1 + energy.abs())).any())
            z, energy = after, then
        rising += rose
    return worst, rising / nets


def _judge_energy(untied: bool, seed: int) -> Outcome:
    apart = 0.0
    for k, s in enumerate(_ACTIVATIONS):
        layer = _layer(5, 20, 30, s, 0.98, 10 * seed + k)
        x = _draw(seed, 10**6 + k, 8, 5)
        W, u = layer.weight().detach(), layer.injection(x).detach()
        back = _draw(seed, 10**6 + 10 + k, 30, 20) if untied else W
        back = back * (0.98 / torch.linalg.matrix_norm(back, 2))

        def f(
            z: Tensor, W: Tensor = W, u: Tensor = u, back: Tensor = back, s: Integrable = s
        ) -> Tensor:
            return s.value(z @ W.T + u) @ back

        z = leaves(fixed_point(f, x.new_zeros(8, 20), tol=1e-12, max_steps=3000).z)[0]
        with torch.no_grad():
            law = layer.energy_law()
        exact = _minimiser(law, x)
        apart = max(apart, float(((z - exact).norm(dim=1) / exact.norm(dim=1)).max()))
    slack, rising = _rise_along_picard(1000, untied, seed)
    return Outcome(
        holds=apart < 1e-8 and slack < 1e-12 and rising == 0.0,
        measured={
            "|z - argmin E| / |z|": apart,
            "E(z+) - E(z) + |z+ - z|^2 / 2": slack,
            "nets where E rises": rising,
        },
        bound="equilibrium within 1e-8 of L-BFGS; in 1000 nets with |W| = 1 every step of the "
        "plain iteration lowers E by at least |z+ - z|^2 / 2, to 1e-12",
    )


def _untied(seed: int) -> Outcome:
    return _judge_energy(True, seed)


@claim(
    id="opteq-energy",
    paper=OPTEQ,
    states="the equilibrium of an OptEq layer minimises an explicit convex energy, and a plain "
    "iteration never raises it",
    stated="card: relative difference from L-BFGS below 1e-8, E monotone on 1000 nets with |W| = 1",
    cpu_minutes=0.6,
    control=_untied,
    control_is="another matrix of the same norm in place of W^T: no gradient any more",
)
def energy(seed: int) -> Outcome:
    """Equilibria against L-BFGS; the energy along plain iterations."""
    return _judge_energy(False, seed)


def _least_norm(W: Tensor, u: Tensor) -> Tensor:
    """argmin |z|^2 subject to W z + u >= 0, (d,), by trying every set of active rows."""
    best, d = None, W.shape[1]
    for size in range(d + 1):
        for rows in itertools.combinations(range(len(W)), size):
            A, c = W[list(rows)], u[list(rows)]
            z = -torch.linalg.pinv(A) @ c if size else W.new_zeros(d)
            feasible = bool((W @ z + u > -1e-11).all())
            if feasible and (best is None or z.norm() < best.norm()):
                best = z
    return W.new_zeros(d) if best is None else best


def _judge_least_norm(selected: bool, seed: int) -> Outcome:
    """W has orthonormal columns and W^T u = 0: {W z + u >= 0} is the set of equilibria."""
    d, m, samples = 3, 7, 20
    W = torch.linalg.qr(_draw(seed, 1, m, d))[0]
    layer = OptEqLayer(m, d, m, ReLU(), 1.0, dtype=torch.float64).eval()
    with torch.no_grad():
        layer.W0.copy_(W)
        layer.U.copy_(torch.eye(m, dtype=torch.float64) - W @ W.T)
    # The slack of a feasible point: positive, so that the set is not empty.
    x = _draw(seed, 2, samples, m).abs()
    z0 = 3.0 * _draw(seed, 3, samples, d)
    exact = torch.stack([_least_norm(W, u) for u in layer.injection(x).detach()])
    f = layer.at(x)
    if selected:
        found = sam_solve(f, lambda z: z, z0, steps=100_000)
    else:
        found = fixed_point(f, z0, tol=1e-10, max_steps=10_000)
    z = leaves(found.z)[0].detach()
    unsettled = float((f(z) - z).detach().norm(dim=1).max())
    apart = float((z - exact).norm(dim=1).max() / exact.norm(dim=1).max())
    return Outcome(
        holds=apart < 1e-3 and unsettled < 1e-3,
        measured={
            "distance from the least-norm equilibrium": apart,
            "|f(z) - z|": unsettled,
            "largest least norm": float(exact.norm(dim=1).max()),
        },
        bound="within 1e-3 (relative) of the quadratic program, solved exactly, on all 20 samples; "
        "|f(z) - z| < 1e-3; 100,000 steps of a method whose error is O(1/k)",
    )


def _unselected(seed: int) -> Outcome:
    return _judge_least_norm(False, seed)


@claim(
    id="opteq-least-norm",
    paper=OPTEQ,
    states="sequential averaging selects, among many equilibria, the one a prior prefers",
    stated="card: with R = |z|^2 / 2 the least-norm equilibrium of a ReLU layer",
    cpu_minutes=0.2,
    control=_unselected,
    control_is="the equilibrium Anderson reaches from the same start, with no prior",
)
def least_norm(seed: int) -> Outcome:
    """Least-norm equilibria against a quadratic program."""
    return _judge_least_norm(True, seed)
