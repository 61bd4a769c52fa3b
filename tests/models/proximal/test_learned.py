"""Learned proximal networks are proximal operators, with a prior that can be evaluated."""

from __future__ import annotations

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.models.proximal import LPN, Stage, matching_schedule, train_denoiser
from driftwell.models.proximal.inversion import invert
from driftwell.models.proximal.matching import ProximalMatching, proximal_matching_loss


def lpn(shape: tuple[int, ...] = (4,), **settings: object) -> LPN:
    return LPN(shape, hidden=12, seed=2, dtype=torch.float64, **settings)  # type: ignore[arg-type]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("shape", [(4,), (5, 6), (2, 5, 4)])
def test_the_prox_is_the_gradient_of_the_potential(shape: tuple[int, ...]) -> None:
    net, y, h = lpn(shape), numbers(2, *shape), 1e-6
    f = net.prox(y).detach().flatten(1)
    for i in range(0, f.shape[1], 3):
        e = torch.zeros(f.shape[1], dtype=torch.float64)
        e[i] = h
        e = e.reshape(shape)
        slope = (net.potential(y + e) - net.potential(y - e)).detach() / (2 * h)
        torch.testing.assert_close(f[:, i], slope, rtol=1e-7, atol=1e-8)


def test_the_prox_written_out_is_that_of_autograd_with_the_same_gradients() -> None:
    net = lpn((2, 5, 4), convexity=0.1)
    y, weights = numbers(3, 2, 5, 4).requires_grad_(), numbers(3, 2, 5, 4, seed=1)
    inputs = [y, *net.parameters()]
    (by_autograd,) = torch.autograd.grad(net.potential(y).sum(), y, create_graph=True)
    torch.testing.assert_close(net.prox(y), by_autograd, rtol=1e-8, atol=1e-8)
    mine, theirs = (
        torch.autograd.grad((f * weights).sum(), inputs, materialize_grads=True)
        for f in (net.prox(y), by_autograd)
    )
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_the_jacobian_is_symmetric_and_positive() -> None:
    net, y = lpn(), numbers(1, 4)
    J = torch.autograd.functional.jacobian(lambda y: net.prox(y)[0], y)[:, 0]
    torch.testing.assert_close(J, J.T)
    assert float(torch.linalg.eigvalsh(J).min()) >= 0


def test_f_of_y_minimises_the_distance_to_y_plus_the_prior() -> None:
    """argmin over x of 1/2 |x - y|^2 + R(x), against the values at a thousand other x = f(y')."""
    net, y = lpn(), numbers(5, 4)
    _, own = net.prior_at(y)
    x = net.prox(y).detach()
    others, prior = net.prior_at(numbers(1000, 4, seed=3))
    at_f = 0.5 * (x - y).square().sum(1) + own
    elsewhere = 0.5 * torch.cdist(y, others).square() + prior
    assert bool((at_f[:, None] <= elsewhere + 1e-12).all())


