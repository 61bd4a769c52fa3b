"""Seeded point clouds in the plane, with known laws: for tests, examples and plots."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, uniform

__all__ = ["gaussian_mixture_ring", "two_moons"]


def gaussian_mixture_ring(
    n: int, seed: int, *, modes: int = 8, radius: float = 2.0, scale: float = 0.1
) -> Tensor:
    """Points of an even mixture of round Gaussians on a ring.

        x_i = radius (cos a_k, sin a_k) + scale N(0, I),    a_k = 2 pi k / modes,  k = i mod modes

    Point i belongs to mode i mod `modes`, and is the same for every n > i.

    Args:
        n: how many points, >= 1.
        seed: of the keyed noise.
        modes: how many Gaussians, >= 1.
        radius: of the ring.
        scale: standard deviation of each Gaussian, >= 0.

    Returns:
        (n, 2) float32.

    Raises:
        InvalidInput: fewer than one point or mode, or a negative scale.

    Example:
        >>> gaussian_mixture_ring(5, seed=0, modes=4, scale=0.0).round() + 0.0
        tensor([[ 2.,  0.],
                [ 0.,  2.],
                [-2.,  0.],
                [ 0., -2.],
                [ 2.,  0.]])
    """
    _check(n, scale)
    if modes < 1:
        raise InvalidInput(f"a mixture needs at least one mode, not {modes}")
    angle = (torch.arange(n) % modes).double() * (2.0 * math.pi / modes)
    centre = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    noise = normal((n, 2), seed=seed, purpose=Purpose.DATA, chains=n, step=1, dtype=torch.float64)
    return (centre + scale * noise).float()


def two_moons(n: int, seed: int, *, noise: float = 0.1) -> Tensor:
    """Points of two interleaved half circles, with Gaussian noise.

        even i: (cos a, sin a);  odd i: (1 - cos a, 1/2 - sin a);  a uniform on (0, pi)

    Point i lies on moon i mod 2, and is the same for every n > i.

    Args:
        n: how many points, >= 1.
        seed: of the keyed noise.
        noise: standard deviation of what is added to each coordinate, >= 0.

    Returns:
        (n, 2) float32.

    Raises:
        InvalidInput: fewer than one point, or a negative noise.

    Example:
        >>> points = two_moons(1000, seed=0, noise=0.0)
        >>> points[0::2].norm(dim=1).min() > 0.999
        tensor(True)
    """
    _check(n, noise)
    angle = math.pi * uniform(
        (n,), seed=seed, purpose=Purpose.DATA, chains=n, step=2, dtype=torch.float64
    )
    other = (torch.arange(n) % 2 == 1)[:, None]
    even = torch.stack([angle.cos(), angle.sin()], dim=1)
    odd = torch.stack([1.0 - angle.cos(), 0.5 - angle.sin()], dim=1)
    blur = normal((n, 2), seed=seed, purpose=Purpose.DATA, chains=n, step=3, dtype=torch.float64)
    return (torch.where(other, odd, even) + noise * blur).float()


def _check(n: int, scale: float) -> None:
    if n < 1:
        raise InvalidInput(f"at least one point must be asked for, not {n}")
    if not scale >= 0.0:
        raise InvalidInput(f"a standard deviation cannot be negative, got {scale:g}")
