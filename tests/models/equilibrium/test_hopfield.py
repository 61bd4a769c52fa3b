"""Modern Hopfield networks: the energy, its descent, its memories, and its Boltzmann law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.dynamics import ResidualField
from driftwell.fixed_points import Implicit, Picard, Unrolled
from driftwell.models.equilibrium.hopfield import HopfieldEnergy, HopfieldRetrieval, HopfieldUpdate


def gaussian(*shape: int, seed: int) -> Tensor:
    return normal(shape, seed=seed, purpose=Purpose.USER, chains=shape[0], step=0,
                  dtype=torch.float64)  # fmt: skip


PATTERNS, STATES = gaussian(12, 5, seed=0), 2.0 * gaussian(40, 5, seed=1)


def test_force_is_minus_the_gradient_of_the_energy_and_the_residual_of_the_update() -> None:
    law = HopfieldEnergy(PATTERNS, beta=1.7)
    energy, force = law.energy_and_force(STATES)
    _, by_autograd = super(HopfieldEnergy, law).energy_and_force(STATES)
    torch.testing.assert_close(force, by_autograd, rtol=1e-12, atol=1e-12)
    residual = ResidualField(HopfieldUpdate(PATTERNS, beta=1.7))(torch.zeros(40), STATES)
    torch.testing.assert_close(force, residual, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(energy, law(STATES))


@pytest.mark.parametrize("beta", [0.2, 1.0, 8.0])
def test_every_update_lowers_the_energy_which_is_never_negative(beta: float) -> None:
    law, update, z = HopfieldEnergy(PATTERNS, beta), HopfieldUpdate(PATTERNS, beta), STATES
    for _ in range(30):
        after = update(z)
        assert bool((law(after) <= law(z) + 1e-12).all())
        z = after
    assert bool((law(z) >= -1e-12).all())


def test_one_update_errs_by_no_more_than_the_separation_allows() -> None:
    update = HopfieldUpdate(PATTERNS, beta=3.0)
    noise = 0.3 * gaussian(12, 5, seed=2)
    error = (update(PATTERNS + noise) - PATTERNS).norm(dim=1)
    bound = update.error_bound(noise.norm(dim=1))
    assert bool((error <= bound).all())
    # The separation itself, from its definition.
    gaps = [
        min(float(p @ (p - q)) for j, q in enumerate(PATTERNS) if j != i)
        for i, p in enumerate(PATTERNS)
    ]
    torch.testing.assert_close(update.separation(), torch.tensor(gaps, dtype=torch.float64))


def test_retrieval_returns_memories_that_stand_still() -> None:
    memory = HopfieldRetrieval(4.0 * PATTERNS, beta=4.0, tol=1e-12)
    found = memory(4.0 * PATTERNS + 0.2 * gaussian(12, 5, seed=3), throw=True)
    residual = (memory.update(found.z) - found.z).norm(dim=1) / memory.update(found.z).norm(dim=1)
    torch.testing.assert_close(residual, found.residual, rtol=1e-3, atol=1e-16)
    assert bool((residual <= 1e-12).all())
    separated = memory.update.separation() > 4.0
    assert int(separated.sum()) >= 4
    assert float((found.z - 4.0 * PATTERNS)[separated].norm(dim=1).max()) < 1e-3


def test_small_beta_averages_all_patterns() -> None:
    found = HopfieldRetrieval(PATTERNS, beta=1e-4)(STATES, throw=True)
    torch.testing.assert_close(found.z, PATTERNS.mean(0).expand(40, -1), rtol=0.0, atol=1e-3)


def test_gradient_for_the_patterns_is_that_of_unrolling() -> None:
    grads = []
    for how in (Implicit(tol=1e-13), Unrolled()):
        patterns = torch.nn.Parameter(PATTERNS.clone())
        memory = HopfieldRetrieval(
            patterns, beta=0.5, gradient=how, tol=1e-13, max_steps=400, solver=Picard()
        )
        memory(STATES, throw=False).z.pow(3).sum().backward()
        grads.append(patterns.grad)
    assert float((grads[0] - grads[1]).norm() / grads[1].norm()) < 1e-8


def test_at_temperature_one_over_beta_the_law_is_a_mixture_of_gaussians() -> None:
    """Density ratios against the mixture, exactly; its mean against chains, within their error."""
    beta = 2.0
    X = gaussian(3, 2, seed=4)
    law = HopfieldEnergy(X, beta)
    assert law.temperature == 1 / beta
    z = gaussian(50, 2, seed=5)
    weights = torch.softmax(0.5 * beta * X.square().sum(1), dim=0)
    distance2 = (z[:, None] - X).square().sum(2)
    density = (weights * torch.exp(-0.5 * beta * distance2)).sum(1).log()
    offset = density + beta * law(z)
    assert float(offset.std()) < 1e-12
    start = torch.zeros(2048, 2, dtype=torch.float64)
    chains = dw.sample(law, start, steps=600, warmup=100, keep=5,
                       sampler=dw.MALA(0.4), seed=3)  # fmt: skip
    per_chain = chains.kept.mean(0)
    error = per_chain.std(0) / math.sqrt(2048)
    assert bool(((per_chain.mean(0) - weights @ X).abs() < 4.5 * error).all())


@pytest.mark.parametrize(
    ("patterns", "beta", "sentence"),
    [
        (torch.zeros(0, 3), 1.0, "N and D at least 1"),
        (torch.zeros(3), 1.0, "shape \\(N, D\\)"),
        (torch.zeros(2, 3), 0.0, "beta must be positive"),
    ],
)
def test_bad_settings_get_one_sentence(patterns: Tensor, beta: float, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        HopfieldRetrieval(patterns, beta)


def test_states_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"shape \(B, 5\), got \(2, 4\)"):
        HopfieldUpdate(PATTERNS)(torch.zeros(2, 4))


def test_it_cites_its_paper() -> None:
    assert "2008.02217" in dw.cite(HopfieldRetrieval(PATTERNS))
