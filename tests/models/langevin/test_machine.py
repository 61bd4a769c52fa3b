"""The Neural Langevin Machine: its exact statements (card 1.1)."""

from __future__ import annotations

import math

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import InvalidInput


def machine(n: int = 7, **settings: object) -> dw.NeuralLangevinMachine:
    made = dw.NeuralLangevinMachine(n, seed=5, dtype=torch.float64, **settings)
    with torch.no_grad():
        made.b.copy_(torch.linspace(-0.5, 0.5, n))
    return made


def states(n: int = 7, count: int = 4) -> torch.Tensor:
    return machine(n).initial_state(count, seed=8) * 1.5


def test_force_is_minus_the_gradient_by_finite_differences() -> None:
    m, x, h = machine(), states(), 1e-6
    _, force = m.energy_and_force(x)
    for i in range(m.n):
        step = torch.zeros(m.n, dtype=torch.float64)
        step[i] = h
        slope = (m.energy(x + step) - m.energy(x - step)) / (2 * h)
        torch.testing.assert_close(force[:, i], -slope, rtol=1e-7, atol=1e-7)


def test_hessian_vector_product_is_the_derivative_of_the_force() -> None:
    m, x = machine(), states()
    v = torch.cos(states())
    generic = super(dw.NeuralLangevinMachine, m).hessian_vector(x, v)
    torch.testing.assert_close(m.hessian_vector(x, v), generic, rtol=1e-10, atol=1e-10)


def test_hessian_at_a_fixed_point_is_positive_semidefinite() -> None:
    m = machine()
    x = states(count=1)
    with torch.no_grad():
        m.b.copy_((x - torch.tanh(x) @ m.J.T)[0])  # makes x a fixed point
    basis = torch.eye(m.n, dtype=torch.float64)
    hessian = m.hessian_vector(x.expand(m.n, -1), basis)
    phi = torch.tanh(x[0])
    A = basis - m.J.detach() * (1 - phi**2)
    torch.testing.assert_close(hessian, A.T @ A, rtol=1e-9, atol=1e-9)


def test_local_rule_is_the_likelihood_gradient() -> None:
    """J.grad is d/dJ of <E>_data / T - <E>_model / T with both batches held fixed."""
    m, data, model = machine(temperature=0.7), states(count=5), states(count=9).flip(0)
    m.local_gradient(data, model)
    mine_J, mine_b = m.J.grad.clone(), m.b.grad.clone()
    m.zero_grad()
    ((m.energy(data).mean() - m.energy(model).mean()) / 0.7).backward()
    torch.testing.assert_close(mine_J, m.J.grad.fill_diagonal_(0.0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mine_b, m.b.grad, rtol=1e-10, atol=1e-12)


def test_learning_follows_the_exact_likelihood() -> None:
    """Two neurons: -dL/dJ from model samples against finite differences of log Z by quadrature."""
    from tests.sampling.quadrature import exact, two_neurons

    m = two_neurons(torch.float64)
    data = torch.tensor([[0.3, -0.4], [1.0, 0.2]], dtype=torch.float64)
    h, slopes = 1e-4, []
    for sign in (1, -1):
        with torch.no_grad():
            m.J[0, 1] += sign * h
        slopes.append(float(-m.energy(data).detach().mean()) / m.temperature - exact(m).log_z)
        with torch.no_grad():
            m.J[0, 1] -= sign * h
    slope = (slopes[0] - slopes[1]) / (2 * h)
    chains = dw.sample(m, m.initial_state(4000, seed=1), steps=400, sampler=dw.MALA(0.2), seed=1,
                       warmup=100, keep=10)  # fmt: skip
    model = chains.kept.reshape(-1, 2)
    m.local_gradient(data, model)
    # Standard error: spread over chains of the chain averages of e_0 phi_1 / T.
    per_chain = (
        (m.residual(model)[:, 0].detach() * torch.tanh(model[:, 1])).reshape(-1, 4000).mean(0)
    )
    error = float(per_chain.std()) / math.sqrt(4000) / m.temperature
    assert abs(-float(m.J.grad[0, 1]) - slope) < 4.5 * error


def test_diagonal_stays_zero_unless_it_is_learned() -> None:
    kept, learned = machine(), machine(zero_diagonal=False)
    for m in (kept, learned):
        assert bool((m.J.diagonal() == 0).all())
        optimizer = torch.optim.Adam(m.parameters(), lr=0.1)
        m.local_gradient(states(), states().flip(0) * 0.5)
        optimizer.step()
    assert bool((kept.J.diagonal() == 0).all())
    assert bool((learned.J.diagonal() != 0).all())


def test_without_bias_energy_is_even() -> None:
    m = dw.NeuralLangevinMachine(9, bias=False, seed=1)
    x = m.initial_state(3, seed=1)
    torch.testing.assert_close(m.energy(x), m.energy(-x))
    m.local_gradient(x, -0.5 * x)
    assert m.b.grad is None


def test_start_couplings_have_the_gain_asked_for() -> None:
    m = dw.NeuralLangevinMachine(400, gain=1.7, seed=3)
    J = m.J.detach()
    spread = float(J.std()) * math.sqrt(400)
    assert abs(spread - 1.7) < 4.5 * 1.7 / math.sqrt(2 * 400**2) + 1.7 / 400
    assert bool((J.diagonal() == 0).all())
    assert torch.equal(J, dw.NeuralLangevinMachine(400, gain=1.7, seed=3).J)


def test_mean_energy_of_random_couplings_is_half_the_temperature_per_neuron() -> None:
    """Card 2: E/N = T/2 for random J, at g = 2, T = 0.5 (0.2565 simulated at N = 300)."""
    m = dw.NeuralLangevinMachine(200, temperature=0.5, seed=2)
    chains = dw.sample(m, m.initial_state(32, seed=1), steps=3000, seed=1, warmup=1000)
    assert float(chains.diagnostics.energy.mean()) / 200 == pytest.approx(0.25, rel=0.06)
    assert float(chains.diagnostics.virial.mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n": 0}, "n >= 1"),
        ({"n": 3, "temperature": -1.0}, "temperature must be positive"),
        ({"n": 3, "gain": -1.0}, "gain must be finite"),
    ],
)
def test_bad_settings_get_one_sentence(settings: dict, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        dw.NeuralLangevinMachine(**settings)


def test_states_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"shape \(B, 7\), got \(2, 5\)"):
        dw.sample(machine(), torch.zeros(2, 5, dtype=torch.float64), steps=1, seed=0)


def test_it_cites_its_paper() -> None:
    assert "2506.23546" in dw.cite(machine())
