"""Measures: two-sample metrics, copying, order parameters, chaos, kernels, thermodynamics."""

from __future__ import annotations

from driftwell.measures.activations import (
    Activation,
    HardTanh,
    LeakyReLU,
    Smooth,
)
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
from driftwell.measures.explicit_match import (
    match_explicit,
)
from driftwell.measures.implicit_kernels import (
    ImplicitNetwork,
    deq_gram,
    explicit_conjugate_kernel,
    implicit_conjugate_kernel,
    implicit_tangent_kernel,
)
from driftwell.measures.interactions import (
    ContextualEffects,
    contextual_effects,
    pairwise_interactions,
)
from driftwell.measures.kernel_equivalents import (
    GaussianMixture,
    KernelScalars,
    explicit_scalars,
    implicit_scalars,
    implicit_tangent_scalars,
    kernel_equivalent,
)
from driftwell.measures.neighbours import (
    Copying,
    NearestTraining,
    copying,
    nearest_training_distance,
)
from driftwell.measures.order_parameters import OrderParameters, rs_order_parameters
from driftwell.measures.origin_in_hull import HullDistance, class_hulls, origin_in_hull
from driftwell.measures.residual_spectra import (
    JacobianSpectrum,
    jacobian_singular_values,
    residual_,
    resnet_jacobian_spectrum,
)
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
    "Activation",
    "ContextualEffects",
    "Copying",
    "CovarianceError",
    "GaussianMixture",
    "HardTanh",
    "HullDistance",
    "ImplicitNetwork",
    "JacobianSpectrum",
    "KernelScalars",
    "LeakyReLU",
    "NearestTraining",
    "OrderParameters",
    "Smooth",
    "Susceptibility",
    "aai",
    "class_hulls",
    "contextual_effects",
    "copying",
    "covariance_error",
    "critical_gain",
    "deq_gram",
    "effective_sample_size",
    "energy_distance",
    "explicit_conjugate_kernel",
    "explicit_scalars",
    "format_two_sample_table",
    "gaussian_baseline",
    "implicit_conjugate_kernel",
    "implicit_scalars",
    "implicit_tangent_kernel",
    "implicit_tangent_scalars",
    "jacobian_singular_values",
    "kernel_equivalent",
    "lyapunov_exponents",
    "match_explicit",
    "mmd_rbf",
    "nearest_training_distance",
    "origin_in_hull",
    "pairwise_interactions",
    "random_couplings",
    "residual_",
    "resnet_jacobian_spectrum",
    "rs_order_parameters",
    "sliced_wasserstein",
    "spectral_radius",
    "spectrum",
    "split_rhat",
    "susceptibility",
    "two_sample_table",
    "virial",
]
