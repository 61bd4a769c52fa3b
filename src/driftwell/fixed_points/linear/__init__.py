"""Linear systems A z = b for a batch, matrix-free: the adjoint's and Newton's inner problem."""

from driftwell.fixed_points.linear.conjugate_gradient import ConjugateGradient
from driftwell.fixed_points.linear.deep_conjugate import (
    DeepConjugateDirection,
    PyramidNet,
    ritz_vectors,
    train_directions,
)
from driftwell.fixed_points.linear.gmres import GMRES
from driftwell.fixed_points.linear.neumann import Neumann
from driftwell.fixed_points.linear.solver import LinearSolver
from driftwell.fixed_points.linear.verb import LinearSolution, solve_linear

__all__ = [
    "GMRES",
    "ConjugateGradient",
    "DeepConjugateDirection",
    "LinearSolution",
    "LinearSolver",
    "Neumann",
    "PyramidNet",
    "ritz_vectors",
    "solve_linear",
    "train_directions",
]
