"""Thermodynamic statistics of chains: virial, effective sample size, split R-hat.

They live in the room of the samplers, which use them on every run.
"""

from __future__ import annotations

from driftwell.sampling.statistics import effective_sample_size, split_rhat, virial

__all__ = ["effective_sample_size", "split_rhat", "virial"]
