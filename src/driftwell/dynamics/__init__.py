"""Dynamics: the laws of motion, conversions between them, and their linearisation."""

from driftwell.dynamics.conversions import EulerMap, OverdampedField, ResidualField
from driftwell.dynamics.laws import (
    Energy,
    FunctionEnergy,
    FunctionField,
    Map,
    OverdampedPlan,
    VectorField,
    as_energy,
    as_field,
)
from driftwell.dynamics.linearization import (
    jacobian_vector,
    ritz_values,
    spectral_radius,
    vector_jacobian,
)
from driftwell.dynamics.speed import SpeedEnergy

__all__ = [
    "Energy",
    "EulerMap",
    "FunctionEnergy",
    "FunctionField",
    "Map",
    "OverdampedField",
    "OverdampedPlan",
    "ResidualField",
    "SpeedEnergy",
    "VectorField",
    "as_energy",
    "as_field",
    "jacobian_vector",
    "ritz_values",
    "spectral_radius",
    "vector_jacobian",
]
