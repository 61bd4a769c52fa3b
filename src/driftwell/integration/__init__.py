"""Integration: the verb, its integrators, step-size control, and Brownian paths."""

from driftwell.integration.brownian import Brownian
from driftwell.integration.integrators.dormand_prince import DormandPrince
from driftwell.integration.integrators.euler import Euler
from driftwell.integration.integrators.euler_maruyama import EulerMaruyama
from driftwell.integration.integrators.heun import Heun
from driftwell.integration.integrators.integrator import Integrator
from driftwell.integration.integrators.rk4 import RK4
from driftwell.integration.integrators.stochastic_heun import StochasticHeun
from driftwell.integration.step_control import AdaptiveStep, ConstantStep
from driftwell.integration.verb import integrate

__all__ = [
    "RK4",
    "AdaptiveStep",
    "Brownian",
    "ConstantStep",
    "DormandPrince",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Integrator",
    "StochasticHeun",
    "integrate",
]
