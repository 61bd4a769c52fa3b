"""What the claims on learned proximal networks compare with: quadrature against known answers."""

from __future__ import annotations

import pytest
import torch

from driftwell.claims.proximal.deblurring import _blur, bumps
from driftwell.claims.proximal.laplace import laplace, matching_minimiser, posterior_mean


def test_the_posterior_mean_is_the_cards() -> None:
    mean = posterior_mean(torch.tensor([0.9, 2.0, 3.0, -2.0]))
    assert mean.tolist() == pytest.approx([0.448, 1.161, 2.026, -1.161], abs=1e-3)


def test_the_minimiser_of_proximal_matching_goes_from_the_mean_to_the_mode() -> None:
    assert matching_minimiser(0.9, 100.0) == pytest.approx(0.448, abs=2e-3)
    falling = [matching_minimiser(0.9, gamma) for gamma in (0.5, 0.1)]
    assert falling == pytest.approx([0.272, 0.091], abs=2e-3)
    assert matching_minimiser(2.0, 0.1) == pytest.approx(1.0, abs=2e-3)


def test_laplace_samples_have_its_moments() -> None:
    x = torch.cat([laplace(3, k) for k in range(50)]).double()
    assert abs(float(x.mean())) < 0.02
    assert float(x.abs().mean()) == pytest.approx(1.0, abs=0.02)
    assert float(x.square().mean()) == pytest.approx(2.0, abs=0.1)


def test_the_blur_keeps_a_constant_and_enlarges_nothing() -> None:
    A = _blur()
    torch.testing.assert_close(A @ torch.ones(32, dtype=A.dtype), torch.ones(32, dtype=A.dtype))
    assert float(torch.linalg.matrix_norm(A, 2)) == pytest.approx(1.0, abs=1e-12)
    assert 0 < float(bumps(100, 0, 0).max()) < 2
