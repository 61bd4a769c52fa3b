"""Learning, adapting and controlling on small devices."""

from driftwell.quantization.edge.cloud_adaptation import (
    AdaptationSettings,
    CloudAdapter,
    TestTimeEntropy,
    affine_parameters,
    batch_statistics,
    load_affine,
)
from driftwell.quantization.edge.sample_filter import FilterState, SampleFilter, entropy_of

__all__ = [
    "AdaptationSettings",
    "CloudAdapter",
    "FilterState",
    "SampleFilter",
    "TestTimeEntropy",
    "affine_parameters",
    "batch_statistics",
    "entropy_of",
    "load_affine",
]
