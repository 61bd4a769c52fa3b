"""Optimizers: heavy ball, smoothed gradients, implicit steps."""

from driftwell.learning.optimizers.backward_euler import BackwardEuler
from driftwell.learning.optimizers.heavy_ball import HeavyBall
from driftwell.learning.optimizers.laplacian_smoothing import (
    LaplacianSmoothing,
    laplacian_smooth,
    white_noise_factor,
)

__all__ = [
    "BackwardEuler",
    "HeavyBall",
    "LaplacianSmoothing",
    "laplacian_smooth",
    "white_noise_factor",
]
