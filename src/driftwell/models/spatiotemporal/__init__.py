"""Models of maps that change in time."""

from driftwell.models.spatiotemporal.representation import (
    PastMaps,
    counts_from_day_totals,
    day_totals,
)
from driftwell.models.spatiotemporal.residual_forecaster import STResNet

__all__ = ["PastMaps", "STResNet", "counts_from_day_totals", "day_totals"]
