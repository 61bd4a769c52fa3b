"""Largest curvature by power iteration."""

from __future__ import annotations

import pytest
import torch

import driftwell as dw
from driftwell.sampling import curvature, largest_curvature


def test_curvature_is_the_largest_eigenvalue_of_the_hessian() -> None:
    machine = dw.NeuralLangevinMachine(10, seed=2, dtype=torch.float64)
    x = machine.initial_state(5, seed=1)
    estimate = curvature(machine, x, iterations=300)
    for row in range(5):
        hessian = torch.autograd.functional.hessian(lambda u: machine.energy(u[None])[0], x[row])
        truth = float(torch.linalg.eigvalsh(hessian).abs().max())
        assert float(estimate[row]) == pytest.approx(truth, rel=1e-3)


def test_machine_counts_the_curvature_at_rest() -> None:
    machine = dw.NeuralLangevinMachine(30, seed=2)
    rest = float(torch.linalg.matrix_norm(torch.eye(30) - machine.J.detach(), ord=2)) ** 2
    far = torch.full((2, 30), 5.0)  # saturated neurons: the curvature there is about 1
    assert float(curvature(machine, far).max()) < 3
    assert largest_curvature(machine, far) == pytest.approx(rest, rel=0.05)
