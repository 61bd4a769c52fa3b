"""Checks that recipes share, and the solvers and gradients that they call by name."""

from __future__ import annotations

from dataclasses import replace

from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Anderson, Gradient, Implicit, Picard, Solver, Unrolled
from driftwell.fixed_points.gradients.one_step import OneStep
from driftwell.fixed_points.gradients.phantom import Phantom
from driftwell.fixed_points.solvers.broyden import Broyden
from driftwell.fixed_points.solvers.newton_krylov import NewtonKrylov

DECAYS = ("constant", "cosine")
SOLVERS: dict[str, Solver] = {
    "anderson": Anderson(),
    "broyden": Broyden(),
    "newton-krylov": NewtonKrylov(),
    "picard": Picard(),
}
GRADIENTS: dict[str, Gradient] = {
    "implicit": Implicit(),
    "one-step": OneStep(),
    "phantom": Phantom(),
    "unrolled": Unrolled(),
}


def solver_of(name: str) -> Solver:
    """The solver of that name, with its default settings.

    Raises:
        InvalidInput: no such solver.
    """
    check_choice("solver", name, tuple(SOLVERS))
    return SOLVERS[name]


def gradient_of(name: str, tol: float, max_steps: int = 100) -> Gradient:
    """The gradient of that name, `tol` and `max_steps` being those of the implicit one.

    Raises:
        InvalidInput: no such gradient.
    """
    check_choice("gradient", name, tuple(GRADIENTS))
    found = GRADIENTS[name]
    return replace(found, tol=tol, max_steps=max_steps) if isinstance(found, Implicit) else found


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise one sentence unless the setting is one of the choices."""
    if value not in choices:
        raise InvalidInput(f"recipe: {name} must be one of {', '.join(choices)}, got {value!r}")


def check_whole(name: str, value: int) -> None:
    """Raise one sentence unless the setting is at least 1."""
    if value < 1:
        raise InvalidInput(f"recipe: {name} must be at least 1, got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Raise one sentence unless the setting is 0 or more, and finite."""
    if not 0.0 <= value < float("inf"):
        raise InvalidInput(f"recipe: {name} must not be negative, got {value}")


def check_above(name: str, value: float) -> None:
    """Raise one sentence unless the setting is positive and finite."""
    if not 0.0 < value < float("inf"):
        raise InvalidInput(f"recipe: {name} must be positive, got {value}")
