"""Samplers against quadrature: the two-neuron machine of the card, and harmonic wells."""

from __future__ import annotations

import math

import pytest
import torch
from tests.sampling.quadrature import exact, two_neurons

import driftwell as dw

SIGMAS = 4.5  # two-sided Gaussian tail 7e-6; ~40 comparisons stay below one failure in 1000

UNBIASED = [
    (dw.MALA(0.1), 3000, 0.0),
    (dw.HMC(0.3, leapfrog=5), 800, 0.0),
    (dw.ReplicaExchange(step_size=0.1), 1500, 0.0),
    # Splittings of second order: a bias of O(dt^2) remains, bounded at these steps.
    (dw.Langevin(0.05), 4000, 0.002),
    (dw.BAOAB(0.15), 3000, 0.002),
]


def test_quadrature_gives_the_numbers_of_the_card() -> None:
    truth = exact(two_neurons(torch.float64))
    assert truth.mean.tolist() == pytest.approx([-0.0447, -0.1995], abs=5e-5)
    assert truth.second.tolist() == pytest.approx([0.3568, 0.1861], abs=5e-5)
    assert truth.energy == pytest.approx(0.6268, abs=5e-5)
    assert truth.log_z == pytest.approx(-0.0043, abs=5e-5)


@pytest.mark.parametrize(
    ("sampler", "steps", "bias"),
    UNBIASED,
    ids=lambda v: type(v).__name__ if isinstance(v, dw.sampling.Sampler) else str(v),
)
def test_mean_energy_and_moments_match_quadrature(
    sampler: dw.sampling.Sampler, steps: int, bias: float
) -> None:
    machine = two_neurons()
    truth = exact(two_neurons(torch.float64))
    chains = dw.sample(
        machine, machine.initial_state(400, seed=3), steps=steps, sampler=sampler, seed=3,
        warmup=steps // 5, keep=20,
    )  # fmt: skip
    per_chain = machine.energy(chains.kept.reshape(-1, 2)).detach().reshape(-1, 400).mean(0)
    _close(per_chain, truth.energy, bias)
    for i in range(2):
        _close(chains.kept[..., i].mean(0), float(truth.mean[i]), bias)
        _close(chains.kept[..., i].square().mean(0), float(truth.second[i]), bias)
    virial = chains.diagnostics.virial
    _close(virial, 1.0, 3 * bias)


def _close(per_chain: torch.Tensor, truth: float, bias: float) -> None:
    """Chains are independent, so the spread of their means is the Monte-Carlo error."""
    error = float(per_chain.std()) / math.sqrt(len(per_chain))
    assert abs(float(per_chain.mean()) - truth) < SIGMAS * error + bias


def test_paper_sampler_is_biased_where_the_default_is_not() -> None:
    """Card 1.6 at dt = 0.1: Euler <E> = 0.746, virial 1.18; Leimkuhler-Matthews 0.6275, 1.002."""
    machine = two_neurons()
    energies = {}
    for sampler in (dw.UnadjustedLangevin(0.1), dw.Langevin(0.1)):
        chains = dw.sample(
            machine, machine.initial_state(1000, seed=0), steps=2000, sampler=sampler, seed=5,
            warmup=400,
        )  # fmt: skip
        energies[type(sampler)] = float(chains.diagnostics.energy.mean())
        if isinstance(sampler, dw.UnadjustedLangevin):
            assert float(chains.diagnostics.virial.mean()) == pytest.approx(1.18, abs=0.03)
    assert energies[dw.UnadjustedLangevin] == pytest.approx(0.746, abs=0.01)
    assert energies[dw.Langevin] == pytest.approx(0.6268, abs=0.01)


