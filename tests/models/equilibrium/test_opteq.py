"""OptEq: its equilibrium minimises its energy, which is an exact law to sample."""

from __future__ import annotations

import math

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.models.equilibrium.deep_opteq import DeepOptEq
from driftwell.models.equilibrium.opteq import OptEqEnergy, OptEqLayer
from driftwell.models.equilibrium.primitives import Identity, Integrable, ReLU, Softplus, Tanh
from driftwell.models.equilibrium.selection import sam_solve

ACTIVATIONS = [Identity(), ReLU(), Tanh(), Softplus()]
each_activation = pytest.mark.parametrize("s", ACTIVATIONS, ids=repr)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def layer(s: Integrable = ReLU(), bound: float = 0.9, seed: int = 3) -> OptEqLayer:
    return OptEqLayer(3, 6, 9, s, bound, seed=seed, dtype=torch.float64).eval()


@each_activation
def test_the_primitive_integrates_the_activation(s: Integrable) -> None:
    u = torch.linspace(-40, 40, 4001, dtype=torch.float64) + 1e-3
    h = 1e-5
    slope = (s.primitive(u + h) - s.primitive(u - h)) / (2 * h)
    torch.testing.assert_close(slope, s.value(u), rtol=1e-8, atol=1e-8)
    slope = (s.value(u + h) - s.value(u - h)) / (2 * h)
    torch.testing.assert_close(slope, s.slope(u), rtol=1e-8, atol=1e-8)
    assert float(s.slope(u).min()) >= 0.0
    assert float(s.slope(u).max()) <= 1.0


def test_the_primitive_of_softplus_is_the_dilogarithm() -> None:
    special = pytest.importorskip("scipy.special")
    u = torch.linspace(-4, 30, 501, dtype=torch.float64)
    exact = -torch.from_numpy(special.spence(1 + u.exp().numpy()))
    torch.testing.assert_close(Softplus().primitive(u), exact, rtol=1e-13, atol=0)
    # Far left the argument of spence is rounded, and e^u - e^2u / 4 is exact.
    far = torch.tensor([-20.0, -30.0], dtype=torch.float64)
    torch.testing.assert_close(
        Softplus().primitive(far), far.exp() - (2 * far).exp() / 4, rtol=1e-14, atol=0
    )


@each_activation
def test_the_layer_is_a_gradient_step_on_its_energy(s: Integrable) -> None:
    unit, z, x, h = layer(s), numbers(4, 6), numbers(4, 3, seed=1), 1e-6
    step = (unit(z, x) - z).detach()
    for i in range(6):
        e = torch.zeros(6, dtype=torch.float64)
        e[i] = h
        slope = (unit.energy(z + e, x) - unit.energy(z - e, x)) / (2 * h)
        torch.testing.assert_close(step[:, i], -slope.detach(), rtol=1e-7, atol=1e-8)
    _, force = unit.energy_law().energy_and_force(z, x)
    torch.testing.assert_close(force, step, rtol=1e-12, atol=1e-12)


@each_activation
def test_the_hessian_is_between_zero_and_one(s: Integrable) -> None:
    law = layer(s).energy_law()
    z, x = numbers(1, 6).expand(6, -1), numbers(1, 3, seed=1).expand(6, -1)
    basis = torch.eye(6, dtype=torch.float64)
    hessian = law.hessian_vector(z, basis, x)
    torch.testing.assert_close(hessian, super(OptEqEnergy, law).hessian_vector(z, basis, x))
    values = torch.linalg.eigvalsh(hessian)
    assert 1 - 0.9**2 - 1e-12 <= float(values.min()) <= float(values.max()) <= 1 + 1e-12
    assert law.curvature_bound(z, x) == 1.0


def test_the_equilibrium_of_a_linear_layer_is_a_linear_solve() -> None:
    unit, x = layer(Identity()), numbers(4, 3, seed=1)
    W, u = unit.weight().detach(), unit.injection(x).detach()
    exact = torch.linalg.solve(torch.eye(6, dtype=torch.float64) - W.T @ W, (u @ W).T).T
    found = unit.equilibrium(x, tol=1e-12)
    torch.testing.assert_close(found.z.detach(), exact, rtol=1e-10, atol=1e-10)


@each_activation
def test_the_plain_iteration_never_raises_the_energy(s: Integrable) -> None:
    """E(z+) <= E(z) - 1/2 |z+ - z|^2, as E is 1-smooth; |W| = 1."""
    unit, z, x = layer(s, bound=1.0), 3 * numbers(16, 6), numbers(16, 3, seed=1)
    with torch.no_grad():
        unit.W0.mul_(3.0)
        for _ in range(50):
            after = unit(z, x)
            gain = unit.energy(z, x) - unit.energy(after, x) - 0.5 * (after - z).square().sum(1)
            assert float(gain.min()) > -1e-12 * (1 + float(unit.energy(z, x).abs().max()))
            z = after


def test_the_implicit_gradient_is_that_of_the_unrolled_solve() -> None:
    unit, x = layer(Tanh()), numbers(4, 3, seed=1)
    gradients = []
    for how in (dw.Implicit(tol=1e-12), dw.Unrolled()):
        z = unit.equilibrium(x, gradient=how, solver=dw.Picard(), tol=1e-13, max_steps=500).z
        unit.zero_grad()
        z.pow(3).sum().backward()
        gradients.append([p.grad.clone() for p in unit.parameters()])
    for mine, unrolled in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, unrolled, rtol=1e-8, atol=1e-9)


