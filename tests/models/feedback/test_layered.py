"""The feedback network: its equations, the angle of its feedback, exactness, learning."""

from __future__ import annotations

import math

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Implicit
from driftwell.learning import HolomorphicEP, jacobian_symmetry
from driftwell.models.feedback import FeedbackNetwork, rate


def network(angle: float = 0.0) -> FeedbackNetwork:
    return FeedbackNetwork((4, 6, 5, 3), angle=angle, gain=0.5, seed=2, dtype=torch.float64)


def x() -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.rand(7, 4, generator=g, dtype=torch.float64)


def test_every_layer_hears_the_one_below_and_the_one_above():
    net, z = network(30.0), torch.linspace(-1, 1, 7 * 14, dtype=torch.float64).reshape(7, 14)
    a1, a2, a3 = rate(z).split((6, 5, 3), dim=1)
    truth = [
        x() @ net.W[0].T + a2 @ net.B[0].T + net.b[0],
        a1 @ net.W[1].T + a3 @ net.B[1].T + net.b[1],
        a2 @ net.W[2].T + net.b[2],
    ]
    assert torch.allclose(net(z, x()), torch.cat(truth, dim=1))
    assert torch.equal(net.output(z), a3)


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_the_angle_is_that_between_feedback_and_transposed_forward_weights(angle):
    net = FeedbackNetwork((4, 200, 100), angle=angle, seed=0)
    B, W = net.B[0].detach(), net.W[1].detach()
    cosine = (B * W.T).sum() / (B.norm() * W.norm())
    assert cosine == pytest.approx(math.cos(math.radians(angle)), abs=0.03)


def test_aligned_feedback_makes_the_jacobian_symmetric_and_the_rule_exact():
    def gradients(net, how):
        net.zero_grad()
        u = dw.fixed_point(net, net.rest(7), x(), tol=1e-13, max_steps=500, gradient=how).z
        net.output(u).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    rule, truth = HolomorphicEP(0.05, 6, rate, tol=1e-13), Implicit(tol=1e-12)
    aligned, random = network(0.0), network(90.0)
    local, exact = gradients(aligned, rule), gradients(aligned, truth)
    assert (local - exact).norm() < 1e-6 * exact.norm()
    local, exact = gradients(random, rule), gradients(random, truth)
    assert (local - exact).norm() > 0.1 * exact.norm()
    symmetry = jacobian_symmetry(aligned, aligned.rest(1), x()[:1], activation=rate)
    assert symmetry.item() == pytest.approx(1.0)


def test_it_learns_a_function_by_the_local_rule_alone():
    net = FeedbackNetwork((2, 16, 1), gain=0.5, seed=0)
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    xor = torch.tensor([[0.1], [0.9], [0.9], [0.1]])
    rule = HolomorphicEP(0.1, 2, rate)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(150):
        with torch.no_grad():
            u = dw.fixed_point(net, net.rest(4), points).z
        loss = rule.loss(net, lambda a: (a[:, -1:] - xor).square().sum(1), u, points).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


def test_bad_sizes_and_shapes_are_refused():
    with pytest.raises(InvalidInput, match="at least one neuron"):
        FeedbackNetwork((3,))
    with pytest.raises(InvalidInput, match=r"\(B, 14\)"):
        network()(torch.zeros(7, 3), x())
    with pytest.raises(InvalidInput, match="input"):
        network()(network().rest(7), x()[:, :2])
