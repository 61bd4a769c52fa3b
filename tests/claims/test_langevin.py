"""What the Langevin claims measure with: theory against exact sums, and one claim run whole."""

from __future__ import annotations

import math

import pytest
import torch

from driftwell.claims import find_claims, run_claim
from driftwell.claims.langevin.digit_machines import (
    Accuracies,
    accuracies,
    chain_mean,
    energy_of,
    virial_of,
)
from driftwell.claims.langevin.random_networks import correlated_response
from driftwell.claims.langevin.training_size import _crossing, _rank_correlation
from driftwell.measures.edge_of_chaos import critical_gain, random_couplings
from driftwell.models.langevin import NeuralLangevinMachine


@pytest.mark.parametrize("gamma", [-0.5, 0.0, 0.5])
def test_the_response_of_correlated_couplings_is_that_of_large_matrices(gamma: float) -> None:
    """1/N tr [(I-J)^T (I-J)]^-1; at N = 1000 its scatter over draws is below 1 % (measured)."""
    n, g = 1000, 0.7 / (1 + gamma)
    J = random_couplings(n, g, gamma, seed=5, dtype=torch.float64)
    exact = float(torch.linalg.svdvals(torch.eye(n, dtype=torch.float64) - J).pow(-2).mean())
    assert correlated_response(g, gamma) == pytest.approx(exact, rel=0.04)


@pytest.mark.parametrize("gamma", [-0.5, 0.0, 0.5])
def test_the_response_diverges_on_the_line(gamma: float) -> None:
    critical = critical_gain(gamma)
    near = [1 / correlated_response(critical * (1 - eps), gamma) for eps in (1e-3, 1e-4, 1e-5)]
    assert near[0] < 0.01
    assert near[0] > 9 * near[1] > 80 * near[2] > 0


def test_the_symmetric_response_is_the_semicircle_law() -> None:
    """gamma = 1: V/T = -dG/dz at z = 1 of G = (z - sqrt(z^2 - 4 g^2)) / (2 g^2)."""
    g = 0.3
    slope = (1 - 1 / math.sqrt(1 - 4 * g * g)) / (2 * g * g)
    assert correlated_response(g, 1.0) == pytest.approx(-slope, rel=1e-12)


def test_the_error_of_a_chain_mean_counts_chains_and_not_records() -> None:
    one = torch.tensor([[1.0, 3.0, 5.0, 7.0]])
    mean, error = chain_mean(one)
    assert (mean, chain_mean(one.repeat(50, 1))[1]) == (4.0, error)
    assert error == pytest.approx(one.double().std().item() / 2)


def test_energy_and_virial_of_records_are_those_of_each_state() -> None:
    machine = NeuralLangevinMachine(3, temperature=0.7, seed=2)
    kept = machine.initial_state(8, 1).reshape(2, 4, 3)
    x = kept[1, 2:3].clone().requires_grad_(True)
    energy = machine.energy(x)
    energy.sum().backward()
    assert x.grad is not None
    assert energy_of(machine, kept)[1, 2] == pytest.approx(energy.item(), rel=1e-6)
    work = (x.detach() * x.grad).sum().item() / (3 * 0.7)
    assert virial_of(machine, kept)[1, 2] == pytest.approx(work, rel=1e-5)


def test_copies_and_strangers_have_the_extreme_accuracies() -> None:
    real = torch.eye(6) * 0.5
    copies = accuracies(real, real.repeat(3, 1))
    assert copies.generated == 0.0
    apart = accuracies(real, (real + 5.0).repeat(3, 1))
    assert (apart.real, apart.generated, apart.value) == (1.0, 1.0, 0.25)
    assert Accuracies(0.5, 0.5, 0.0).value == 0.0


def test_rank_correlation_and_crossing() -> None:
    assert _rank_correlation([0.1, 0.2, 0.3, 0.4]) == 1.0
    assert _rank_correlation([0.4, 0.3, 0.2, 0.1]) == -1.0
    assert _rank_correlation([0.1, 0.3, 0.2, 0.4]) == pytest.approx(0.8)
    assert _crossing((10, 100), [0.0, 0.5], 0.25) == pytest.approx(math.sqrt(1000))
    assert _crossing((10, 100), [0.3, 0.5], 0.25) == 10
    assert math.isnan(_crossing((10, 100), [0.0, 0.1], 0.25))


def test_a_claim_of_the_family_runs_and_its_control_fails() -> None:
    """The quickest one; all of the fast subset runs in continuous integration."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    record = run_claim(find_claims(["nlm-denoising"])[0], seed=0)
    assert record["outcome"] == "reproduced", record
    assert record["ok"]