def test_the_norm_is_exact_or_by_power_iteration_in_training() -> None:
    unit = layer(bound=0.7)
    with torch.no_grad():
        unit.W0.copy_(5 * numbers(9, 6))
    assert torch.linalg.matrix_norm(unit.weight(), 2).item() == pytest.approx(0.7, rel=1e-12)
    assert torch.equal(unit.train().weight(), unit.eval().weight())
    unit.power_iterations = 1
    assert torch.linalg.matrix_norm(unit.train().weight(), 2).item() > 0.75  # from below
    unit.tighten(200)
    assert torch.linalg.matrix_norm(unit.weight(), 2).item() == pytest.approx(0.7, rel=1e-6)
    with torch.no_grad():
        unit.W0.mul_(0.01)
    assert torch.equal(unit.weight(), unit.W0)  # within the bound nothing is scaled


def test_a_prior_is_injected_by_its_proximal_operator() -> None:
    """R = l1: at z* minus the gradient of E is a subgradient of R."""
    unit, x, t = layer(Tanh()), numbers(8, 3, seed=1), 0.3
    z = unit.equilibrium(
        x, prior=lambda z: z.sign() * (z.abs() - t).clamp(min=0), tol=1e-11, max_steps=1000
    ).z.detach()
    force = unit.energy_law().force(z, x)
    on = z != 0
    assert 0 < int(on.sum()) < z.numel()
    torch.testing.assert_close(force[on], t * z[on].sign(), rtol=0, atol=1e-8)
    assert float(force[~on].abs().max()) <= t + 1e-8


def test_chains_fluctuate_about_the_equilibrium_as_linear_response_says() -> None:
    """Variance of each unit against T (I - W^T W)^-1; 4.5 standard errors of 4000 chains."""
    unit, x = layer(Identity()), numbers(1, 3, seed=1).expand(4000, -1)
    centre, W = unit.equilibrium(x[:1], tol=1e-12).z.detach(), unit.weight().detach()
    chains = dw.sample(
        unit.energy_law(0.3), centre.expand(4000, -1), x, steps=100, sampler=dw.Langevin(0.3),
        seed=4, diagnostics=False,
    )  # fmt: skip
    exact = 0.3 * torch.linalg.inv(torch.eye(6, dtype=torch.float64) - W.T @ W).diagonal()
    measured = (chains.z - centre).square().mean(0)
    assert float(((measured / exact) - 1).abs().max()) < 4.5 * math.sqrt(2 / 4000)


def test_one_deep_layer_has_the_equilibrium_of_that_layer() -> None:
    unit, x = layer(Tanh()), numbers(4, 3, seed=1)
    deep = DeepOptEq([unit], averaging=0.4)
    torch.testing.assert_close(
        deep.equilibrium(x, tol=1e-12).z, unit.equilibrium(x, tol=1e-12).z, rtol=1e-9, atol=1e-10
    )


def test_a_deep_equilibrium_is_fixed_and_unique() -> None:
    deep = DeepOptEq([layer(s, seed=k) for k, s in enumerate(ACTIVATIONS)]).eval()
    x = numbers(4, 3, seed=1)
    z = deep.equilibrium(x, tol=1e-12, max_steps=300).z
    torch.testing.assert_close(deep(z, x), z, rtol=1e-10, atol=1e-10)
    far = deep.equilibrium(x, 10 * numbers(4, 6), tol=1e-12, max_steps=300).z
    torch.testing.assert_close(far, z, rtol=1e-9, atol=1e-9)


def test_sequential_averaging_finds_the_nearest_point_of_a_set_to_what_the_prior_wants() -> None:
    """Fix(f) is the disc |z| <= 1 and R the distance from (3, 4): the limit is (0.6, 0.8)."""
    target = torch.tensor([3.0, 4.0], dtype=torch.float64)

    def onto_disc(z: torch.Tensor) -> torch.Tensor:
        return z / z.norm(dim=1, keepdim=True).clamp(min=1.0)

    found = sam_solve(onto_disc, lambda z: z - target, numbers(5, 2), steps=4000)
    assert float((found.z - target / 5).norm(dim=1).max()) < 5e-3
    assert bool((found.status == int(dw.Status.CONVERGED)).all())
    fewer = sam_solve(onto_disc, lambda z: z - target, numbers(5, 2), steps=400)
    ratio = (fewer.z - target / 5).norm(dim=1) / (found.z - target / 5).norm(dim=1)
    assert float((ratio / 10 - 1).abs().max()) < 0.1  # the error is O(1/k)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: OptEqLayer(0, 1), "at least 1"),
        (lambda: OptEqLayer(1, 1, bound=1.1), r"bound must be in \(0, 1\]"),
        (lambda: OptEqLayer(1, 1, power_iterations=-1), "must not be negative"),
        (lambda: OptEqLayer(1, 1, activation=torch.tanh), "one with a primitive"),  # type: ignore
        (lambda: layer().equilibrium(torch.zeros(2, 4)), r"shape \(B, 3\)"),
        (lambda: layer()(numbers(2, 4), numbers(2, 3)), r"shape \(B, 6\)"),
        (lambda: layer().energy_law(-1.0), "temperature must be positive"),
        (lambda: layer()(torch.zeros(2, 6), numbers(2, 3)), "got .* and torch.float32"),
        (lambda: layer().energy_law().energy(numbers(2, 6)), "got NoneType"),
        (lambda: DeepOptEq([]), "one state size"),
        (lambda: DeepOptEq([OptEqLayer(1, 1, bound=1.0)], 1.0), "a bound below 1"),
        (lambda: sam_solve(torch.cos, torch.cos, torch.zeros(1, 1), steps=0), "steps >= 1"),
    ],
)
def test_bad_input_gets_one_sentence(make: object, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make()  # type: ignore[operator]


def test_it_cites_its_paper() -> None:
    assert "2105.13228" in dw.cite(layer())
