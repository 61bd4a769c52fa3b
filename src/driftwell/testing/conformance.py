"""What a conformance suite says when a member of a family breaks its contract."""

from __future__ import annotations

from driftwell.core.errors import DriftwellError


class ConformanceError(DriftwellError, AssertionError):
    """A law, solver, sampler or integrator broke the contract of its family; one sentence."""


def require_that(holds: bool, sentence: str) -> None:
    """Raise `ConformanceError(sentence)` unless `holds`.

    Raises:
        ConformanceError: it does not hold.
    """
    if not holds:
        raise ConformanceError(sentence)
