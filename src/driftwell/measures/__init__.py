"""Measures: two-sample metrics, copying, order parameters, chaos and thermodynamics."""

from __future__ import annotations

from driftwell.measures.distances import energy_distance, mmd_rbf, sliced_wasserstein
from driftwell.measures.edge_of_chaos import (
    Susceptibility,
    critical_gain,
    lyapunov_exponents,
    random_couplings,
    spectral_radius,
    spectrum,
    susceptibility,
)
from driftwell.measures.neighbours import (
    Copying,
    NearestTraining,
    copying,
    nearest_training_distance,
)
from driftwell.measures.order_parameters import OrderParameters, rs_order_parameters
from driftwell.measures.thermodynamics import effective_sample_size, split_rhat, virial
from driftwell.measures.two_sample import (
    AAI,
    CovarianceError,
    aai,
    covariance_error,
    gaussian_baseline,
)
from driftwell.measures.two_sample_table import format_two_sample_table, two_sample_table

__all__ = [
    "AAI",
    "Copying",
    "CovarianceError",
    "NearestTraining",
    "OrderParameters",
    "Susceptibility",
    "aai",
    "copying",
    "covariance_error",
    "critical_gain",
    "effective_sample_size",
    "energy_distance",
    "format_two_sample_table",
    "gaussian_baseline",
    "lyapunov_exponents",
    "mmd_rbf",
    "nearest_training_distance",
    "random_couplings",
    "rs_order_parameters",
    "sliced_wasserstein",
    "spectral_radius",
    "spectrum",
    "split_rhat",
    "susceptibility",
    "two_sample_table",
    "virial",
]
