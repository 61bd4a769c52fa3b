"""Testing: conformance suites to run on one's own laws, solvers, samplers and integrators."""

from driftwell.testing.conformance import ConformanceError
from driftwell.testing.fields import check_field
from driftwell.testing.integrators import check_integrator
from driftwell.testing.maps import check_map
from driftwell.testing.samplers import check_energy, check_sampler
from driftwell.testing.solvers import check_solver

__all__ = [
    "ConformanceError",
    "check_energy",
    "check_field",
    "check_integrator",
    "check_map",
    "check_sampler",
    "check_solver",
]
