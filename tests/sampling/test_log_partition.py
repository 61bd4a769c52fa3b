"""Log-partition by annealed importance sampling, against quadrature and closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.sampling.quadrature import exact, two_neurons

import driftwell as dw
from driftwell.core.errors import InvalidInput


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_neurons_against_quadrature(seed: int) -> None:
    truth = exact(two_neurons(torch.float64)).log_z
    path = two_neurons().annealing_path()
    estimate = dw.log_partition(path, chains=1000, levels=100, seed=seed)
    assert estimate.standard_error < 0.05
    assert abs(estimate.value - truth) < 4.5 * estimate.standard_error


def test_uncoupled_machine_is_exact() -> None:
    free = dw.NeuralLangevinMachine(5, temperature=0.3, gain=0.0)
    estimate = dw.log_partition(free.annealing_path(), chains=10, levels=3)
    assert estimate.value == pytest.approx(2.5 * math.log(2 * math.pi * 0.3), abs=1e-6)
    assert estimate.effective_chains == pytest.approx(10)


def test_error_bar_covers_a_machine_of_16_neurons() -> None:
    """Independent runs differ by what their error bars say, and more levels shrink the bar."""
    path = dw.NeuralLangevinMachine(16, gain=1.0, seed=3).annealing_path()
    runs = [dw.log_partition(path, chains=300, levels=80, seed=s) for s in range(4)]
    for a, b in itertools.pairwise(runs):
        spread = math.hypot(a.standard_error, b.standard_error)
        assert abs(a.value - b.value) < 4.5 * spread
    coarse = dw.log_partition(path, chains=300, levels=8, seed=0)
    assert runs[0].effective_chains > coarse.effective_chains


@pytest.mark.parametrize(("chains", "levels"), [(1, 10), (10, 0)])
def test_bad_counts_are_refused(chains: int, levels: int) -> None:
    with pytest.raises(InvalidInput, match="chains >= 2 and levels >= 1"):
        dw.log_partition(two_neurons().annealing_path(), chains=chains, levels=levels)
