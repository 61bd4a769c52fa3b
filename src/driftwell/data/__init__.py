"""Images, graphs and texts to learn from: readers, seeded generators, invertible scalings."""

from __future__ import annotations

from driftwell.data.detection_scenes import DetectionScenes, detection_scenes
from driftwell.data.event_counts import EventCounts, event_counts
from driftwell.data.generators import gaussian_mixture_ring, two_moons
from driftwell.data.graph_generators import (
    resistor_network,
    stochastic_block_model,
    value_iteration_graph,
)
from driftwell.data.graphs import Graph, edges_of, side_by_side, undirected
from driftwell.data.images import ImageSet
from driftwell.data.planetoid import read_planetoid
from driftwell.data.sources import Split, load, read
from driftwell.data.texts import Characters, generated_text, read_text, windows
from driftwell.data.transforms import (
    AtanhScaling,
    PlainScaling,
    Scaling,
    Transform,
    scaling_from_config,
)
from driftwell.data.tu import read_tu
from driftwell.data.whitening import Whitening

__all__ = [
    "AtanhScaling",
    "Characters",
    "DetectionScenes",
    "EventCounts",
    "Graph",
    "ImageSet",
    "PlainScaling",
    "Scaling",
    "Split",
    "Transform",
    "Whitening",
    "detection_scenes",
    "edges_of",
    "event_counts",
    "gaussian_mixture_ring",
    "generated_text",
    "load",
    "read",
    "read_planetoid",
    "read_text",
    "read_tu",
    "resistor_network",
    "scaling_from_config",
    "side_by_side",
    "stochastic_block_model",
    "two_moons",
    "undirected",
    "value_iteration_graph",
    "windows",
]