@pytest.mark.parametrize("dt_lambda", [0.2, 1.0])
def test_variance_in_a_harmonic_well(dt_lambda: float) -> None:
    """Euler inflates the variance by 1 / (1 - dt lambda / 2); Leimkuhler-Matthews is exact."""
    curvature, T, count = 4.0, 0.7, 4000
    well = dw.dynamics.FunctionEnergy(lambda z: 0.5 * curvature * (z**2).sum(1), temperature=T)
    dt = dt_lambda / curvature
    for sampler, factor in (
        (dw.Langevin(dt), 1.0),
        (dw.UnadjustedLangevin(dt), 1 / (1 - dt_lambda / 2)),
    ):
        chains = dw.sample(
            well, torch.zeros(count, 1, dtype=torch.float64), steps=400, sampler=sampler, seed=11,
            warmup=100, keep=10,
        )  # fmt: skip
        per_chain = chains.kept.square().mean(dim=(0, 2))
        error = float(per_chain.std()) / math.sqrt(count)
        assert abs(float(per_chain.mean()) - factor * T / curvature) < SIGMAS * error


def test_annealing_ends_at_the_target_temperature() -> None:
    well = dw.dynamics.FunctionEnergy(lambda z: 0.5 * (z**2).sum(1), temperature=0.3)
    sampler = dw.AnnealedLangevin(start=3.0, over=300, step_size=0.2)
    chains = dw.sample(well, torch.zeros(4000, 1), steps=500, sampler=sampler, seed=2)
    variance = float(chains.z.square().mean())
    assert abs(variance - 0.3) < SIGMAS * 0.3 * math.sqrt(2 / 4000)


def test_descent_lowers_the_energy_monotonically() -> None:
    machine = dw.NeuralLangevinMachine(32, seed=4)
    x, last = machine.initial_state(8, seed=4), torch.full((8,), torch.inf)
    for _ in range(20):
        with torch.no_grad():
            energy = machine.energy(x)
        assert bool((energy <= last + 1e-5).all())
        last = energy
        x = dw.sample(machine, x, steps=5, sampler=dw.Descent(), seed=0, diagnostics=False).z


def test_replica_exchange_crosses_a_barrier_that_langevin_does_not() -> None:
    """Two wells at +-1 with a barrier of 16 T: a plain chain stays, a tempered one visits both."""
    wells = dw.dynamics.FunctionEnergy(lambda z: 16 * (z[:, 0] ** 2 - 1) ** 2)
    start = torch.ones(100, 1)
    plain = dw.sample(wells, start, steps=4000, sampler=dw.MALA(0.01), seed=1)
    ladder = (1.0, 2.0, 4.0, 8.0, 16.0)
    tempered = dw.sample(
        wells, start, steps=4000, sampler=dw.ReplicaExchange(ladder, step_size=0.01), seed=1
    )
    assert float((plain.z < 0).float().mean()) < 0.05
    left = float((tempered.z < 0).float().mean())
    assert abs(left - 0.5) < SIGMAS * 0.05
    assert bool((tempered.diagnostics.swap_acceptance > 0.1).all())


def test_conditional_sampling_matches_the_conditional_law() -> None:
    """Clamp x_0 of a correlated Gaussian: x_1 | x_0 is normal with known mean and variance."""
    precision = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    law = dw.dynamics.FunctionEnergy(lambda z: 0.5 * ((z @ precision) * z).sum(1))
    start = torch.tensor([[1.5, 0.0]], dtype=torch.float64).repeat(5000, 1)
    chains = dw.sample(
        law, start, steps=200, sampler=dw.Langevin(0.3), seed=8, warmup=50,
        clamp=torch.tensor([True, False]),
    )  # fmt: skip
    assert bool((chains.z[:, 0] == 1.5).all())
    mean = -0.9 * 1.5
    assert abs(float(chains.z[:, 1].mean()) - mean) < SIGMAS / math.sqrt(5000)
    variance = float((chains.z[:, 1] - mean).square().mean())
    assert abs(variance - 1.0) < SIGMAS * math.sqrt(2 / 5000)
