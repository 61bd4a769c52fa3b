"""The multiscale equilibrium classifier: its fixed point, its gradient, its memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.core.state import detach, flatten
from driftwell.fixed_points import Implicit, Picard, Unrolled, jacobian_regularization
from driftwell.models.equilibrium.multiscale import MultiscaleDEQ


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def model(channels: tuple[int, ...] = (4, 4, 8), **settings: object) -> MultiscaleDEQ:
    exact = {"tol": 1e-12, "gradient": Implicit(tol=1e-13, max_steps=300), "max_steps": 400}
    return MultiscaleDEQ(1, channels, 3, seed=2, dtype=torch.float64, **(exact | settings))


def test_the_states_of_all_resolutions_stand_still_together() -> None:
    m, x = model(tol=1e-6), images(2, 1, 8, 8)
    logits, found = m(x, throw=True)
    assert [tuple(z.shape) for z in found.z] == [(2, 4, 8, 8), (2, 4, 4, 4), (2, 8, 2, 2)]
    value, z = flatten(m.layer(found.z, m.inject(x))).detach(), flatten(found.z).detach()
    residual = (value - z).norm(dim=1) / value.norm(dim=1)
    torch.testing.assert_close(residual, found.residual, rtol=1e-3, atol=0.0)
    assert float(residual.max()) <= 1e-6
    assert logits.shape == (2, 3)


def test_resolutions_exchange_what_they_hold() -> None:
    """Each resolution's value depends on the state of every other."""
    m, x = model(), images(1, 1, 8, 8)
    injected = m.inject(x)
    for j in range(3):
        z = [torch.zeros_like(each).requires_grad_(True) for each in injected]
        value = m.layer(tuple(z), injected)[j]
        grads = torch.autograd.grad(value.pow(3).sum(), z)
        assert all(float(g.abs().max()) > 0 for g in grads)


def test_gradient_is_that_of_unrolling() -> None:
    # One image for which both solvers find the same equilibrium: the second of these has several.
    x, grads = images(2, 1, 4, 4)[:1], []
    for how in ({}, {"gradient": Unrolled(), "solver": Picard(), "max_steps": 250, "tol": 1e-14}):
        m = model((4, 4), **how)
        m(x)[0].pow(2).sum().backward()
        grads.append([p.grad for p in m.parameters()])
    scale = max(float(b.norm()) for b in grads[1])
    assert max(float((a - b).norm()) for a, b in zip(*grads, strict=True)) < 1e-8 * scale


def test_memory_does_not_grow_with_the_steps() -> None:
    def saved(**settings: object) -> int:
        held: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            held[t.data_ptr()] = t.nbytes
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            kept = model((4, 4), **settings)(images(2, 1, 8, 8))
        assert kept[0].requires_grad
        return sum(held.values())

    few, many = (saved(tol=0.0, max_steps=steps) for steps in (4, 16))
    plain_few, plain_many = (
        saved(tol=0.0, max_steps=steps, gradient=Unrolled(), solver=Picard()) for steps in (4, 16)
    )
    assert few == many
    assert plain_many > 3 * plain_few


def test_it_learns_to_tell_bars_from_blobs() -> None:
    """Two classes of generated pictures; with the Jacobian penalty the states still rest."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    x = 0.1 * torch.rand(64, 1, 8, 8, generator=g)
    for image, label in zip(x, labels, strict=True):
        row, column = (int(torch.randint(1, 6, (), generator=g)) for _ in range(2))
        if label:
            image[0, row, :] += 1.0
        else:
            image[0, row : row + 2, column : column + 2] += 1.0
    m = MultiscaleDEQ(1, (4, 8), 2, seed=0)
    optimizer = torch.optim.Adam(m.parameters(), lr=0.01)
    for step in range(14):
        logits, found = m(x)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        z = detach(found.z)
        penalty = jacobian_regularization(m.layer, z, m.inject(x), seed=0, step=step)
        loss = loss + penalty.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits, found = m(x)
    assert float((logits.argmax(1) == labels).double().mean()) > 0.95
    assert float(found.residual.max()) <= 1e-4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((1, (), 3), "at least one resolution"),
        ((1, (6,), 3), "groups=4 must divide"),
        ((1, (4,), 1), "2 classes"),
    ],
)
def test_bad_settings_get_one_sentence(arguments: tuple, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        MultiscaleDEQ(*arguments)


def test_images_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(InvalidInput, match="multiples of 4"):
        model()(images(1, 1, 6, 8))


def test_it_leaves_the_global_random_state_alone_and_cites_its_paper() -> None:
    before = torch.get_rng_state()
    made = model()
    assert torch.equal(before, torch.get_rng_state())
    assert "2006.08656" in dw.cite(made)
