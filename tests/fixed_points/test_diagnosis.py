"""Why a solve did not converge: each cause is told from the others."""

from __future__ import annotations

import math
import re

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Picard, explain


def affine(*matrix):
    a = torch.tensor(matrix, dtype=torch.float64)
    return lambda z: z @ a.T + 1.0


def solve(f, z0=None, **settings):
    z0 = torch.zeros(1, 2, dtype=torch.float64) if z0 is None else z0
    return dw.fixed_point(f, z0, solver=Picard(), throw=False, **settings)


@pytest.mark.parametrize(
    ("f", "eigenvalue", "sentence"),
    [
        (affine([-1.5, 0.0], [0.0, 0.2]), -1.5, r"overshoots: lambda = -1.5; use .*damping=0.4"),
        (affine([1.2, 0.0], [0.0, 0.2]), 1.2, "expands: lambda = 1.2, no damping can settle"),
        (affine([0.0, 1.1], [-1.1, 0.0]), 1.1j, "turns outwards: lambda = .*1.1i.*damping=0.5"),
        (affine([0.99, 0.0], [0.0, 0.2]), 0.99, r"slowly: \|lambda\| = 0.99 costs .* 229 steps"),
    ],
    ids=["overshoots", "expands", "turns", "slow"],
)
def test_the_leading_eigenvalue_names_the_cause(f, eigenvalue, sentence):
    told = explain(f, solve(f))
    assert told.eigenvalue is not None
    assert math.isclose(abs(told.eigenvalue), abs(eigenvalue), rel_tol=1e-9)
    assert len(told.reasons) == 1
    assert re.search(sentence, told.reasons[0])


@pytest.mark.parametrize("matrix", [([-1.5, 0.0], [0.0, 0.2]), ([0.0, 1.1], [-1.1, 0.0])])
def test_the_damping_it_proposes_works(matrix):
    f = affine(*matrix)
    advice = explain(f, solve(f)).reasons[0]
    damping = float(advice.split("damping=")[1].rstrip(")"))
    found = dw.fixed_point(
        f, torch.zeros(1, 2, dtype=torch.float64), solver=Picard(damping), max_steps=300
    )
    assert found.status.tolist() == [dw.Status.CONVERGED]


def test_a_solve_that_converged_needs_no_reason():
    f = affine([0.5, 0.0], [0.0, 0.2])
    told = explain(f, solve(f))
    assert told.reasons == ()
    assert "reached its tolerance" in str(told)


def test_a_tolerance_below_rounding_is_told():
    W = 0.9 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) / 8

    def f(z):
        return torch.tanh(z @ W + 0.1)

    told = explain(f, solve(f, torch.zeros(1, 64), tol=1e-12, max_steps=300))
    assert "rounding of torch.float32" in told.reasons[0]


def test_a_map_that_is_random_is_told():
    noise = torch.Generator().manual_seed(0)

    def f(z):
        return 0.5 * z + torch.rand(z.shape, generator=noise)

    assert "something else the second time" in explain(f, solve(f, torch.zeros(1, 4))).reasons[0]


def test_a_map_that_is_not_finite_is_told():
    told = explain(lambda z: z / 0.0, solve(lambda z: z / 0.0))
    assert told.eigenvalue is None
    assert "not finite" in told.reasons[0]


def test_the_worst_failed_sample_is_chosen_with_its_input():
    rates = torch.tensor([[0.1], [0.999], [0.99]])

    def f(z, x):
        return x * z + 1.0

    found = dw.fixed_point(f, torch.zeros(3, 1), rates, solver=Picard(), max_steps=20, throw=False)
    told = explain(f, found, rates)
    assert told.sample == 1
    assert told.eigenvalue == pytest.approx(0.999, rel=1e-5)
    assert explain(f, found, rates, sample=2).eigenvalue == pytest.approx(0.99, rel=1e-5)
    with pytest.raises(InvalidInput, match="sample 3 is not in this batch of 3"):
        explain(f, found, rates, sample=3)
    with pytest.raises(InvalidInput, match="needs the result of fixed_point, got Tensor"):
        explain(f, found.z, rates)
