"""Fixed points: the verb, its solvers, and how gradients pass through a solve."""

from driftwell.fixed_points.diagnosis import Diagnosis, explain
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.gradients.implicit import Implicit
from driftwell.fixed_points.gradients.one_step import OneStep
from driftwell.fixed_points.gradients.phantom import Phantom
from driftwell.fixed_points.gradients.reversible import Reversible
from driftwell.fixed_points.gradients.shine import SHINE
from driftwell.fixed_points.gradients.unrolled import Unrolled
from driftwell.fixed_points.initial_guess import InitialGuess
from driftwell.fixed_points.iteration import (
    EarlyExit,
    Loop,
    Outcome,
    Problem,
    RunningMap,
    iterate,
)
from driftwell.fixed_points.loops import FixedBudget, WhileLoop
from driftwell.fixed_points.regularization import jacobian_regularization
from driftwell.fixed_points.solvers.anderson import Anderson
from driftwell.fixed_points.solvers.broyden import Broyden
from driftwell.fixed_points.solvers.forward_backward import ForwardBackward
from driftwell.fixed_points.solvers.learned_anderson import LearnedAnderson
from driftwell.fixed_points.solvers.learned_anderson_lesson import (
    LearnedStart,
    SolverLesson,
    fit_learned_anderson,
)
from driftwell.fixed_points.solvers.newton_krylov import NewtonKrylov
from driftwell.fixed_points.solvers.peaceman_rachford import PeacemanRachford
from driftwell.fixed_points.solvers.picard import Picard
from driftwell.fixed_points.solvers.solver import Solver
from driftwell.fixed_points.verb import fixed_point
from driftwell.fixed_points.warm_start import WarmStart

__all__ = [
    "SHINE",
    "Anderson",
    "Broyden",
    "Diagnosis",
    "EarlyExit",
    "FixedBudget",
    "ForwardBackward",
    "Gradient",
    "Implicit",
    "InitialGuess",
    "LearnedAnderson",
    "LearnedStart",
    "Loop",
    "NewtonKrylov",
    "OneStep",
    "Outcome",
    "PeacemanRachford",
    "Phantom",
    "Picard",
    "Problem",
    "Reversible",
    "RunningMap",
    "Solver",
    "SolverLesson",
    "Unrolled",
    "WarmStart",
    "WhileLoop",
    "explain",
    "fit_learned_anderson",
    "fixed_point",
    "iterate",
    "jacobian_regularization",
]
