"""Laws and conversions: forces against differences, energies at rest, refusals in a sentence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.core.state import leaves, rebuild
from driftwell.dynamics import (
    Energy,
    EulerMap,
    FunctionEnergy,
    FunctionField,
    OverdampedField,
    ResidualField,
    SpeedEnergy,
    VectorField,
    as_energy,
    as_field,
)
from driftwell.testing import ConformanceError, check_field, check_map


def gaussian(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def difference_force(energy: Energy, z, x=None, step: float = 1e-6):
    """-dE/dz by central differences, entry by entry."""
    parts = leaves(z)
    forces = [torch.zeros_like(part) for part in parts]
    for i, part in enumerate(parts):
        flat = part.reshape(len(part), -1)
        for j in range(flat.shape[1]):
            values = []
            for sign in (1.0, -1.0):
                moved = flat.clone()
                moved[:, j] += sign * step
                others = [*parts[:i], moved.reshape(part.shape), *parts[i + 1 :]]
                values.append(energy.energy(rebuild(z, others), x))
            forces[i].reshape(len(part), -1)[:, j] = (values[1] - values[0]) / (2 * step)
    return forces


W = 0.8 * gaussian(5, 5, seed=0)
Z = gaussian(3, 5, seed=1)
X = gaussian(3, 5, seed=2)


def field(t: Tensor, z: Tensor) -> Tensor:
    return torch.tanh(z @ W.T) * torch.cos(t)[:, None] - z


@pytest.mark.parametrize(
    ("energy", "z", "x"),
    [
        (SpeedEnergy(field, time=0.3), Z, None),
        (SpeedEnergy(nn.Linear(5, 5).double(), of="map"), Z, None),
        (SpeedEnergy(lambda t, z, x: torch.sin(z) + x, of="field"), Z, X),
        (SpeedEnergy(lambda z, x: torch.tanh(z @ W.T + x), of="map"), Z, X),
        (
            SpeedEnergy(lambda z: {"a": z["b"][0] ** 2, "b": (z["a"].cos(),)}, of="map"),
            {"a": Z, "b": (X,)},
            None,
        ),
        (FunctionEnergy(lambda z: (z**4).sum(1) + z[:, 0] * z[:, 1]), Z, None),
        (as_energy(lambda z, x: ((z - x) ** 2).sum(1).exp()), 0.3 * Z, 0.3 * X),
    ],
    ids=["field", "module", "field with x", "map with x", "tree", "function", "function with x"],
)
def test_force_is_minus_the_slope_of_the_energy(energy, z, x):
    value, force = energy.energy_and_force(z, x)
    torch.testing.assert_close(value, energy.energy(z, x).detach())
    for got, expected in zip(leaves(force), difference_force(energy, z, x), strict=True):
        torch.testing.assert_close(got, expected.detach(), rtol=1e-6, atol=1e-7)
        assert not got.requires_grad


def test_speed_energy_vanishes_at_fixed_points_and_nowhere_else():
    def f(z):
        return torch.tanh(z @ (0.5 * W).T) + 0.3

    star = dw.fixed_point(f, torch.zeros_like(Z), tol=1e-13).z
    energy = SpeedEnergy(f, of="map")
    assert float(energy(star).max()) < 1e-24
    assert float(energy.force(star).abs().max()) < 1e-12
    assert float(energy(Z).min()) > 1e-3
    residual = SpeedEnergy(ResidualField(f))
    torch.testing.assert_close(residual(Z), energy(Z))
    torch.testing.assert_close(residual.force(Z), energy.force(Z))


def test_hessian_vector_product():
    a = gaussian(5, 5, seed=3)
    law = FunctionEnergy(lambda z: 0.5 * ((z @ a) ** 2).sum(1) + (z**4).sum(1))
    v = gaussian(3, 5, seed=4)
    expected = v @ a @ a.T + 12 * Z**2 * v
    torch.testing.assert_close(law.hessian_vector(Z, v), expected)
    linear = FunctionEnergy(lambda z: z.sum(1))
    assert torch.equal(linear.hessian_vector(Z, v), torch.zeros_like(v))


def test_speed_energy_hessian_at_a_fixed_point_is_the_square_of_the_jacobian():
    law = SpeedEnergy(lambda t, z: z @ W.T)
    v = gaussian(3, 5, seed=5)
    torch.testing.assert_close(law.hessian_vector(torch.zeros_like(Z), v), v @ W.T @ W)


def test_conversions():
    t = torch.zeros(3, dtype=torch.float64)
    f = lambda z: torch.cos(z)  # noqa: E731
    torch.testing.assert_close(ResidualField(f)(t, Z), torch.cos(Z) - Z)
    torch.testing.assert_close(EulerMap(field, 0.1, time=0.3)(Z), Z + 0.1 * field(t + 0.3, Z))
    law = FunctionEnergy(lambda z: 0.5 * (z**2).sum(1), temperature=0.5)
    langevin = OverdampedField(law)
    torch.testing.assert_close(langevin(t, Z), -Z)
    torch.testing.assert_close(langevin.diffusion(t, Z), torch.ones_like(Z))  # sqrt(2 T)
    assert OverdampedField(law, temperature=0.0).diffusion(t, Z) is None


def test_an_euler_map_rests_where_its_field_does():
    at_rest = dw.fixed_point(EulerMap(lambda t, z: 1.0 - z**3, 0.2), 0.5 * torch.ones(1, 1)).z
    torch.testing.assert_close(at_rest, torch.ones(1, 1), rtol=1e-3, atol=0)


def test_laws_are_taken_as_they_are_or_wrapped():
    law = FunctionEnergy(lambda z: z.sum(1))
    assert as_energy(law) is law
    wrapped = as_field(field)
    assert as_field(wrapped) is wrapped
    assert isinstance(wrapped, VectorField)
    assert wrapped.diffusion(torch.zeros(3), Z) is None
    noisy = FunctionField(field, lambda t, z, x: x)
    assert torch.equal(noisy.diffusion(torch.zeros(3), Z, X), X)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: as_energy(3), "an energy is a driftwell Energy or a callable"),
        (lambda: as_field(None), "a vector field is"),
        (lambda: as_energy(lambda z: z)(Z), r"one number per sample, shape \(3,\), got \(3, 5\)"),
        (lambda: as_energy(lambda z: z.sum()).force(Z), "one number per sample"),
        (lambda: as_energy(lambda z: 1.0)(Z), "one number per sample"),
        (lambda: FunctionEnergy(lambda z: z.sum(1), temperature=0.0), "temperature must be pos"),
        (lambda: FunctionEnergy(lambda z: z.sum(1), temperature=-1.0), "got -1.0"),
        (lambda: SpeedEnergy(field, of="flow"), "'field' or 'map', got 'flow'"),
        (lambda: SpeedEnergy(field, temperature=float("nan")), "positive and finite"),
        (lambda: OverdampedField(lambda z: z.sum(1), temperature=-0.1), "must not be negative"),
    ],
)
def test_bad_laws_are_one_sentence(make, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        make()


def test_conformance_of_our_own_laws():
    check_map(torch.tanh, Z)
    check_map(lambda z, x: torch.tanh(z @ W.T + x), Z, X)
    check_map(EulerMap(field, 0.1), Z)
    check_map(lambda z: {"a": z["b"], "b": torch.sin(z["a"])}, {"a": Z, "b": X})
    check_field(field, Z)
    check_field(ResidualField(torch.cos), Z)
    check_field(OverdampedField(SpeedEnergy(field, temperature=0.3)), Z, derivatives=False)
    check_field(FunctionField(lambda t, z, x: x * z, lambda t, z, x: x.exp()), Z, X)


def in_place(z: Tensor) -> Tensor:
    return z.mul_(0.5)


def counting():
    calls = iter(range(1000))
    return lambda z: z + next(calls)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda z: z[:, :2], "keep the state's shape"),
        (lambda z: z.float(), "keep the state's shape and dtype"),
        (lambda z: z - z.mean(dim=0), "not row-wise"),
        (in_place, "in place"),
        (counting(), "no function"),
        (lambda z: z / 0.0, "NaN or infinity"),
        (lambda z: torch.tanh(z.detach()) + 0 * z, "differs from a central difference"),
        (lambda z: z.float().double() + z.abs().detach(), "differs from a central difference"),
    ],
)
def test_the_suite_sees_a_broken_map(broken, sentence):
    with pytest.raises(ConformanceError, match=sentence):
        check_map(broken, Z.clone())


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda t, z: z * t.mean(), "not row-wise"),
        (lambda t, z: z.sum(1), "keep the state's shape"),
        (FunctionField(field, lambda t, z: z.sum(1)), "the diffusion must keep"),
        (FunctionField(field, lambda t, z: z / z.norm()), "the diffusion is not row-wise"),
    ],
)
def test_the_suite_sees_a_broken_field(broken, sentence):
    with pytest.raises(ConformanceError, match=sentence):
        check_field(broken, Z)


def test_derivatives_are_checked_in_float64_only():
    with pytest.raises(InvalidInput, match="float64"):
        check_map(torch.tanh, Z.float())
    check_map(torch.tanh, Z.float(), derivatives=False)
