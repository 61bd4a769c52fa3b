"""Fixed points: the verb, its solvers, and how gradients pass through a solve."""

from driftwell.fixed_points.diagnosis import Diagnosis, explain
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.implicit import Implicit
from driftwell.fixed_points.gradients.unrolled import Unrolled
from driftwell.fixed_points.iteration import (
    EarlyExit,
    Loop,
    Outcome,
    Problem,
    RunningMap,
    iterate,
)
from driftwell.fixed_points.loops import FixedBudget, WhileLoop
from driftwell.fixed_points.solvers.anderson import Anderson
from driftwell.fixed_points.solvers.picard import Picard
from driftwell.fixed_points.solvers.solver import Solver
from driftwell.fixed_points.verb import fixed_point

__all__ = [
    "Anderson",
    "Diagnosis",
    "EarlyExit",
    "FixedBudget",
    "Gradient",
    "Implicit",
    "Loop",
    "Outcome",
    "Picard",
    "Problem",
    "RunningMap",
    "Solver",
    "Unrolled",
    "WhileLoop",
    "explain",
    "fixed_point",
    "iterate",
]
