"""Replica-symmetric order parameters: closed forms, published numbers, and a simulation."""

from __future__ import annotations

import math

import pytest
import torch

from driftwell.core.errors import InvalidInput, NotConverged
from driftwell.core.noise import Purpose, normal
from driftwell.measures import random_couplings, rs_order_parameters
from driftwell.measures.order_parameters import _SaddlePoint


@pytest.mark.parametrize(
    ("g", "T", "Q", "second_moment"),
    [
        (0.5, 0.1, "0.1018", "0.1255"),
        (0.5, 0.01, "0.0129", "0.0132"),
        (0.8, 0.1, "0.1421", "0.1909"),
        (1.2, 0.2, "0.3208", "0.662"),
        (2.0, 0.5, "0.5789", "2.816"),
    ],
)
def test_the_table_of_the_tanh_network(g: float, T: float, Q: str, second_moment: str) -> None:
    point = rs_order_parameters(g, T)
    assert point.Q == pytest.approx(float(Q), abs=0.51 * 10.0 ** -(len(Q) - 2))
    places = len(second_moment) - 2
    assert point.second_moment == pytest.approx(float(second_moment), abs=0.51 * 10.0**-places)
    assert (point.q, point.r) == (0.0, 0.0)


@pytest.mark.parametrize("g", [0.0, 0.3, 0.8, 0.9])
def test_a_linear_network_has_its_closed_form(g: float) -> None:
    point = rs_order_parameters(g, 0.1, phi=lambda x: x)
    for value in (point.Q, point.V, point.second_moment):
        assert value == pytest.approx(0.1 / (1 - g**2), rel=1e-7)
    assert point.linear_response == pytest.approx(1 / (1 - g**2), rel=1e-7)
    assert point.energy == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(("g", "T"), [(0.8, 0.1), (1.5, 1e-3), (2.0, 0.5)])
def test_the_paramagnet_is_a_gaussian(g: float, T: float) -> None:
    """Integration by parts leaves V = T + g^2 Q, Q = E tanh^2(sqrt(V) z), <E>/N = T/2."""
    point = rs_order_parameters(g, T)
    assert pytest.approx(T + g**2 * point.Q, rel=1e-8) == point.V
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * z.square(), 0)
    assert (
        pytest.approx(float((weight * (point.V**0.5 * z).tanh() ** 2).sum()), rel=1e-8) == point.Q
    )
    assert point.energy == pytest.approx(T / 2, rel=1e-7)


def test_a_rectified_network_has_its_arc_cosine_kernel() -> None:
    """phi = max(x, 0) is not odd, so that q > 0: all of q, V, r are tested.

    x is Gaussian of variance s = T + g^2 Q, so Q = s/2; two replicas correlate by rho = g^2 q/s,
    and q = s/(2 pi) (sqrt(1 - rho^2) + rho (pi - arccos rho)).
    """
    g, T = 0.9, 0.2
    point = rs_order_parameters(g, T, phi=torch.relu, overlap=0.5, points=300, nodes=14)
    Q = T / (2 - g**2)
    s, q = T + g**2 * Q, 0.0
    for _ in range(200):
        rho = g**2 * q / s
        q = s / (2 * math.pi) * (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho)))
    assert pytest.approx(Q, rel=2e-3) == point.Q
    assert point.q == pytest.approx(q, rel=2e-3)
    assert pytest.approx(T + g**2 * (Q - q), rel=2e-3) == point.V
    assert point.r == pytest.approx(0.0, abs=1e-4)
    assert point.energy == pytest.approx(T / 2, rel=1e-3)


