"""The equilibrium classifier: its bound holds, its state is unique, its gradient is exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput, NotConverged
from driftwell.core.status import Status
from driftwell.dynamics.linearization import spectral_radius
from driftwell.fixed_points import Anderson, Implicit, Picard, Unrolled, fixed_point
from driftwell.models.equilibrium.classifier import ACTIVATIONS, DEQClassifier, TiedLayer


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(width: int = 12, **changes: object) -> DEQClassifier:
    """A classifier in float64 whose W_0 is far beyond its bound."""
    settings = {"dtype": torch.float64, "tol": 1e-13, "max_steps": 2000, "seed": 3}
    model = DEQClassifier(6, width, 4, **{**settings, **changes})  # type: ignore[arg-type]
    with torch.no_grad():
        model.W_0.mul_(6.0)
    return model


@pytest.mark.parametrize("bound", [0.3, 0.9, 0.99])
def test_the_bound_holds_whatever_the_weights_are(bound: float) -> None:
    model = made(bound=bound)
    norm = torch.linalg.matrix_norm
    assert norm(model.couplings(), 2).item() == pytest.approx(bound, rel=1e-12)
    with torch.no_grad():
        model.W_0.mul_(1e-3)
    assert torch.equal(model.couplings(), model.W_0), "inside its ball W is left as it is"
    assert torch.equal(made(bound=None).couplings(), made(bound=None).W_0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_plain_iteration_forgets_its_start_at_the_rate_of_the_bound(activation: str) -> None:
    model = made(activation=activation, bound=0.8)
    law, x = model.layer(), model.inject(random(5, 6))
    a, b = 10 * random(5, 12, seed=1), 10 * random(5, 12, seed=2)
    for _ in range(20):
        before = (a - b).norm(dim=1)
        a, b = law(a, x), law(b, x)
        assert bool(((a - b).norm(dim=1) <= 0.8 * before + 1e-15).all())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_state_rests_and_is_the_only_one(activation: str) -> None:
    model = made(activation=activation)
    x = random(7, 6)
    with torch.no_grad():
        logits, found = model(x)
        law, driven = model.layer(), model.inject(x)
        z = found.z
        assert float((law(z, driven) - z).norm()) < 1e-11
        other = fixed_point(law, 30 * random(7, 12, seed=5), driven, solver=Picard(), tol=1e-13,
                            max_steps=2000).z  # fmt: skip
        assert torch.allclose(z, other, atol=1e-10)
        assert torch.allclose(logits, z @ model.V.T + model.c)
        assert float(spectral_radius(law, z, driven).max()) <= 0.9


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    model, x = made(), random(6, 6)
    with torch.no_grad():
        together, alone = model(x)[0], torch.cat([model(row[None])[0] for row in x])
    assert torch.allclose(together, alone, atol=1e-11)


def loss_of(model: DEQClassifier, x: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(model(x)[0], torch.arange(len(x)) % 4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_implicit_gradient_is_that_of_unrolling(activation: str) -> None:
    x, found = random(5, 6), []
    for gradient in (Implicit(tol=1e-13, max_steps=2000), Unrolled()):
        model = made(activation=activation, gradient=gradient, solver=Picard())
        found.append(torch.autograd.grad(loss_of(model, x), list(model.parameters())))
    for a, b in zip(*found, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-8


def test_the_gradient_is_that_of_finite_differences_through_the_bound_too() -> None:
    model, x = made(gradient=Implicit(tol=1e-13, max_steps=2000)), random(4, 6)
    gradient = torch.autograd.grad(loss_of(model, x), model.W_0)[0]
    step, direction = 1e-5, random(12, 12, seed=9)
    values = []
    for sign in (1, -1):
        moved = made()
        with torch.no_grad():
            moved.W_0.add_(sign * step * direction)
            values.append(float(loss_of(moved, x)))
    measured = (values[0] - values[1]) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(measured, rel=1e-5)


def test_the_penalty_is_the_mean_square_of_the_jacobian() -> None:
    """|J|_F^2 / width: 4,000 probes on three samples leave less than 5 % of doubt."""
    model, x = made(width=5, activation="tanh"), random(3, 6)
    with torch.no_grad():
        z, driven = model(x)[1].z, model.inject(x)
    slope = 1 - torch.tanh(z @ model.couplings().T + driven).square()
    frobenius = (slope[:, :, None] * model.couplings()).square().sum((1, 2)).mean() / 5
    many = x.repeat(4000, 1)
    penalty = model.jacobian_penalty(many, z.repeat(4000, 1), seed=0)
    assert float((penalty / frobenius).detach()) == pytest.approx(1.0, abs=0.05)
    (by,) = torch.autograd.grad(penalty, model.W_0)
    assert float(by.norm()) > 0


def test_a_free_layer_that_does_not_settle_says_so() -> None:
    model = made(bound=None, activation="tanh", max_steps=30, tol=1e-12, solver=Picard())
    with torch.no_grad():
        model.W_0.mul_(5.0)
        found = model(random(4, 6))[1]
        assert bool((found.status == int(Status.BUDGET_REACHED)).all())
        with pytest.raises(NotConverged, match="4 of 4 samples failed"):
            model(random(4, 6), throw=True)


def test_the_same_seed_gives_the_same_weights() -> None:
    a, b, c = (DEQClassifier(6, 8, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.W_0, b.W_0)
    assert not torch.equal(a.W_0, c.W_0)


def test_images_are_flattened() -> None:
    model = DEQClassifier(16, 8, 3, solver=Anderson())
    assert model(torch.zeros(2, 4, 4))[0].shape == (2, 3)
    with pytest.raises(InvalidInput, match="takes inputs of 16 entries, got 9"):
        model(torch.zeros(2, 3, 3))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bound": 1.0}, r"bound must lie in \(0, 1\)"),
        ({"bound": 0.0}, r"bound must lie in \(0, 1\)"),
        ({"activation": "sine"}, "activation must be one of tanh, relu, got 'sine'"),
        ({"width": 0}, "at least 1 and 2 classes, got inputs=6, width=0"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        made(**changes)  # type: ignore[arg-type]


def test_a_layer_is_one_application() -> None:
    W = random(3, 3)
    z, x = random(2, 3, seed=1), random(2, 3, seed=2)
    assert torch.allclose(TiedLayer(W, "relu")(z, x), (z @ W.T + x).clamp(min=0))
