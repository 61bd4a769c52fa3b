"""Bricks: layers and small networks."""

from driftwell.nn.convex import InputConvexNetwork
from driftwell.nn.monotone import Clamp, MonotoneLaw, MonotoneLayer, Prox, SoftThreshold
from driftwell.nn.normalized import (
    PowerSpectralBound,
    RowSumBound,
    SpectralBound,
    project_l1_ball,
)
from driftwell.nn.rotary import RotaryEmbedding, cluster_geometry
from driftwell.nn.variational_dropout import VariationalDropout

__all__ = [
    "Clamp",
    "InputConvexNetwork",
    "MonotoneLaw",
    "MonotoneLayer",
    "PowerSpectralBound",
    "Prox",
    "RotaryEmbedding",
    "RowSumBound",
    "SoftThreshold",
    "SpectralBound",
    "VariationalDropout",
    "cluster_geometry",
    "project_l1_ball",
]