def test_one_iteration_is_the_cards_four_integrals() -> None:
    """At values off the saddle point, where r and the tilt of phi^2 count, by dense sums."""
    g, T, Q, q, V, r = 1.4, 0.3, 0.5, 0.2, 0.6, 0.1
    z = torch.linspace(-8, 8, 161, dtype=torch.float64)
    gauss = torch.softmax(-0.5 * z.square(), 0)
    x = torch.linspace(-9, 9, 3001, dtype=torch.float64)
    beta = 1 / T
    A = beta / (1 + beta * g**2 * (Q - q))
    m = (g * math.sqrt(q) * z)[:, None, None]
    exponent = (
        -A / 2 * (x - m) ** 2
        + 0.5 * (A**2 * g**2 * V - A * g**2) * x.tanh() ** 2
        + A * g * math.sqrt(r) * z[None, :, None] * x.tanh()
    )
    w = torch.softmax(exponent, 2)
    both = gauss[:, None] * gauss
    first = (w * x).sum(2)
    expected = [
        (both * (w * x.tanh() ** 2).sum(2)).sum(),
        (both * (w * x.tanh()).sum(2) ** 2).sum(),
        (both * ((w * x**2).sum(2) - first**2)).sum(),
        (both * (first - m[..., 0]) ** 2).sum(),
    ]
    solver = _SaddlePoint(g, torch.tanh, 40, 600)
    found, second = solver.iterate(T, torch.tensor([Q, q, V, r], dtype=torch.float64))
    assert found.tolist() == pytest.approx([float(value) for value in expected], rel=1e-6)
    assert second == pytest.approx(float((both * (w * x**2).sum(2)).sum()), rel=1e-6)


def test_overlap_dies_at_finite_temperature_and_annealing_changes_nothing() -> None:
    plain = rs_order_parameters(1.2, 0.2)
    started = rs_order_parameters(1.2, 0.2, overlap=0.9, nodes=10, points=300)
    assert started.q < 1e-6
    assert pytest.approx(plain.Q, rel=1e-6) == started.Q
    annealed = rs_order_parameters(1.2, 0.2, anneal=(1.0, 0.5))
    assert pytest.approx(plain.Q, rel=1e-8) == annealed.Q


def test_the_response_diverges_at_the_edge_of_chaos() -> None:
    responses = [rs_order_parameters(g, 1e-4).linear_response for g in (0.5, 0.8, 0.9, 1.1)]
    for g, response in zip((0.5, 0.8, 0.9), responses, strict=False):
        assert response == pytest.approx(1 / (1 - g**2), rel=0.01)
    assert responses[3] > 100


def test_a_simulated_network_agrees() -> None:
    """Langevin (Leimkuhler-Matthews) of the speed energy at g = 0.5, T = 0.1, N = 200."""
    g, T, n, chains, step_size = 0.5, 0.1, 200, 32, 0.05
    J = random_couplings(n, g, seed=3)
    x, old, Q, count = torch.zeros(chains, n), torch.zeros(chains, n), 0.0, 0
    for step in range(1200):
        phi = x.tanh()
        e = x - phi @ J.T
        gradient = e - (1 - phi**2) * (e @ J)
        new = normal((chains, n), seed=8, purpose=Purpose.USER, chains=chains, step=step)
        x = x - step_size * gradient + math.sqrt(T * step_size / 2) * (old + new)
        old = new
        if step >= 200:
            Q, count = Q + float(x.tanh().square().mean()), count + 1
    # One draw of J at N = 200 scatters by about 1 %.
    assert Q / count == pytest.approx(rs_order_parameters(g, T).Q, rel=0.04)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"g": -1.0}, "the gain g must be a number of at least 0, not -1"),
        ({"T": 0.0}, "need a temperature above 0, not 0"),
        ({"anneal": (1.0, -0.1)}, "need a temperature above 0, not -0.1"),
        ({"overlap": 1.0}, r"the overlap to start from is in \[0, 1\), not 1"),
        ({"nodes": 1}, "at least 2 nodes and 50 points, not 1 and 600"),
        ({"points": 9}, "not 20 and 9"),
        ({"damping": 0.0}, r"the damping is in \(0, 1\], not 0"),
    ],
)
def test_bad_settings_get_one_sentence(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        rs_order_parameters(**{"g": 0.5, "T": 0.1, **settings})  # type: ignore[arg-type]


def test_where_there_is_no_saddle_point_it_is_said() -> None:
    with pytest.raises(NotConverged, match=r"no replica-symmetric saddle point at g = 1\.5, T = 0"):
        rs_order_parameters(1.5, 0.1, phi=lambda x: x, max_steps=200)
