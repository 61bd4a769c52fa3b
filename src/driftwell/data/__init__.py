"""Images to learn from: readers, seeded generators and invertible scalings; no downloads."""

from __future__ import annotations

from driftwell.data.generators import gaussian_mixture_ring, two_moons
from driftwell.data.images import ImageSet
from driftwell.data.sources import Split, load, read
from driftwell.data.transforms import (
    AtanhScaling,
    PlainScaling,
    Scaling,
    Transform,
    scaling_from_config,
)
from driftwell.data.whitening import Whitening

__all__ = [
    "AtanhScaling",
    "ImageSet",
    "PlainScaling",
    "Scaling",
    "Split",
    "Transform",
    "Whitening",
    "gaussian_mixture_ring",
    "load",
    "read",
    "scaling_from_config",
    "two_moons",
]