@pytest.mark.parametrize("shape", [(1,), (4,), (5, 6)])
def test_the_inverse_finds_where_a_point_came_from(shape: tuple[int, ...]) -> None:
    net, y = lpn(shape, convexity=0.1), numbers(8, *shape)
    x, exact = net.prior_at(y)
    prior = net.prior(x, tol=1e-9)
    assert float(prior.error.max()) <= 1e-9
    torch.testing.assert_close(prior.y, y, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(prior.value, exact, rtol=1e-10, atol=1e-10)


def test_a_point_outside_the_range_is_reported_by_its_error() -> None:
    net = lpn((1,))  # f is bounded: psi grows at most linearly
    far = torch.full((1, 1), 1e3, dtype=torch.float64)
    assert float(net.prior(far, max_steps=100).error) > 0.5


def test_inversion_does_not_depend_on_the_neighbours() -> None:
    net, x = lpn(convexity=0.1), numbers(6, 4)
    together = net.invert(x, tol=1e-10)
    alone = torch.cat([net.invert(x[i : i + 1], tol=1e-10) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


def test_a_steep_and_a_flat_field_are_inverted() -> None:
    scale = torch.tensor([3e-2, 1.0, 1e2], dtype=torch.float64)
    x = numbers(4, 3)
    y = invert(lambda y: scale * y, x, tol=1e-10, max_steps=2000)
    torch.testing.assert_close(scale * y, x, rtol=1e-8, atol=1e-8)


def test_training_passes_through_the_gradient() -> None:
    """d loss / d parameter by finite differences, and none of it where grad is off."""
    net, y, x = lpn(), numbers(3, 4), numbers(3, 4, seed=1)
    proximal_matching_loss(net.prox(y), x, 5.0).backward()
    p, h = net.psi.V[0], 1e-6
    for row, column in ((0, 0), (3, 5)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p[row, column] += sign * h
                values.append(float(proximal_matching_loss(net.prox(y), x, 5.0)))
                p[row, column] -= sign * h
        assert p.grad[row, column].item() == pytest.approx(
            (values[0] - values[1]) / (2 * h), rel=1e-5, abs=1e-10
        )
    with torch.no_grad():
        assert not net.prox(y).requires_grad


def test_as_a_map_its_fixed_point_is_stationary_for_the_prior() -> None:
    """f(z) = z says that z is the pre-image of itself, where grad R = y - x = 0."""
    net = lpn(convexity=0.2)
    z = dw.fixed_point(net, numbers(3, 4), tol=1e-11, max_steps=2000).z.detach()
    there = net.prior(z, tol=1e-11)
    torch.testing.assert_close(there.y, z, rtol=1e-7, atol=1e-7)


def test_proximal_matching_counts_whole_samples() -> None:
    x = torch.zeros(2, 3, 1, dtype=torch.float64)
    f = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)[..., None]
    expected = (1 - torch.exp(torch.tensor(-9.0 / 4, dtype=torch.float64))) / 2
    torch.testing.assert_close(ProximalMatching(2.0)(f, x), expected)
    wide = 1e3**2 * proximal_matching_loss(f, x, 1e3)  # a wide gamma is the mean square
    assert wide.item() == pytest.approx(4.5, rel=1e-4)


def test_the_schedule_halves_gamma_and_spends_what_it_was_given() -> None:
    stages = matching_schedule(0.1, pretrain=100, updates=40, lr=1e-2)
    assert [stage.gamma for stage in stages] == [None, 0.8, 0.4, 0.2, 0.1]
    assert [stage.updates for stage in stages] == [100, 10, 10, 10, 10]
    assert [stage.lr for stage in stages] == [1e-2] + [1e-3] * 4
    falling = Stage(None, 3, 1e-2, 1e-4)
    assert [falling.lr_at(k) for k in range(3)] == pytest.approx([1e-2, 1e-3, 1e-4])


def test_training_recovers_a_linear_prox() -> None:
    """x ~ N(0, 1), noise 1: mean and mode of p(x | y) are both y / 2."""
    from driftwell.core.noise import Purpose, normal

    def draw(k: int) -> torch.Tensor:
        return normal((256, 1), seed=5, purpose=Purpose.DATA, chains=256, step=k)

    net = LPN((1,), hidden=16, depth=2, seed=0)
    losses = train_denoiser(net, draw, 1.0, [Stage(float("inf"), 400, 2e-2, 1e-3)], seed=1)
    y = torch.linspace(-2, 2, 9)[:, None]
    assert float((net.prox(y) - y / 2).detach().abs().max()) < 0.1
    assert losses[-1] == pytest.approx(0.5, abs=0.2)  # the posterior's variance
    again = LPN((1,), hidden=16, depth=2, seed=0)
    assert losses == train_denoiser(
        again, draw, 1.0, [Stage(float("inf"), 400, 2e-2, 1e-3)], seed=1
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: proximal_matching_loss(torch.zeros(1, 2), torch.zeros(1, 3), 1.0), "one shape"),
        (lambda: ProximalMatching(0.0), "gamma must be positive"),
        (lambda: Stage(-1.0, 1, 1e-3), "gamma must be positive"),
        (lambda: Stage(None, 0, 1e-3), "updates >= 1"),
        (lambda: matching_schedule(0.1, pretrain=1, updates=3), "cannot be split"),
        (lambda: train_denoiser(lpn(), torch.zeros, 0.0, [], seed=0), "sigma must be"),
        (lambda: train_denoiser(lpn(), torch.zeros, 1.0, [], seed=0), "schedule is empty"),
        (lambda: lpn()((torch.zeros(1, 4),)), "one tensor, got tuple"),
        (lambda: lpn().prior(numbers(2, 4), max_steps=0), "max_steps >= 1"),
    ],
)
def test_bad_input_gets_one_sentence(make: object, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make()  # type: ignore[operator]


def test_it_cites_its_paper() -> None:
    assert "2310.14344" in dw.cite(lpn())
