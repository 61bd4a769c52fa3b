"""Input-convex networks are convex, whatever their parameters."""

from __future__ import annotations

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.nn.convex import InputConvexNetwork

SHAPES = [(5,), (6, 7), (2, 6, 5)]


def points(shape: tuple[int, ...], count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(count, *shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wild", [False, True])
def test_it_is_convex_along_every_chord(shape: tuple[int, ...], wild: bool) -> None:
    psi = InputConvexNetwork(shape, hidden=6, depth=4, seed=2, dtype=torch.float64)
    if wild:  # parameters that no training would give
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in psi.parameters():
                p.copy_(2 * torch.randn(p.shape, dtype=p.dtype, generator=generator))
    a, b = points(shape, 200, 0), points(shape, 200, 1)
    for t in (0.1, 0.5, 0.8):
        with torch.no_grad():
            chord = (1 - t) * psi(a) + t * psi(b)
            slack = chord - psi((1 - t) * a + t * b)
        assert float((slack / (1 + chord.abs())).min()) > -1e-12


def test_convexity_is_added_as_asked() -> None:
    with_it = InputConvexNetwork((5,), 6, convexity=0.3, seed=2, dtype=torch.float64)
    without = InputConvexNetwork((5,), 6, seed=2, dtype=torch.float64)
    y = points((5,), 4, 0)
    torch.testing.assert_close(with_it(y) - without(y), 0.15 * y.square().sum(1))


def test_it_can_be_any_convex_function_that_is_not_monotone() -> None:
    """y -> |y| by least squares: the term <a, y> and signed A make descent possible."""
    psi = InputConvexNetwork((1,), 16, depth=2, sharpness=20.0, seed=1)
    y = torch.linspace(-2, 2, 81)[:, None]
    optimizer = torch.optim.Adam(psi.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        # psi is used through its gradient: a constant is free.
        value = psi(y) - psi(torch.zeros(1, 1))
        loss = (value - y.abs()[:, 0]).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_start_parameters_are_keyed() -> None:
    one, two = (InputConvexNetwork((3,), 4, seed=s) for s in (1, 2))
    again = InputConvexNetwork((3,), 4, seed=1)
    for p, q, r in zip(one.parameters(), again.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.numel() == 3 or not torch.equal(p, r)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"shape": ()}, "the shape of one sample"),
        ({"shape": (3, 0)}, "the shape of one sample"),
        ({"shape": (3,), "depth": 0}, "hidden and depth"),
        ({"shape": (3,), "sharpness": 0.0}, "sharpness must be positive"),
        ({"shape": (3,), "convexity": -1.0}, "convexity must be finite"),
    ],
)
def test_bad_settings_get_one_sentence(settings: dict, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        InputConvexNetwork(**settings)


def test_samples_of_another_shape_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"samples of shape \(3,\), batch first, got \(2, 4\)"):
        InputConvexNetwork((3,), 4)(torch.zeros(2, 4))
